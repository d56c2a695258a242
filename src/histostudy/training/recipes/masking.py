"""Masks of the tiles of packed bags: exact counts of the highest, the lowest or any tiles, without a loop over bags.

All of them rank the tiles of each bag by sorting the packed batch once; ties are broken at random, so that tiles of
equal score have equal chances.
"""

from __future__ import annotations

import torch
from torch import Tensor

from histostudy.models.batch import BagBatch, segment_sum

#: What a product of a share and a count may be off by before it is rounded: 0.07 x 100 is 7.000000000000001.
ROUNDING = 1e-9


def share_up(lengths: Tensor, share: float) -> Tensor:
    """(B,) ceil(N share)."""
    return (lengths.double() * share - ROUNDING).ceil().clamp(min=0).long()


def share_down(lengths: Tensor, share: float) -> Tensor:
    """(B,) floor(N share)."""
    return (lengths.double() * share + ROUNDING).floor().long()


def top_mask(scores: Tensor, counts: Tensor, batch: BagBatch, generator: torch.Generator) -> Tensor:
    """The tiles with the highest scores of each bag.

    Parameters
    ----------
    scores : Tensor
        (T,).
    counts : Tensor
        (B,) how many tiles of each bag; all of a bag that has fewer.
    batch : BagBatch
        The bags.
    generator : torch.Generator
        On the CPU; decides between equal scores.

    Returns
    -------
    Tensor
        (T,) bool.
    """
    order = torch.rand(len(scores), generator=generator).argsort().to(scores.device)
    order = order[scores[order].argsort(descending=True, stable=True)]
    order = order[batch.segments[order].argsort(stable=True)]
    rank = torch.empty_like(batch.place)
    rank[order] = batch.place
    return rank < counts[batch.segments]


def random_mask(counts: Tensor, batch: BagBatch, generator: torch.Generator) -> Tensor:
    """(T,) bool: any `counts` (B,) tiles of each bag."""
    return top_mask(counts.new_zeros(len(batch.segments)), counts, batch, generator)


def voted_mask(scores: Tensor, counts: Tensor, batch: BagBatch, generator: torch.Generator) -> Tensor:
    """(T,) bool: each of the K columns of `scores` (T, K) marks its highest tiles; those with most votes are taken.

    As many tiles of each bag as each column marks. With one column these are its highest.
    """
    votes = [top_mask(column, counts, batch, generator) for column in scores.unbind(1)]
    return votes[0] if len(votes) == 1 else top_mask(torch.stack(votes).sum(0), counts, batch, generator)


def high_mask(scores: Tensor, share: float, drop: float, batch: BagBatch, generator: torch.Generator) -> Tensor:
    """A random part of the tiles with the highest scores.

    Of the ceil(N share / drop) highest tiles of a bag, ceil(. drop) are drawn, but never all of a bag. With ``drop=1``
    these are the ceil(N share) highest.

    Parameters
    ----------
    scores : Tensor
        (T, K); several columns vote.
    share : float
        Of the bag that is masked, at most `drop`.
    drop : float
        Of the highest tiles that is masked, above 0.
    batch : BagBatch
        The bags.
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    Tensor
        (T,) bool.
    """
    first = torch.minimum(share_up(batch.lengths, share / drop), batch.lengths)
    counts = torch.minimum(share_up(first, drop), batch.lengths - 1)
    if drop == 1:
        return voted_mask(scores, counts, batch, generator)
    highest = voted_mask(scores, first, batch, generator)
    # chance decides between equal scores: a part of the highest is the top of "highest or not"
    return top_mask(highest.long(), counts, batch, generator)


def never_empty(kept: Tensor, spare: Tensor, batch: BagBatch, generator: torch.Generator) -> Tensor:
    """`kept` (T,) bool, with one tile drawn where a bag kept none; not one of `spare` (T,) while there is another."""
    empty = segment_sum(kept.long(), batch) == 0
    if not bool(empty.any()):
        return kept
    return kept | top_mask((~spare).long(), empty.long(), batch, generator)
