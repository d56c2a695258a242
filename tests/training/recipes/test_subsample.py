"""Random parts of bags: counts, chances, and what goes with a tile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training.recipes.recipedata import begun, network_of, random_batch, recipes_of, step_of
from training.recipes.runs import auc, classified
from training.trainingdata import planted_bags

from histostudy.errors import ModelError
from histostudy.models.batch import BagBatch
from histostudy.training.recipes.base import Step
from histostudy.training.recipes.subsample import InstanceDropoutSettings, SubsampleSettings


def numbered(*lengths: int) -> BagBatch:
    """A batch in which position and scale tell the tile's number."""
    batch = random_batch(*lengths)
    number = torch.arange(len(batch.features))
    return replace(batch, coords=number[:, None].expand(-1, 2).contiguous(), scales=number.float())


def acted(name: str, batch: BagBatch, seed: int = 0, **settings: object) -> Step:
    network = network_of()
    step = step_of(network, batch, seed=seed)
    begun(network, name, **settings).tiles(step)
    return step


@pytest.mark.parametrize("value", [0, -0.1, 1.1, "0.5", None, True])
def test_wrong_shares_are_one_line(value: object) -> None:
    with pytest.raises(ModelError, match="wrong option: share"):
        SubsampleSettings(share=value)
    if value != 0:
        with pytest.raises(ModelError, match="wrong option: p "):
            InstanceDropoutSettings(p=value)
    with pytest.raises(ModelError, match="wrong option: tiles"):
        SubsampleSettings(tiles=0.5)


@pytest.mark.parametrize("name", ["subsample", "instance_dropout"])
def test_an_aggregator_without_tiles_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match=f"recipe {name} chooses tiles, and a linear Mean gets the mean"):
        recipes_of(network_of("mean"), **{name: {}})
    recipes_of(network_of("mean", hidden=4), **{name: {}})
    recipes_of(network_of("max"), **{name: {}})


def test_shares_and_numbers_of_tiles() -> None:
    batch = numbered(1, 2, 7, 30)
    assert acted("subsample", batch, share=0.1).batch.lengths.tolist() == [1, 1, 1, 3]
    assert acted("subsample", batch, share=0.5).batch.lengths.tolist() == [1, 1, 4, 15]
    assert acted("subsample", batch, tiles=5).batch.lengths.tolist() == [1, 2, 5, 5]
    assert acted("subsample", batch, share=1).batch is batch
    assert acted("instance_dropout", batch, p=0).batch is batch


@pytest.mark.parametrize(("name", "settings"), [("subsample", {"share": 0.3}), ("instance_dropout", {"p": 0.7})])
def test_what_belongs_to_a_tile_goes_with_it(name: str, settings: dict) -> None:
    batch = numbered(3, 40, 9)
    kept = acted(name, batch, **settings).batch
    number = kept.coords[:, 0]
    assert (number.diff() > 0).all()  # their order, and nobody twice
    assert torch.equal(kept.features, batch.features[number]) and torch.equal(kept.scales, number.float())
    assert torch.equal(kept.segments, batch.segments[number])
    bare = acted(name, replace(batch, coords=None, scales=None), **settings).batch
    assert torch.equal(bare.features, kept.features) and bare.coords is None
    other = acted(name, batch, seed=1, **settings).batch
    assert not torch.equal(other.features[:5], kept.features[:5])


def test_each_tile_is_dropped_with_its_chance_and_one_stays() -> None:
    network, batch = network_of(), numbered(20, 1, 2)
    recipe = begun(network, "instance_dropout", p=0.6)
    step = step_of(network, batch)
    seen = torch.zeros(23)
    for _ in range(2000):
        step.batch = batch
        recipe.tiles(step)
        assert (step.batch.lengths > 0).all()
        seen[step.batch.coords[:, 0]] += 1 / 2000
    assert seen[:20].numpy() == pytest.approx([0.4] * 20, abs=0.05)
    assert seen[20] == pytest.approx(1, abs=1e-3)
    # of two, both are dropped with 0.36, and each is then the one that stays half of the time
    assert seen[21:].numpy() == pytest.approx([0.4 + 0.18] * 2, abs=0.05)


@pytest.mark.parametrize("recipe", [{"subsample": {"share": 0.7}}, {"instance_dropout": {"p": 0.3}}])
def test_a_planted_class_is_found(recipe: dict, tmp_path: Path) -> None:
    bags, y = planted_bags(150, 0)
    assert auc(classified(bags, y, recipe, tmp_path)) > 0.8
