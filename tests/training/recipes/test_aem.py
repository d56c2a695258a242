"""The entropy penalty: its formula and gradient, and what it does to attention on bags that nobody trained on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from training.recipes.recipedata import (
    auc_of,
    network_of,
    planted,
    random_batch,
    recipes_of,
    step_of,
    store_of,
    through,
    trained,
)

from histostudy.errors import ModelError
from histostudy.models.batch import BagBatch, segment_softmax
from histostudy.models.model import MILModel
from histostudy.training.recipes.aem import AEMSettings, entropies


def held_out_entropy(network: MILModel, bags: list) -> float:
    with torch.no_grad():
        batch = next(store_of(bags).evaluation_batches(range(len(bags))))
        _, attention = network.eval()(batch)
    return float(entropies(attention[:, None], batch)[1].mean())


def test_entropy_is_that_of_a_loop_and_its_gradient_is_the_formula() -> None:
    batch = random_batch(1, 7, 4)
    scores = torch.randn(12, 2, dtype=torch.float64, requires_grad=True)
    maps = segment_softmax(scores, batch)
    entropy, share = entropies(maps, batch)
    assert entropy.shape == (3, 2)
    for bag in range(3):
        a = maps[batch.segments == bag].detach().numpy()
        assert entropy[bag].tolist() == pytest.approx((-(a * np.log(a)).sum(0)).tolist())
        assert share[bag].tolist() == pytest.approx((entropy[bag] / max(1e-9, math.log(len(a)))).tolist(), abs=1e-9)
    (gradient,) = torch.autograd.grad(-entropy.sum(), scores)
    expected = maps * (maps.log() + entropy[batch.segments])
    assert torch.allclose(gradient, expected.detach(), atol=1e-12)
    for bag in range(3):
        assert gradient[batch.segments == bag].sum().item() == pytest.approx(0, abs=1e-12)


def test_attention_of_exactly_zero_is_finite() -> None:
    batch = random_batch(3)
    scores = torch.tensor([[0.0], [-1e4], [-200.0]], requires_grad=True)
    entropy, _ = entropies(segment_softmax(scores, batch), batch)
    entropy.sum().backward()
    assert entropy.item() == pytest.approx(0, abs=1e-6)
    assert torch.isfinite(scores.grad).all()


def test_the_penalty_is_the_weighted_negative_entropy_and_falls_with_training() -> None:
    network = network_of(heads=2)
    batch = random_batch(5, 1, 40)
    for progress, factor in ((0.0, 1.0), (0.5, 0.5), (0.75, (1 + math.cos(0.75 * math.pi)) / 2)):
        (recipe,) = recipes_of(network, aem={"weight": 0.3})
        step = step_of(network, batch, progress)
        added = through(step, recipe) - through(step_of(network, batch, progress))
        entropy, share = entropies(step.maps, batch)
        assert added.item() == pytest.approx(-0.3 * factor * entropy.mean().item(), abs=1e-6)
        assert added.item() < 0, "even attention is rewarded, so the penalty is negative"
    # the bag of one tile has no entropy to speak of
    assert recipe.log()["aem_entropy"] == pytest.approx(share[[0, 2]].mean().item())
    assert math.isnan(recipe.log()["aem_entropy"])
    (plain,) = recipes_of(network, aem={"weight": 0.3, "annealing": False, "normalise": True})
    step = step_of(network, batch, 0.75)
    added = through(step, plain) - through(step_of(network, batch, 0.75))
    assert added.item() == pytest.approx(-0.3 * entropies(step.maps, batch)[1].mean().item(), abs=1e-6)


def test_entropy_on_held_out_bags_rises_strictly_with_the_weight() -> None:
    bags, labels = planted.sb1(100, 40)
    held_out, _ = planted.sb1(900, 60)
    found = []
    for weight in (0.0, 0.02, 0.1, 0.5):
        settings = {"aem": {"weight": weight, "annealing": False}}
        network, history = trained(settings, bags, labels, epochs=20, batch_size=2)
        found.append(held_out_entropy(network, held_out))
        assert history["aem_entropy"].between(0, 1).all()
    assert found == sorted(set(found))
    assert found[2] - found[0] >= 0.15
    assert found[3] > 0.95


def test_bags_are_still_told_apart_and_permuted_labels_are_not() -> None:
    bags, labels = planted.sb2(100, 80)
    held_out, truth = planted.sb2(900, 200)
    network, _ = trained({"aem": {}}, bags, labels)
    assert auc_of(network, held_out, truth) > 0.8
    areas = []
    for seed in range(4):
        shuffled = np.random.default_rng(seed).permutation(labels)
        areas.append(auc_of(trained({"aem": {}}, bags, shuffled, seed, epochs=8)[0], held_out, truth))
    assert abs(np.mean(areas) - 0.5) < 0.12


@pytest.mark.parametrize("aggregator", ["max", "mean", "otsurv"])
def test_attention_that_is_not_trained_is_refused(aggregator: str) -> None:
    bags, labels = planted.sb2(0, 8)
    with pytest.raises(ModelError, match="recipe aem needs attention that is trained"):
        trained({"aem": {}}, bags, labels, aggregator=aggregator, epochs=1)


@pytest.mark.parametrize("wrong", [{"weight": -0.1}, {"weight": "0.1"}, {"annealing": 1}, {"normalise": None}])
def test_wrong_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ModelError, match=f"wrong option: {next(iter(wrong))}"):
        AEMSettings(**wrong)


def test_bags_packed_together_do_not_matter() -> None:
    together = random_batch(6, 9)
    scores = torch.randn(15, 1)
    first = BagBatch(together.features[:6], torch.tensor([0, 6]))
    alone = entropies(segment_softmax(scores[:6], first), first)[0]
    assert torch.allclose(entropies(segment_softmax(scores, together), together)[0][:1], alone)
