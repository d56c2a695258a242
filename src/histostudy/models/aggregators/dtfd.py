"""DTFD-MIL: two tiers of attention over pseudo-bags (Zhang et al., CVPR 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from histostudy.models.attention import AttentionAggregator, Pooled
from histostudy.models.batch import BagBatch, segment_argmax, segment_softmax, segment_sum
from histostudy.models.layers import GatedAttention, full_precision
from histostudy.models.registry import AGGREGATORS, Loss, is_count, is_number, is_share, require

DISTILLATIONS = ("max", "max_min", "afs")


@dataclass(frozen=True)
class DTFDOptions:
    """Options of `DTFD`.

    pseudo_bags : of a bag, fewer where it has fewer tiles; distill : what stands for a pseudo-bag, ``max`` (MaxS, its
    best tile), ``max_min`` (MaxMinS, its best and its worst) or ``afs`` (AFS, the weighted mean of all); hidden : width
    of the tile embedding (the paper: 512); attention : width of both attention layers (128); dropout : of the embedding
    (none); tier1_weight : of the first tier's loss beside the second's; joint : the second tier's loss trains the first
    tier and the embedding too; otherwise, as in the published training, the first tier's alone.
    """

    pseudo_bags: int = 5
    distill: str = "afs"
    hidden: int = 128
    attention: int = 64
    dropout: float = 0.25
    tier1_weight: float = 1.0
    joint: bool = False

    def __post_init__(self) -> None:
        for name in ("pseudo_bags", "hidden", "attention"):
            require(is_count(getattr(self, name)), f"{name} is a whole number from 1")
        require(self.distill in DISTILLATIONS, f"distill is one of {', '.join(DISTILLATIONS)}")
        require(is_share(self.dropout), "dropout is from 0 up to 1")
        require(isinstance(self.joint, bool), "joint is true or false")
        weight = self.tier1_weight
        require(is_number(weight) and weight >= 0, "tier1_weight is a number from 0")
        require(weight > 0 or self.joint, "tier1_weight is above 0 unless joint is true")


class Dealt(NamedTuple):
    """A batch's tokens dealt into pseudo-bags.

    Attributes
    ----------
    pseudo : BagBatch
        The pseudo-bags of the first bag, of the second, ...: P of them, packed.
    order : Tensor
        (T,) row of the batch that each token of `pseudo` was.
    owner : Tensor
        (P,) bag that each pseudo-bag is of.
    """

    pseudo: BagBatch
    order: Tensor
    owner: Tensor


@AGGREGATORS.register("dtfd")
class DTFD(AttentionAggregator):
    """Gated attention in each of G pseudo-bags, and over what is distilled from them.

    Tier 1: tiles h = ReLU(x W), attention a_i within each pseudo-bag, outputs W1 sum_i a_i h_i + b1, trained on the
    patient's outcome for every pseudo-bag. Tier 2: attention b_g over the distilled features of a bag, outputs
    W2 sum_g b_g d_g, trained beside it. A tile's score, for the best and the worst of a pseudo-bag, is its class
    activation W1 a_i h_i: after a softmax over the classes the last class's share of two, as published; of more, that
    of the class its pseudo-bag looks most like (our reading: the last would be an accident of their order). Any other
    head is our reading: the score is the sum of the outputs, so a hazard, or the value itself.

    The attention is that of tier 1 times that of tier 2, so it sums to 1 over a bag; with ``afs`` it is exactly the
    weight of the tile in the vector, with the other two it still shows all tiles.

    In training, tiles are dealt to pseudo-bags at random, anew at every step. In evaluation they are dealt in turn,
    tile after tile in their order, where the published code draws at random there too: a prediction here is always
    the same, but the order of tiles does matter. Positions are not looked at. Pseudo-bags of one bag differ by at
    most one tile. The paper steps two optimisers, here one goes over the sum of the losses.
    """

    Options = DTFDOptions
    scores: ClassVar[bool] = True
    #: Whether the outputs are of classes.
    classes: Tensor

    def __init__(self, dim_in: int, options: DTFDOptions, outputs: int) -> None:
        super().__init__(dim_in, options)
        self.width, self.dim_out = options.hidden, outputs
        hidden = options.hidden
        self.embed = nn.Sequential(nn.Linear(dim_in, hidden, bias=False), nn.ReLU(), nn.Dropout(options.dropout))
        self.first = GatedAttention(hidden, options.attention)
        self.first_score = nn.Linear(hidden, outputs)
        self.second = GatedAttention(hidden, options.attention)
        self.second_score = nn.Linear(hidden, outputs, bias=False)
        self.register_buffer("classes", torch.tensor(False))
        self._last: tuple[Tensor, Tensor] | None = None

    def start(self, targets: Mapping[str, Tensor]) -> None:
        """See whether the outcome is a class."""
        self.classes.fill_("y" in targets and targets["y"].dtype == torch.int64)

    def pool(self, tokens: BagBatch) -> Pooled:
        """Pool; one map."""
        dealt = deal(tokens, self.options.pseudo_bags, at_random=self.training)
        pseudo = dealt.pseudo
        first = segment_softmax(self.first(pseudo.features), pseudo)
        means = segment_sum(first * pseudo.features, pseudo)
        outputs = full_precision(self.first_score(means))
        self._last = (outputs, dealt.owner) if self.training else None
        distilled = self._distil(pseudo, first, means, outputs)
        if not self.options.joint:
            distilled = distilled.detach()
        several = distilled.shape[1]
        owners = BagBatch(distilled.flatten(0, 1), _starts(several * torch.bincount(dealt.owner)))
        second = segment_softmax(self.second(owners.features), owners)
        vectors = segment_sum(second * full_precision(self.second_score(owners.features)), owners)
        of_pseudo = second.unflatten(0, (-1, several)).sum(1)
        maps = torch.empty_like(first)
        maps[dealt.order] = first * of_pseudo[pseudo.segments]
        return Pooled(vectors, maps)

    def contributions(self, tokens: BagBatch, pooled: Pooled) -> Tensor | None:
        """W2 times the attention and h_i, with ``afs``."""
        if self.options.distill != "afs":
            return None
        return pooled.maps * full_precision(self.second_score(tokens.features))

    def _distil(self, pseudo: BagBatch, first: Tensor, means: Tensor, outputs: Tensor) -> Tensor:
        """(P, 1 or 2, width) of each pseudo-bag."""
        if self.options.distill == "afs":
            return means[:, None]
        with torch.no_grad():
            scores = self._tile_scores(pseudo, first, outputs)
            found = [segment_argmax(scores, pseudo)]
            if self.options.distill == "max_min":
                found.append(segment_argmax(-scores, pseudo))
        return pseudo.features[torch.cat(found, 1)]

    def _tile_scores(self, pseudo: BagBatch, first: Tensor, outputs: Tensor) -> Tensor:
        """(T, 1) by which the best tile of a pseudo-bag is found."""
        activation = first * full_precision(linear(pseudo.features, self.first_score.weight))
        if not self.classes:
            return activation.sum(1, keepdim=True)
        own = torch.full_like(outputs[:, :1], self.dim_out - 1, dtype=torch.int64)
        if self.dim_out > 2:
            own = outputs.argmax(1, keepdim=True)
        return activation.softmax(1).gather(1, own[pseudo.segments])

    def penalty(self, targets: Mapping[str, Tensor], loss: Loss) -> Tensor | None:
        """The weighted loss of the pseudo-bags' outputs."""
        last, self._last = self._last, None
        if last is None or not self.options.tier1_weight:
            return None
        outputs, owner = last
        return self.options.tier1_weight * loss(outputs, owner)


def deal(batch: BagBatch, most: int, *, at_random: bool) -> Dealt:
    """Deal the tokens of each bag in turn to min(most, N) pseudo-bags, none of which is empty.

    Parameters
    ----------
    batch : BagBatch
        Bags.
    most : int
        Pseudo-bags a bag.
    at_random : bool
        Shuffle each bag first, with torch's global generator; otherwise the tokens' order decides.
    """
    place = batch.place
    if at_random:
        shuffled = torch.randperm(len(place), device=place.device)
        shuffled = shuffled[batch.segments[shuffled].argsort(stable=True)]
        place = torch.empty_like(place).index_copy(0, shuffled, place)
    counts = batch.lengths.clamp(max=most)
    number = (counts.cumsum(0) - counts)[batch.segments] + place % counts[batch.segments]
    order = number.argsort(stable=True)
    owner = torch.repeat_interleave(torch.arange(len(batch), device=place.device), counts)
    return Dealt(BagBatch(batch.features[order], _starts(torch.bincount(number))), order, owner)


def _starts(lengths: Tensor) -> Tensor:
    """(B + 1,) offsets of bags of these lengths."""
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
