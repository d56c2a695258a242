"""Mean pooling: principal components against scikit-learn, and kept with the weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from histostudy.errors import ModelError
from histostudy.models.aggregators.mean import principal_components
from histostudy.models.batch import BagBatch
from histostudy.models.io import load_model, save_model
from histostudy.models.model import MILModel
from histostudy.models.registry import build_aggregator


@pytest.mark.parametrize("shape", [(60, 7), (9, 30)])
def test_components_equal_scikit_learn_but_for_the_sign(shape: tuple[int, int]) -> None:
    from sklearn.decomposition import PCA

    x = np.random.default_rng(0).normal(size=shape) @ np.diag(np.linspace(1, 3, shape[1])) + 5
    ours = principal_components(torch.from_numpy(x), 6).numpy()
    theirs = PCA(6, svd_solver="full").fit(x).components_.T
    assert np.abs(ours) == pytest.approx(np.abs(theirs), abs=1e-8)
    assert (np.take_along_axis(ours, np.abs(ours).argmax(0)[None], 0) > 0).all()


@pytest.mark.parametrize(("shape", "rank"), [((5, 30), 4), ((40, 3), 3)])
def test_components_beyond_the_rank_are_zero(shape: tuple[int, int], rank: int) -> None:
    x = torch.from_numpy(np.random.default_rng(1).normal(size=shape)) + 100
    components = principal_components(x, 8)
    gram = (components.T @ components).numpy()
    assert gram == pytest.approx(np.diag([1.0] * rank + [0.0] * (8 - rank)), abs=1e-9)
    assert not principal_components(torch.ones(4, 3), 2).any()


def test_components_are_kept_with_the_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MILModel(6, "mean", {"pca": 3}, {"kind": "regression", "columns": ["a"]})
    model.aggregator.prepare(lambda most: torch.randn(50, 6), 0)
    torch.nn.init.normal_(model.head.linear.weight)
    batch = BagBatch.pack([torch.randn(n, 6) for n in (2, 5)])
    save_model(tmp_path / "w.safetensors", model.eval())
    again, _ = load_model(tmp_path / "w.safetensors")
    with torch.no_grad():
        assert torch.equal(again(batch)[0], model(batch)[0])
        means = torch.stack([bag.mean(0) for bag in batch.features.split([2, 5])])
        expected = means @ model.aggregator.components @ model.head.linear.weight.T + model.head.linear.bias
        assert model(batch)[0].numpy() == pytest.approx(expected.numpy(), abs=1e-6)
    assert model.head.linear.in_features == 3
    assert again.aggregator.components.any()


def test_more_components_than_features_are_those_of_the_features() -> None:
    assert build_aggregator("mean", 6, {"pca": 256}).dim_out == 6


@pytest.mark.parametrize(
    "options", [{"pca": 0}, {"penalty": 0}, {"penalty": True}, {"pca": 4, "hidden": 8}, {"penalty": 0.1, "hidden": 8}]
)
def test_wrong_options(options: dict) -> None:
    with pytest.raises(ModelError, match="wrong option"):
        build_aggregator("mean", 4, options)
