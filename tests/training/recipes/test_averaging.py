"""Averaged weights beside the formulas, over trainings whose weights were all written down."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from training.recipes.recipedata import auc_of, begun, network_of, planted, random_batch, step_of, trained

from histostudy.errors import ModelError
from histostudy.training.recipes.averaging import EMASettings, SWASettings
from histostudy.training.recipes.base import RECIPES, Recipe, Run, Step

NAME = "aggregator.embed.0.weight"


@dataclass(frozen=True)
class NoSettings:
    pass


@pytest.fixture
def steps() -> Iterator[list[tuple[float, Tensor]]]:
    """(epoch, weights) of the first layer before the first step and after each."""
    seen: list[tuple[float, Tensor]] = []

    class Watch(Recipe):
        Settings = NoSettings

        def begin(self, run: Run) -> None:
            seen.append((-1.0, run.network.state_dict()[NAME].clone()))

        def after_step(self, step: Step) -> None:
            seen.append((step.moment.epoch, step.network.state_dict()[NAME].clone()))

    RECIPES.register("watch_weights")(Watch)
    yield seen
    del RECIPES._items["watch_weights"]


def fit(recipe: dict[str, Any], epochs: int = 4) -> Tensor:
    bags, labels = planted.sb2(0, 32)
    network, _ = trained({"watch_weights": {}} | recipe, bags, labels, epochs=epochs)
    return network.state_dict()[NAME]


@pytest.mark.parametrize(("decay", "warmup"), [(0.9, True), (0.9, False), (0.3, True)])
def test_ema_is_its_recursion(steps: list, decay: float, warmup: bool) -> None:
    kept = fit({"ema": {"decay": decay, "warmup": warmup}})
    average = steps[0][1].double()
    for t, (_, weights) in enumerate(steps[1:], start=1):
        d = min(decay, (1 + t) / (10 + t)) if warmup else decay
        average = d * average + (1 - d) * weights.double()
    assert len(steps) == 1 + 4 * 4
    assert torch.allclose(kept.double(), average, atol=1e-6)
    assert not torch.allclose(kept, steps[-1][1], atol=1e-4)


@pytest.mark.parametrize(("start", "every", "averaged"), [(0.5, 1, [2, 3]), (0.0, 2, [0, 2]), (0.99, 1, [3])])
def test_swa_is_the_mean_of_the_ends_of_epochs(steps: list, start: float, every: int, averaged: list[int]) -> None:
    kept = fit({"swa": {"start": start, "every": every}})
    ends = [[w for epoch, w in steps if int(epoch) == e][-1] for e in averaged]
    assert torch.allclose(kept, torch.stack(ends).mean(0), atol=1e-6)


def test_training_goes_on_with_its_own_weights(steps: list) -> None:
    fit({"ema": {"decay": 0.9}})
    averaged = [w for _, w in steps]
    steps.clear()
    fit({})
    assert all(torch.equal(one, other) for one, (_, other) in zip(averaged, steps, strict=True))


def test_what_is_not_trained_is_that_of_the_live_network() -> None:
    network = network_of()
    network.aggregator.attention.score.bias.requires_grad_(False)
    recipe = begun(network, "ema", decay=0.5, warmup=False)
    with torch.no_grad():
        network.mean += 3
        network.aggregator.attention.score.bias += 1
        network.head.linear.weight += 2
    before = network.head.linear.weight.detach() - 2
    recipe.after_step(step_of(network, random_batch(3)))
    state = recipe.weights()
    assert set(state) == set(network.state_dict())
    assert torch.equal(state["mean"], network.mean)
    assert torch.equal(state["aggregator.attention.score.bias"], network.aggregator.attention.score.bias)
    assert torch.allclose(state["head.linear.weight"], before + 1)


def test_asked_twice_in_an_epoch_swa_counts_it_once() -> None:
    network = network_of()
    recipe = begun(network, "swa", start=0.0)
    for value in (1.0, 2.0):
        torch.nn.init.constant_(network.head.linear.weight, value)
        recipe.after_step(step_of(network, random_batch(3), progress=(value - 1) / 10))
        first, again = recipe.weights(), recipe.weights()
        assert torch.equal(first["head.linear.weight"], again["head.linear.weight"])
    assert torch.allclose(again["head.linear.weight"], torch.tensor(1.5))


@pytest.mark.parametrize("name", ["ema", "swa"])
def test_planted_effect_is_found_and_permuted_labels_are_at_chance(name: str) -> None:
    bags, labels = planted.sb2(100, 80)
    held_out, truth = planted.sb2(900, 200)
    assert auc_of(trained({name: {}}, bags, labels)[0], held_out, truth) > 0.78
    areas = []
    for seed in range(4):
        shuffled = np.random.default_rng(seed).permutation(labels)
        areas.append(auc_of(trained({name: {}}, bags, shuffled, seed, epochs=8)[0], held_out, truth))
    assert abs(np.mean(areas) - 0.5) < 0.12


def test_wrong_settings_are_refused() -> None:
    for wrong in ({"decay": 1.0}, {"decay": "0.9"}, {"warmup": 3}):
        with pytest.raises(ModelError, match=f"wrong option: {next(iter(wrong))}"):
            EMASettings(**wrong)
    for wrong in ({"start": 1}, {"start": -0.1}, {"every": 0}, {"every": True}):
        with pytest.raises(ModelError, match=f"wrong option: {next(iter(wrong))}"):
            SWASettings(**wrong)
