"""What every multimodal model keeps: attention, order of tiles, company in a batch, missing tables, the disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from models.multimodal.tables import BOTH, patients, pick, with_values

from histostudy.models.io import load_model, save_model
from histostudy.models.model import MILModel

HEAD = {"kind": "classification", "classes": ["a", "b"]}
MODELS = [
    ("snn", {"width": 8, "blocks": 2}, "concat"),
    ("mcat", {"hidden": 8, "heads": 2, "feedforward": 16}, "concat"),
    ("motcat", {"hidden": 8, "heads": 2, "feedforward": 16}, "concat"),
    ("motcat", {"hidden": 8, "heads": 2, "feedforward": 16, "normalise": True}, "concat"),
    ("survpath", {"hidden": 8, "width": 6, "output": 7}, "concat"),
    ("abmil", {"hidden": 8, "attention": 4}, "concat"),
    ("abmil", {"hidden": 8, "attention": 4}, "bilinear"),
    ("mean", {}, "bilinear"),
]
each_model = pytest.mark.parametrize(("name", "options", "fusion"), MODELS, ids=lambda value: str(value)[:24])


def build(name: str, options: dict, fusion: str, double: bool = True) -> MILModel:
    torch.manual_seed(3)
    model = MILModel(5, name, options, HEAD, BOTH, fusion)
    torch.nn.init.normal_(model.head.linear.weight)
    return (model.double() if double else model).eval()


@each_model
def test_attention_sums_to_one_in_each_bag(name: str, options: dict, fusion: str) -> None:
    model, batch = build(name, options, fusion), patients([4, 1, 7], missing=(2,))
    raw, attention = model(batch)
    assert raw.shape == (3, 2)
    if attention is None:
        assert name in {"snn", "mean"}
        return
    sums = torch.zeros(3, dtype=torch.float64).index_add(0, batch.segments, attention.double())
    assert torch.allclose(sums, torch.ones_like(sums), atol=1e-9)
    assert (attention >= 0).all()


@each_model
def test_the_order_of_tiles_does_not_matter(name: str, options: dict, fusion: str) -> None:
    model, batch = build(name, options, fusion), patients([6, 9])
    turned = torch.cat([torch.randperm(6), 6 + torch.randperm(9)])
    raw, attention = model(batch)
    again, turned_attention = model(batch.with_features(batch.features[turned]))
    assert torch.allclose(raw, again, atol=1e-10)
    if attention is not None:
        assert torch.allclose(attention[turned], turned_attention, atol=1e-10)


@each_model
def test_a_patient_alone_is_the_patient_in_a_batch(name: str, options: dict, fusion: str) -> None:
    model, batch = build(name, options, fusion), patients([3, 40, 1, 8], missing=(2,))
    raw, attention = model(batch)
    for i in range(4):
        alone, own = model(pick(batch, [i]))
        assert torch.allclose(alone[0], raw[i], atol=1e-9)
        if attention is not None:
            assert torch.allclose(own, attention[batch.segments == i], atol=1e-9)
    assert torch.allclose(model(pick(batch, [3, 1]))[0], raw[[3, 1]], atol=1e-9)


@each_model
def test_values_of_a_missing_table_reach_nothing_and_its_learned_vector_is_trained(
    name: str, options: dict, fusion: str
) -> None:
    model, batch = build(name, options, fusion), patients([4, 6, 2], missing=(1,))
    wrong = batch.modalities["rna"].values.clone()
    wrong[1] = 1e6
    raw = model(batch)[0]
    assert torch.equal(raw, model(with_values(batch, "rna", wrong))[0])
    torch.nn.functional.cross_entropy(raw, torch.tensor([0, 1, 0])).backward()
    learned = {n: p.grad for n, p in model.named_parameters() if n.endswith("missing")}
    assert len(learned) == 2
    assert any(g is not None and g.abs().sum() > 0 for g in learned.values())
    all_missing = patients([4, 6], missing=(0, 1))
    assert torch.isfinite(model(all_missing)[0]).all()


@each_model
def test_a_table_changes_the_prediction(name: str, options: dict, fusion: str) -> None:
    model, batch = build(name, options, fusion), patients([4, 6])
    other = batch.modalities["rna"].values.flip(0)
    assert (model(batch)[0] - model(with_values(batch, "rna", other))[0]).abs().max() > 1e-4


@each_model
def test_a_saved_model_predicts_the_same(name: str, options: dict, fusion: str, tmp_path: Path) -> None:
    model = build(name, options, fusion, double=False)
    save_model(tmp_path / "w.safetensors", model)
    again, _ = load_model(tmp_path / "w.safetensors")
    batch = patients([4, 2], missing=(0,))
    batch = batch.with_features(batch.features.float())
    with torch.no_grad():
        assert torch.equal(model(batch)[0], again(batch)[0])


@each_model
def test_bfloat16_training_is_finite(name: str, options: dict, fusion: str) -> None:
    model, batch = build(name, options, fusion, double=False).train(), patients([4, 2], missing=(0,))
    batch = batch.with_features(batch.features.float())
    with torch.autocast("cpu", torch.bfloat16):
        raw, attention = model(batch)
    raw.sum().backward()
    assert torch.isfinite(raw).all()
    assert attention is None or attention.dtype == torch.float32
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@each_model
def test_evaluation_draws_no_random_number(name: str, options: dict, fusion: str) -> None:
    model, batch = build(name, options, fusion), patients([4, 6])
    before = torch.get_rng_state()
    assert torch.equal(model(batch)[0], model(batch)[0])
    assert torch.equal(before, torch.get_rng_state())
