"""Tiles matched to functional groups of genes by optimal transport (MOTCat, Xu and Chen, ICCV 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from histostudy.models.layers import full_precision
from histostudy.models.multimodal.mcat import GeneGuided, MCATOptions
from histostudy.models.registry import AGGREGATORS, is_positive, require
from histostudy.models.transport import unbalanced_plan


@dataclass(frozen=True)
class MOTCatOptions(MCATOptions):
    """Options of `MOTCat`: those of MCAT, and

    epsilon : weight of the plan's entropy, .1 in the paper; tau : weight of its marginals, .5; shift : subtract the
    smallest entry of each tile and token before their distance, as the paper's code does, although on planted anchors
    it finds fewer matches and keeps more outliers (16 % of the mass by plain distances, 21 %); normalise : divide a
    group's vector by its mass, which the paper does not: there it shrinks with the number of groups, by some 300
    where groups are pathways.
    """

    epsilon: float = 0.1
    tau: float = 0.5
    shift: bool = True
    normalise: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("epsilon", "tau"):
            require(is_positive(getattr(self, name)), f"{name} is a number above 0")
        for name in ("shift", "normalise"):
            require(isinstance(getattr(self, name), bool), f"{name} is true or false")


@AGGREGATORS.register("motcat")
class MOTCat(GeneGuided):
    """MCAT with its co-attention replaced by an unbalanced transport plan (Xu and Chen, ICCV 2023).

    A group's vector is the sum of the tiles weighted by its column of the plan. The plan carries no gradient. The
    attention of a tile is its share of the transported mass: tiles unlike every group are left behind. The paper cuts
    bags into micro-batches of 256 tiles for memory; the whole bag is matched at once here, as its later code does.
    """

    Options = MOTCatOptions

    def match(self, tiles: Tensor, mask: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Gather by the plan."""
        cost = transport_cost(tiles, mask, tokens, self.options.shift)
        plan = unbalanced_plan(cost, mask=mask, epsilon=self.options.epsilon, tau=self.options.tau)
        rows = plan.sum(2)
        attention = rows / rows.sum(1, keepdim=True)
        if self.options.normalise:
            plan = plan / plan.sum(1, keepdim=True)
        return plan.transpose(1, 2).to(tiles.dtype) @ tiles, full_precision(attention, tiles)


@torch.no_grad()
def transport_cost(tiles: Tensor, mask: Tensor, tokens: Tensor, shift: bool = True) -> Tensor:
    """Squared distances of tiles (B, N, h) and tokens (B, G, h), up to 1 in each bag.

    With `shift` each vector is taken less its own smallest entry.

    Returns
    -------
    Tensor
        (B, N, G) float64 without a gradient, zero where `mask` (B, N) is false.
    """
    one, two = tiles.double(), tokens.double()
    if shift:
        one, two = one - one.amin(2, keepdim=True), two - two.amin(2, keepdim=True)
    squares = one.square().sum(2)[:, :, None] + two.square().sum(2)[:, None]
    cost = torch.where(mask[:, :, None], (squares - 2 * one @ two.transpose(1, 2)).clamp(min=0), 0.0)
    most = cost.amax((1, 2), keepdim=True)
    return cost / torch.where(most > 0, most, 1.0)
