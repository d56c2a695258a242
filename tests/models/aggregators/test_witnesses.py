"""What CLAM, DSMIL, Self-ViT-MIL, DTFD and ILRA have in common: bags, heads, recipes' tokens, and a planted witness."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from models.aggregators.witnesses import HEADS, auroc, head_loss, outcomes, step_loss, trained, witnessed
from torch import Tensor

from histostudy.models.attention import AttentionAggregator
from histostudy.models.batch import BagBatch, segment_sum
from histostudy.models.io import load_model, save_model
from histostudy.models.model import MILModel
from histostudy.models.registry import build_aggregator

#: Every model, with options that reach its branches.
MODELS: list[tuple[str, dict[str, Any]]] = [
    ("clam_sb", {}),
    ("clam_mb", {"subtyping": True}),
    ("dsmil", {}),
    ("dsmil", {"value": "relu", "prediction": "bag"}),
    ("self_vit_mil", {}),
    ("dtfd", {}),
    ("dtfd", {"distill": "max_min", "joint": True}),
    ("dtfd", {"distill": "max"}),
    ("ilra", {"latents": 3}),
    ("ilra", {"norm": False}),
]
every_model = pytest.mark.parametrize(
    ("name", "options"), MODELS, ids=["-".join([name, *map(str, options.values())]) for name, options in MODELS]
)
LENGTHS = (1, 2, 3, 7, 40)


def bags_of(*lengths: int, dim: int = 6, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, dim, generator=generator, dtype=torch.float64) for n in lengths]


def aggregator(name: str, options: dict[str, Any], outputs: int = 3) -> AttentionAggregator:
    torch.manual_seed(0)
    model = build_aggregator(name, 6, options, outputs=outputs).double()
    assert isinstance(model, AttentionAggregator)
    return model


@every_model
@torch.no_grad()
def test_who_else_is_in_the_batch_does_not_matter(name: str, options: dict[str, Any]) -> None:
    model, bags = aggregator(name, options).eval(), bags_of(*LENGTHS)
    together, attention = model(BagBatch.pack(bags))
    alone = [model(BagBatch.pack([bag])) for bag in bags]
    torch.testing.assert_close(together, torch.cat([vectors for vectors, _ in alone]))
    torch.testing.assert_close(attention, torch.cat([own for _, own in alone]))
    assert together.shape == (len(bags), model.dim_out)


@every_model
@torch.no_grad()
def test_maps_sum_to_one_and_contributions_to_the_vector(name: str, options: dict[str, Any]) -> None:
    model, batch = aggregator(name, options).eval(), BagBatch.pack(bags_of(*LENGTHS))
    tokens = batch.with_features(model.embed(batch.features))
    assert tokens.features.shape[1] == model.width
    pooled = model.pool(tokens)
    torch.testing.assert_close(segment_sum(pooled.maps, batch), torch.ones(5, pooled.maps.shape[1]).double())
    parts = model.contributions(tokens, pooled)
    assert (parts is None) == (name == "ilra" or options.get("distill") in ("max", "max_min"))
    if parts is not None:
        torch.testing.assert_close(segment_sum(parts, batch), pooled.vectors)


@every_model
@torch.no_grad()
def test_the_order_of_tiles_matters_to_dtfd_alone(name: str, options: dict[str, Any]) -> None:
    model, bags = aggregator(name, options).eval(), bags_of(12, 25)
    orders = [torch.randperm(len(bag), generator=torch.Generator().manual_seed(3)) for bag in bags]
    one, first = model(BagBatch.pack(bags))
    two, second = model(BagBatch.pack([bag[order] for bag, order in zip(bags, orders, strict=True)]))
    same = torch.cat([a[order] for a, order in zip(first.split([12, 25]), orders, strict=True)])
    assert torch.allclose(one, two, atol=1e-10) == (name != "dtfd")
    assert torch.allclose(same, second, atol=1e-10) == (name != "dtfd")


@every_model
@torch.no_grad()
def test_evaluation_draws_nothing(name: str, options: dict[str, Any]) -> None:
    model, batch = aggregator(name, options).eval(), BagBatch.pack(bags_of(*LENGTHS))
    before = torch.random.get_rng_state()
    one, two = model(batch)[0], model(batch)[0]
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(one, two)


@every_model
@pytest.mark.parametrize("kind", list(HEADS))
def test_every_head_trains_it_whatever_the_size_of_the_bags(name: str, options: dict[str, Any], kind: str) -> None:
    torch.manual_seed(0)
    if name.startswith("clam") and kind != "classification":
        options = options | {"instance_weight": 0}
    model = MILModel(6, name, options, HEADS[kind]).train()
    targets, bags = outcomes(kind, len(LENGTHS)), [bag.float() for bag in bags_of(*LENGTHS)]
    model.head.start(targets)
    model.aggregator.start(targets)
    loss = step_loss(model, bags, targets)
    loss.backward()
    for part, parameter in model.aggregator.named_parameters():
        assert parameter.grad is not None, part
        assert torch.isfinite(parameter.grad).all(), part
    assert model.aggregator.penalty(targets, head_loss(model, targets)) is None  # it is of one forward pass
    again = copy.deepcopy(model).eval()
    for bag in bags:
        assert torch.isfinite(again(BagBatch.pack([bag]))[0]).all()


@every_model
def test_tokens_may_be_fewer_or_more_than_tiles(name: str, options: dict[str, Any]) -> None:
    model, batch = aggregator(name, options).train(), BagBatch.pack(bags_of(3, 9, 20))
    tokens = batch.with_features(model.embed(batch.features))
    kept = torch.rand(32, generator=torch.Generator().manual_seed(0)) < 0.5
    kept[[0, 3, 12]] = True
    fewer = tokens.select(kept)
    more = fewer.with_tokens(torch.randn(3, 2, model.width).double())
    targets = {"y": torch.tensor([0, 2, 1])}
    for some in (fewer, more):
        pooled = model.pool(some)
        assert pooled.maps.shape[0] == len(some.features)
        torch.testing.assert_close(segment_sum(pooled.maps, some), torch.ones(3, pooled.maps.shape[1]).double())
        own = model.penalty(targets, lambda vectors, patients=None: vectors.square().mean())
        assert (own is None) == (name == "ilra")
        assert own is None or own.isfinite()


@every_model
def test_half_precision_does_no_harm(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = MILModel(6, name, options, HEADS["classification"]).train()
    targets = outcomes("classification", 3)
    model.aggregator.start(targets)
    batch = BagBatch.pack([30 * bag.float() for bag in bags_of(2, 9, 3000)])
    with torch.autocast("cpu", torch.bfloat16):
        vectors, attention = model.aggregator(batch)
    loss = head_loss(model, targets)
    own = model.aggregator.penalty(targets, loss)
    (loss(vectors) if own is None else loss(vectors) + own).backward()
    assert attention.dtype == torch.float32
    torch.testing.assert_close(segment_sum(attention, batch), torch.ones(3))
    assert all(p.grad.isfinite().all() for p in model.aggregator.parameters())


@every_model
def test_a_saved_model_predicts_the_same_bytes(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MILModel(6, name, options, HEADS["classification"]).eval()
    model.aggregator.start(outcomes("classification", 6))
    save_model(tmp_path / "w.safetensors", model)
    again, _ = load_model(tmp_path / "w.safetensors")
    batch = BagBatch.pack([bag.float() for bag in bags_of(*LENGTHS)])
    with torch.no_grad():
        for one, two in zip(model(batch), again(batch), strict=True):
            assert torch.equal(one, two)


@pytest.mark.parametrize("name", ["clam_sb", "clam_mb", "dsmil", "self_vit_mil", "dtfd", "ilra"])
def test_a_planted_witness_is_found_and_a_null_is_not(name: str) -> None:
    options = {} if name == "self_vit_mil" else {"hidden": 32}
    head = {"kind": "classification", "classes": ["a", "b"]}
    bags, y = witnessed(1, 160)
    fresh, truth = witnessed(101, 200)
    assert auroc(trained(name, options, bags, {"y": y}, head), fresh, truth) > 0.9
    drawn = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))]
    assert abs(auroc(trained(name, options, bags, {"y": drawn}, head, epochs=8), fresh, truth) - 0.5) < 0.2
