"""PANTHER: its mixture against a slow loop, a planted mixture, a planted risk that the mean cannot see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from models.aggregators.riskdata import Cohort, fitted, harrell, planted_risk
from torch import Tensor

from histostudy.errors import ModelError
from histostudy.models.aggregators.panther import Panther
from histostudy.models.batch import BagBatch
from histostudy.models.io import load_model, save_model
from histostudy.models.model import MILModel
from histostudy.models.registry import build_aggregator


def aggregator(dim: int = 5, **options: object) -> Panther:
    torch.manual_seed(0)
    found = build_aggregator("panther", dim, {"components": 3, **options})
    assert isinstance(found, Panther)
    return found


def bags_of(*lengths: int, dim: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(n, dim, generator=generator, dtype=torch.float64) for n in lengths]


def slow_mixture(x: np.ndarray, centres: np.ndarray, iterations: int, tau: float, prior: float) -> list[np.ndarray]:
    """One tile, one component at a time."""
    from scipy.stats import multivariate_normal

    k = len(centres)
    pi, mu, s = np.full(k, 1 / k), centres, np.full_like(centres, prior)
    for _ in range(iterations):
        q = np.zeros((len(x), k))
        for n in range(len(x)):
            p = [pi[c] * multivariate_normal(mu[c], np.diag(s[c])).pdf(x[n]) for c in range(k)]
            q[n] = np.array(p) / sum(p)
        w = q.sum(0) + tau
        pi = w / w.sum()
        mu = np.array([(q[:, c] @ x + tau * centres[c]) / w[c] for c in range(k)])
        s = np.array([(q[:, c] @ x**2 + tau * (prior + centres[c] ** 2)) / w[c] - mu[c] ** 2 for c in range(k)])
    return [pi, mu, s]


@pytest.mark.parametrize(("iterations", "strength", "variance"), [(1, 1.0, 1.0), (3, 1.0, 1.0), (1, 5.0, 0.5)])
def test_mixture_equals_a_slow_loop(iterations: int, strength: float, variance: float) -> None:
    model = aggregator(iterations=iterations, strength=strength, variance=variance)
    (bag,) = bags_of(30)
    expected = slow_mixture(bag.numpy(), model.prototypes.double().numpy(), iterations, strength, variance)
    for ours, theirs in zip(model.mixture(bag), expected, strict=True):
        assert ours.numpy() == pytest.approx(theirs, abs=1e-10)


def test_a_planted_mixture_is_recovered() -> None:
    generator = torch.Generator().manual_seed(0)
    true, share = 4 * torch.eye(4, 8), torch.tensor([0.50, 0.30, 0.15, 0.05])
    kind = torch.multinomial(share, 5000, replacement=True, generator=generator)
    tiles = true[kind] * 2**0.5 + torch.randn(5000, 8, generator=generator)
    model = aggregator(8, components=4)
    model.prepare(lambda most: tiles[:most], 0)
    weights, means, variances = model.mixture(tiles)
    order = torch.cdist(true * 2**0.5, means).argmin(1)
    assert sorted(order.tolist()) == [0, 1, 2, 3]
    drawn = torch.bincount(kind, minlength=4) / 5000
    assert weights[order].numpy() == pytest.approx(drawn.numpy(), abs=0.01)
    assert weights[order].numpy() == pytest.approx(share.numpy(), abs=0.015)
    assert ((means[order] - true * 2**0.5).norm(dim=1) < 0.4).all()
    assert variances.numpy() == pytest.approx(1, abs=0.35)


@pytest.mark.parametrize(("output", "width"), [("allcat", 33), ("weights", 3), ("means", 15), ("weight_means", 18)])
def test_outputs_and_their_widths(output: str, width: int) -> None:
    model = aggregator(output=output, scaled=False)
    vectors, attention = model(BagBatch.pack(bags_of(4, 9)))
    assert attention is None
    assert vectors.shape == (2, width) == (2, model.dim_out)
    whole, _ = aggregator(scaled=False)(BagBatch.pack(bags_of(4, 9)))
    start = {"means": 3}.get(output, 0)
    assert torch.equal(vectors, whole[:, start : start + width])


def test_order_and_company_change_nothing() -> None:
    model, bags = aggregator(iterations=2), bags_of(1, 9, 40)
    vectors, _ = model(BagBatch.pack(bags))
    assert torch.allclose(vectors[1:2], model(BagBatch.pack(bags[1:2]))[0], rtol=1e-12)
    assert torch.allclose(vectors[2:], model(BagBatch.pack([bags[2].flip(0)]))[0], atol=1e-12)
    assert torch.allclose(model(BagBatch.pack([b.float() for b in bags]))[0].double(), vectors, atol=1e-4)


def test_variances_stay_positive_on_identical_tiles() -> None:
    bag = torch.full((10_000, 5), 30.0)
    model = aggregator(iterations=5)
    model.prepare(lambda most: bag + torch.eye(5)[0] * torch.arange(len(bag))[:, None], 0)
    weights, means, variances = model.mixture(bag)
    assert (variances > 0).all()
    assert all(torch.isfinite(part).all() for part in (weights, means, variances))


def test_half_precision_changes_nothing() -> None:
    model, batch = aggregator(), BagBatch.pack([bag.float() for bag in bags_of(9, 40)])
    with torch.autocast("cpu", torch.bfloat16):
        half = model(batch)[0]
    assert torch.equal(half, model(batch)[0])


def test_prototypes_are_those_of_the_seed() -> None:
    tiles = bags_of(400)[0].float()
    models = [aggregator() for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        model.prepare(lambda most: tiles[:most], seed)
    assert torch.equal(models[0].prototypes, models[1].prototypes)
    assert not torch.equal(models[0].prototypes, models[2].prototypes)
    assert float(models[0].share.sum()) == pytest.approx(1)


def test_the_training_tiles_as_one_bag_are_near_zero() -> None:
    """Scaled, the vector is the departure from the training tiles."""
    generator = torch.Generator().manual_seed(0)
    tiles = torch.randn(3, 5, generator=generator)[torch.arange(3000) % 3] * 6 + torch.randn(
        3000, 5, generator=generator
    )
    model = aggregator()
    model.prepare(lambda most: tiles[:most], 0)
    vectors, _ = model(BagBatch.pack([tiles, tiles[tiles[:, 0] > tiles[:, 0].median()]]))
    assert vectors[0].abs().max() < 0.1
    assert vectors[1].abs().max() > 0.3


def test_too_few_tiles_are_one_line() -> None:
    with pytest.raises(ModelError, match="2 training tiles for 3 components"):
        aggregator().prepare(lambda most: torch.randn(2, 5), 0)
    with pytest.raises(ModelError, match="output is one of allcat"):
        aggregator(output="all")


def test_prototypes_are_stored_with_the_weights(tmp_path: Path) -> None:
    model = MILModel(5, "panther", {"components": 3}, {"kind": "classification", "classes": ["a", "b"]})
    tiles = bags_of(100)[0].float()
    model.aggregator.prepare(lambda most: tiles[:most], 0)
    save_model(tmp_path / "w.safetensors", model)
    batch = BagBatch.pack([tiles[:7], tiles[7:]])
    with torch.no_grad():
        assert torch.equal(model(batch)[0], load_model(tmp_path / "w.safetensors")[0](batch)[0])


#: Two opposite kinds and one between: the mean of a bag says nothing of their shares.
KINDS = torch.cat([v := 2 * torch.randn(1, 16, generator=torch.Generator().manual_seed(9)), -v, 0 * v])
SHARES = torch.tensor([[0.05, 0.05, 0.9], [0.45, 0.45, 0.1]])


def cancelling(seed: int, slope: float = 6.0) -> Cohort:
    return planted_risk(seed, KINDS, SHARES, slope=slope, noise=1.0)


def test_shares_are_found_whose_means_cancel() -> None:
    train, test = cancelling(0), cancelling(100)
    best = test.concordance(test.risk)
    assert harrell(fitted("panther", {"components": 4}, train, lr=3e-3), test) > best - 0.05
    assert harrell(fitted("mean", {}, train, lr=3e-3), test) < 0.6


def test_scaling_helps_where_junk_fills_components() -> None:
    kinds = torch.randn(4, 32, generator=torch.Generator().manual_seed(99))
    shares = torch.tensor([[0.0, 0.5, 0.25, 0.25], [0.5, 0.0, 0.25, 0.25]])
    train, test = (planted_risk(seed, kinds, shares, junk=0.4, junk_scale=4.0) for seed in (0, 100))
    c, raw = (harrell(fitted("panther", {"components": 8, "scaled": s}, train, lr=3e-3), test) for s in (True, False))
    assert c > 0.75
    assert c > raw + 0.02


def test_no_effect_is_not_found() -> None:
    train, test = cancelling(0, slope=0.0), cancelling(100, slope=0.0)
    assert harrell(fitted("panther", {"components": 4}, train, epochs=8), test) == pytest.approx(0.5, abs=0.08)
