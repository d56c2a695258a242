"""OTSurv: its schedule, what its plan keeps, and a planted risk among junk."""

from __future__ import annotations

import math

import pytest
import torch
from models.aggregators.riskdata import Cohort, fitted, harrell, planted_risk
from torch import Tensor

from histostudy.errors import ModelError
from histostudy.models.aggregators.otsurv import OTSurv
from histostudy.models.batch import BagBatch, segment_sum
from histostudy.models.registry import Moment, build_aggregator


def aggregator(**options: object) -> OTSurv:
    torch.manual_seed(0)
    found = build_aggregator("otsurv", 6, {"prototypes": 4, "hidden": 8, **options}).eval()
    assert isinstance(found, OTSurv)
    return found


def bags_of(*lengths: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(n, 6, generator=generator) for n in lengths]


@pytest.mark.parametrize(("epoch", "mass"), [(0, 0.1 + math.exp(-5)), (5, 0.1 + math.exp(-1.25)), (10, 1), (30, 1)])
def test_the_mass_rises_in_training_only(epoch: float, mass: float) -> None:
    model = aggregator()
    model.moment = Moment(0.1, epoch)
    assert model.mass() == 1
    assert model.train().mass() == pytest.approx(mass)
    assert aggregator(mass=0.6).mass() == aggregator(mass=0.6, ramp=0).train().mass() == 0.6
    assert aggregator(ramp=0).train().mass() == 1


@pytest.mark.parametrize("mass", [0.4, 1.0])
def test_order_company_and_size_of_a_bag(mass: float) -> None:
    model, bags = aggregator(mass=mass), bags_of(1, 9, 40)
    with torch.no_grad():
        vectors, attention = model(BagBatch.pack(bags))
        alone, own = model(BagBatch.pack(bags[1:2]))
        order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
        shuffled, turned = model(BagBatch.pack([bags[1][order]]))
    assert vectors.shape == (3, 8)
    assert torch.allclose(vectors[1:2], alone, atol=1e-5)
    assert torch.allclose(attention[1:10], own, atol=1e-6)
    assert torch.allclose(alone, shuffled, atol=1e-5)
    assert torch.allclose(own[order], turned, atol=1e-6)
    assert torch.allclose(segment_sum(attention, BagBatch.pack(bags)), torch.ones(3), atol=1e-5)


def test_a_bag_twice_over_gives_the_same_vector() -> None:
    model, (bag,) = aggregator(mass=0.5), bags_of(12)
    with torch.no_grad():
        assert torch.allclose(
            model(BagBatch.pack([bag]))[0], model(BagBatch.pack([torch.cat([bag, bag])]))[0], atol=1e-5
        )


def test_attention_is_even_only_if_all_mass_is_sent() -> None:
    batch = BagBatch.pack(bags_of(30))
    assert torch.allclose(aggregator()(batch)[1], torch.full((30,), 1 / 30), atol=1e-6)
    assert aggregator(mass=0.3)(batch)[1].std() > 0.001


def test_pooling_without_prototypes_apart_is_the_mean() -> None:
    model, batch = aggregator(prototypes=1), BagBatch.pack(bags_of(20))
    with torch.no_grad():
        tiles = model.embed(batch.features)
        expected = model.mix.weight[0, 0] * tiles.mean(0, keepdim=True) + model.mix.bias
        assert torch.allclose(model(batch)[0], expected, atol=1e-6)


@pytest.mark.parametrize("epoch", [0, 20])
@pytest.mark.parametrize("bags", [[torch.ones(1, 6)], [torch.ones(5, 6)], bags_of(1, 40)])
def test_gradients_are_finite(epoch: int, bags: list[Tensor]) -> None:
    model = aggregator(dropout=0.0).train()
    model.moment = Moment(0.5, epoch)
    model(BagBatch.pack(bags))[0].square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    if len(bags) > 1:
        assert all((p.grad != 0).any() for p in model.parameters())


def test_half_precision_is_near() -> None:
    model, batch = aggregator(mass=0.5), BagBatch.pack(bags_of(9, 40))
    with torch.no_grad():
        exact = model(batch)[0]
        with torch.autocast("cpu", torch.bfloat16):
            half = model(batch)[0]
    assert torch.allclose(half.float(), exact, atol=0.02)


def test_wrong_options_are_one_line() -> None:
    with pytest.raises(ModelError, match="mass is above 0 and at most 1"):
        aggregator(mass=0)
    with pytest.raises(ModelError, match="epsilon is a number above 0"):
        aggregator(epsilon=0)


KINDS = torch.randn(4, 32, generator=torch.Generator().manual_seed(99))
#: More of the first kind and less of the second with the risk.
SHARES = torch.tensor([[0.0, 0.5, 0.25, 0.25], [0.5, 0.0, 0.25, 0.25]])


def among_junk(seed: int, slope: float = 6.0) -> Cohort:
    return planted_risk(seed, KINDS, SHARES, slope=slope, junk=0.4)


def test_a_planted_share_is_found_among_junk_where_the_mean_is_lost() -> None:
    train, test = among_junk(0), among_junk(100)
    c = harrell(fitted("otsurv", {}, train), test)
    mean = harrell(fitted("mean", {}, train, lr=3e-3), test)
    assert c > 0.72
    assert c > mean + 0.03
    assert c < test.concordance(test.risk) + 0.02


def test_no_effect_is_not_found() -> None:
    train, test = among_junk(0, slope=0.0), among_junk(100, slope=0.0)
    assert harrell(fitted("otsurv", {}, train, epochs=8), test) == pytest.approx(0.5, abs=0.08)
