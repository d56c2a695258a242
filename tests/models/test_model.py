"""Tables in a model: what a missing cell and a missing patient become; a multimodal model on disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from histostudy.errors import ModelError
from histostudy.models.batch import BagBatch, Modality, ModalityValues
from histostudy.models.io import load_model, save_model
from histostudy.models.model import MILModel, TableScale

NAN = float("nan")
TABLES = (
    Modality("rna", tuple("ABCDEF"), ((0, 1, 2), (2, 3), (4, 5))),
    Modality("clinical", ("age", "sex=m"), ((0, 1),)),
)
HEAD = {"kind": "survival_cox", "days": [100, 300]}


def scale() -> TableScale:
    table = TableScale(2)
    table.fill.copy_(torch.tensor([3.0, -1.0]))
    table.centre.copy_(torch.tensor([1.0, 0.0]))
    table.scale.copy_(torch.tensor([2.0, 4.0]))
    return table


def test_a_missing_cell_takes_the_median_and_a_missing_patient_zeros() -> None:
    raw = torch.tensor([[5.0, 8.0], [NAN, 8.0], [NAN, NAN], [7.0, 7.0]])
    made = scale()(ModalityValues(raw, torch.tensor([True, True, False, False])))
    assert made.values.tolist() == [[2, 2], [1, 2], [0, 0], [0, 0]]
    assert made.present.tolist() == [True, True, False, False]


def test_a_missing_cell_gets_no_gradient_of_nan() -> None:
    raw = torch.tensor([[NAN, 2.0]], requires_grad=True)
    scale()(ModalityValues(raw, torch.tensor([True]))).values.sum().backward()
    assert raw.grad.tolist() == [[0.0, 0.25]]


def test_moments_are_saved_and_not_trained() -> None:
    table = scale()
    assert list(table.parameters()) == [] and set(table.state_dict()) == {"fill", "centre", "scale"}


def batch(present: torch.Tensor, tiles: int, values: float = 0.0, seed: int = 0) -> BagBatch:
    """Three patients; rows of patients who lack a modality hold `values`."""
    draw = torch.Generator().manual_seed(seed)
    made = BagBatch.pack([torch.randn(n, tiles, generator=draw) for n in (3, 1, 6)])
    for table in TABLES:
        raw = torch.randn(3, len(table.columns), generator=draw)
        raw[0, 0] = NAN
        made.modalities = dict(made.modalities) | {
            table.name: ModalityValues(torch.where(present[:, None], raw, values), present)
        }
    return made


def build(aggregator: str, fusion: str = "concat") -> MILModel:
    torch.manual_seed(0)
    model = MILModel(0 if aggregator == "snn" else 5, aggregator, {}, HEAD, TABLES, fusion)
    for name, table in model.tables.items():
        draw = torch.Generator().manual_seed(len(name))
        for buffer in (table.fill, table.centre, table.scale):
            buffer.copy_(torch.rand(buffer.shape, generator=draw) + 0.5)
    time = torch.arange(1.0, 30)
    model.head.finish(torch.randn(29, 1), {"time": time, "event": torch.ones(29)})
    return model.eval()


KINDS = [("snn", "concat"), ("mcat", "concat"), ("abmil", "concat"), ("abmil", "bilinear"), ("mean", "concat")]


@pytest.mark.parametrize(("aggregator", "fusion"), KINDS)
def test_what_stands_in_the_row_of_a_missing_patient_is_never_read(aggregator: str, fusion: str) -> None:
    model, tiles = build(aggregator, fusion), 0 if aggregator == "snn" else 5
    present = torch.tensor([True, False, True])
    with torch.no_grad():
        one, two, full = (
            model(batch(p, tiles, v))[0]
            for p, v in ((present, 0.0), (present, NAN), (torch.ones(3, dtype=torch.bool), 0.0))
        )
    assert torch.isfinite(one).all() and torch.equal(one, two)
    assert not torch.equal(one[1], full[1]) and torch.allclose(one[[0, 2]], full[[0, 2]], atol=1e-6)


@pytest.mark.parametrize(("aggregator", "fusion"), KINDS)
def test_a_saved_multimodal_model_predicts_the_same_bytes(aggregator: str, fusion: str, tmp_path: Path) -> None:
    model, tiles = build(aggregator, fusion), 0 if aggregator == "snn" else 5
    save_model(tmp_path / "w.safetensors", model)
    again, config = load_model(tmp_path / "w.safetensors")
    assert config["fusion"] == fusion and [m["name"] for m in config["modalities"]] == ["rna", "clinical"]
    assert again.config == model.config | {"modalities": again.config["modalities"]}
    data = batch(torch.tensor([True, True, False]), tiles)
    with torch.no_grad():
        one, two = model(data), again(data)
    assert torch.equal(one[0], two[0])
    assert one[1] is None and two[1] is None or torch.equal(one[1], two[1])
    np.testing.assert_array_equal(model.head.predict(one[0])["surv_100"], again.head.predict(two[0])["surv_100"])
    assert torch.equal(model.tables["rna"].fill, again.tables["rna"].fill)
    save_model(tmp_path / "w2.safetensors", again)
    assert (tmp_path / "w.safetensors").read_bytes() == (tmp_path / "w2.safetensors").read_bytes()


@pytest.mark.parametrize(("aggregator", "fusion"), KINDS)
def test_a_configuration_rebuilds_its_model(aggregator: str, fusion: str) -> None:
    model = build(aggregator, fusion)
    again = MILModel.from_config(json.loads(json.dumps(model.config)) | {"extra": {"fold": 1}})
    shapes = [{name: value.shape for name, value in m.named_parameters()} for m in (model, again)]
    assert shapes[0] == shapes[1]
    assert json.dumps(again.config) == json.dumps(model.config)
    with pytest.raises(ModelError, match="configuration lacks 'head'"):
        MILModel.from_config({key: value for key, value in model.config.items() if key != "head"})


def test_a_ranking_head_keeps_its_slope_on_disk(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MILModel(5, "mean", {}, {"kind": "survival_rank", "days": [100]})
    time = torch.arange(1.0, 30)
    model.head.finish(-time[:, None] + torch.randn(29, 1) * 9, {"time": time, "event": torch.ones(29)})
    save_model(tmp_path / "w.safetensors", model)
    again, _ = load_model(tmp_path / "w.safetensors")
    assert again.head.slope.item() == model.head.slope.item() != 1
    assert again.head.slope.dtype == torch.float64


def test_a_table_alone_needs_its_modality() -> None:
    with pytest.raises(ModelError, match="snn needs a modality"):
        MILModel(0, "snn", {}, HEAD)
