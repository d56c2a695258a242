"""Random parts of bags: so many tiles of each bag in a step, or each tile with a chance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from histostudy.errors import ModelError
from histostudy.models.batch import segment_max
from histostudy.models.registry import Aggregator, is_count, is_number, is_share, require
from histostudy.training.recipes.base import RECIPES, Recipe, Step
from histostudy.training.recipes.masking import random_mask, share_up


class TileRecipe(Recipe):
    """A recipe that acts on tiles; it goes with every aggregator that looks at them one by one."""

    #: What it does with tiles, for the message.
    does: ClassVar[str] = "chooses"

    def check(self, aggregator: Aggregator, kind: str) -> None:
        """Refuse an aggregator of tables alone, and one that gets the mean of a bag as its only tile."""
        super().check(aggregator, kind)
        name = type(aggregator).__name__
        if not aggregator.uses_tiles:
            raise ModelError(f"recipe {self.name} {self.does} tiles, and {name} looks at none", todo="leave it out")
        if aggregator.linear:
            what = f"recipe {self.name} {self.does} tiles, and a linear {name} gets the mean of all of them"
            raise ModelError(what, todo="leave it out, or give the aggregator a layer (`hidden`)")


@dataclass(frozen=True)
class SubsampleSettings:
    """Settings of `Subsample`: `share` of each bag's tiles, rounded up; `tiles`, so many at most instead."""

    share: float = 0.5
    tiles: int | None = None

    def __post_init__(self) -> None:
        require(is_number(self.share) and 0 < self.share <= 1, "share is above 0 and at most 1")
        require(self.tiles is None or is_count(self.tiles), "tiles is a whole number from 1")


@RECIPES.register("subsample")
class Subsample(TileRecipe):
    """A random part of each bag, drawn anew without replacement in each step; the order of the tiles stays.

    With `tiles` it is what ``training.max_tiles`` is, which in addition spares the reading. Inference is on whole bags.
    """

    Settings = SubsampleSettings

    def tiles(self, step: Step) -> None:
        """Draw."""
        settings, batch = self.settings, step.batch
        if settings.tiles is None:
            counts = share_up(batch.lengths, settings.share).clamp(min=1)
        else:
            counts = batch.lengths.clamp(max=settings.tiles)
        if bool((counts < batch.lengths).any()):
            step.batch = batch.select(random_mask(counts, batch, step.generator))


@dataclass(frozen=True)
class InstanceDropoutSettings:
    """Settings of `InstanceDropout`: `p`, the chance of a tile to be dropped."""

    p: float = 0.2

    def __post_init__(self) -> None:
        require(is_share(self.p), "p is from 0 up to 1")


@RECIPES.register("instance_dropout")
class InstanceDropout(TileRecipe):
    """Each tile is dropped with a chance of `p`, independently; of a bag that would lose all, a random one stays.

    Nothing is scaled up for what is dropped: attention sums to 1 over what is left. Inference is on whole bags.
    """

    Settings = InstanceDropoutSettings

    def tiles(self, step: Step) -> None:
        """Drop."""
        if not self.settings.p:
            return
        batch = step.batch
        draw = torch.rand(len(batch.features), 1, generator=step.generator, dtype=torch.float64).to(
            batch.offsets.device
        )
        # the largest draw of a bag is kept anyway, unless all are below p
        kept = (draw >= self.settings.p) | (draw == segment_max(draw, batch)[batch.segments])
        step.batch = batch.select(kept[:, 0])
