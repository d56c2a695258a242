"""Heads, options and weights on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from histostudy.errors import ConfigError, ModelError
from histostudy.models.batch import BagBatch
from histostudy.models.heads import HEADS, head_config
from histostudy.models.io import load_model, load_tensors, save_model, save_tensors
from histostudy.models.model import MILModel
from histostudy.models.registry import build_aggregator


def test_wrong_options_name_the_known_ones() -> None:
    with pytest.raises(ModelError, match="unknown option 'gate'.*known: hidden, attention, heads, gated"):
        build_aggregator("abmil", 4, {"gate": True})
    with pytest.raises(ModelError, match="hidden is a whole number"):
        build_aggregator("abmil", 4, {"hidden": "big"})
    with pytest.raises(ModelError, match="dropout is from 0"):
        build_aggregator("max", 4, {"dropout": 1})
    with pytest.raises(ConfigError, match="did you mean 'abmil'"):
        build_aggregator("abmill", 4)


def test_class_shares_are_the_first_prediction() -> None:
    head = HEADS["classification"](3, {"kind": "classification", "classes": ["a", "b"]})
    head.start({"y": torch.tensor([0, 0, 0, 1])})
    with torch.no_grad():
        raw = head(torch.zeros(1, 3))
    assert head.predict(raw)["prob_b"] == pytest.approx([1.5 / 5])


def test_regression_works_on_standardised_targets_and_predicts_in_their_units() -> None:
    y = torch.tensor([[1.0, 100.0], [3.0, 300.0], [5.0, float("nan")]])
    config = head_config("expression", None, {}, columns=["pred_A", "pred_B"])
    head = HEADS[config["kind"]](2, config)
    head.start({"y": y})
    exact = torch.tensor([[-1.2247449, -1.0], [0.0, 1.0], [1.2247449, 7.0]], requires_grad=True)
    loss = head.loss(exact, {"y": y})
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-10)
    assert torch.isfinite(exact.grad).all()
    assert head.predict(exact.detach())["pred_B"][:2] == pytest.approx([100, 300])


def build(aggregator: str, head: dict) -> MILModel:
    torch.manual_seed(0)
    model = MILModel(5, aggregator, {}, head)
    torch.nn.init.normal_(model.head.linear.weight)
    model.standardise_by(torch.randn(5), torch.rand(5) + 0.5)
    return model.eval()


@pytest.mark.parametrize("aggregator", ["mean", "max", "abmil"])
def test_a_saved_model_predicts_the_same_bytes(aggregator: str, tmp_path: Path) -> None:
    time, event = torch.arange(1.0, 30), torch.ones(29)
    model = build(aggregator, {"kind": "survival_cox", "days": [10, 20]})
    model.head.finish(torch.randn(29, 1), {"time": time, "event": event})
    save_model(tmp_path / "w.safetensors", model, {"fold": 1})
    again, config = load_model(tmp_path / "w.safetensors")
    batch = BagBatch.pack([torch.randn(n, 5) for n in (3, 9)])
    with torch.no_grad():
        one, two = model(batch), again(batch)
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
    assert np.array_equal(model.head.predict(one[0])["surv_10"], again.head.predict(two[0])["surv_10"])
    assert config["extra"] == {"fold": 1}
    save_model(tmp_path / "w2.safetensors", again, {"fold": 1})
    assert (tmp_path / "w.safetensors").read_bytes() == (tmp_path / "w2.safetensors").read_bytes()


def test_weights_that_are_none_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot read weights"):
        load_tensors(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("hello, these are no weights")
    with pytest.raises(ModelError, match=r"text.safetensors: cannot read weights"):
        load_tensors(tmp_path / "text.safetensors")
    save_tensors(tmp_path / "prior.safetensors", {"value": torch.zeros(1)}, {"control": "prior"})
    with pytest.raises(ModelError, match="sees no tiles"):
        load_model(tmp_path / "prior.safetensors")


def test_a_constant_feature_does_no_harm() -> None:
    model = build("abmil", {"kind": "classification", "classes": ["a", "b"]})
    model.standardise_by(torch.ones(5), torch.zeros(5))
    assert torch.isfinite(model(BagBatch.pack([torch.ones(4, 5)]))[0]).all()
