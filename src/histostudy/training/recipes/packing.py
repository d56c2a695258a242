"""The parts of PackMIL (Tang et al., arXiv 2509.20923): splitting bags in two, hyperslides, and what their label is.

A hyperslide is a bag made of the residual tokens of several patients. Its patients are its members, and a member
counts by its tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from histostudy.models.batch import BagBatch, segment_sum
from histostudy.models.heads import Head
from histostudy.models.layers import full_precision
from histostudy.models.survival import bin_of, nll_loss
from histostudy.training.recipes.masking import random_mask, share_down, top_mask

#: Gleason's two patterns of the ISUP grades 0 to 5 (0, no cancer, as 2 + 2; 4 and 5 as 4 + 4 and 5 + 5).
MAJOR = (2.0, 3.0, 3.0, 4.0, 4.0, 5.0)
MINOR = (2.0, 3.0, 4.0, 3.0, 4.0, 5.0)
#: Gleason sums at which the grade is known: 0, 1, 2 or 3, 4, 5. Published with 0 in place of the first 4, so that
#: a hyperslide of nothing but grade 0 would be two thirds of grade 1.
SUMS = (4.0, 6.0, 7.0, 8.0, 9.0)


@dataclass(frozen=True)
class Hyperslides:
    """Residual sets, packed.

    Attributes
    ----------
    batch : BagBatch
        H hyperslides as bags; positions are not known, for those of several slides mean nothing beside each other.
    patients : Tensor
        (S,) the place in the batch of each set's patient.
    slide : Tensor
        (S,) the hyperslide of each set.
    tokens : Tensor
        (S,) size of each set.
    """

    batch: BagBatch
    patients: Tensor
    slide: Tensor
    tokens: Tensor

    def mean(self, values: Tensor) -> Tensor:
        """Mean (H, ...) over the members, by their tokens, of (S, ...) values; NaN adds nothing, and is alone NaN."""
        weights = self.tokens.to(values.dtype).reshape(-1, *(1 for _ in values.shape[1:]))
        there = torch.isfinite(values)
        total = values.new_zeros(len(self.batch), *values.shape[1:])
        known = total.index_add(0, self.slide, (weights * there).expand_as(values))
        return total.index_add(0, self.slide, torch.where(there, weights * values, 0.0)) / known


def split_bags(
    batch: BagBatch, keep: float, smallest: int, main_most: int, rest_most: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Split the tiles of each bag at random.

    A bag of N < `smallest` tiles is whole in both parts. Of the others floor(N `keep`), at least one, are main and the
    rest residual: together each tile once, as long as neither part is cut.

    Parameters
    ----------
    batch : BagBatch
        The bags.
    keep : float
        Share that is main.
    smallest : int
        Size from which bags are split.
    main_most, rest_most : int
        Of a larger part so many tiles are drawn.
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    tuple of Tensor
        (T,) bool each: main, at least one tile a bag, and residual, perhaps none.
    """
    counts = share_down(batch.lengths, keep).clamp(min=1)
    main = random_mask(counts, batch, generator)
    small = (batch.lengths < smallest)[batch.segments]
    parts = []
    for part, most in ((main | small, main_most), (~main | small, rest_most)):
        sizes = segment_sum(part.long(), batch)
        if bool((sizes > most).any()):
            part = top_mask(part.long(), sizes.clamp(max=most), batch, generator)
        parts.append(part)
    return parts[0], parts[1]


def sets_of(batch: BagBatch, residual: Tensor) -> tuple[BagBatch, Tensor]:
    """The tiles where `residual` (T,) is true as bags, and the places (S,) of the patients who have any."""
    counts = segment_sum(residual.long(), batch)
    patients = counts.nonzero()[:, 0]
    lengths = counts[patients]
    sets = BagBatch(
        batch.features[residual],
        torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]),
        None if batch.coords is None else batch.coords[residual],
        {},
        None if batch.scales is None else batch.scales[residual],
    )
    return sets, patients


def next_fit(sizes: Tensor, most: int) -> Tensor:
    """Pack in the order of arrival: each of `sizes` (S,) joins the open pack if that stays at `most`, or opens one.

    Returns
    -------
    Tensor
        (S,) the pack of each; one that is larger than `most` has a pack of its own.
    """
    packs, number, held = [], -1, most
    for size in sizes.tolist():
        if number < 0 or held + size > most:
            number, held = number + 1, 0
        packs.append(number)
        held += size
    return torch.tensor(packs, dtype=torch.long, device=sizes.device)


def hyperslides(sets: BagBatch, patients: Tensor, most: int) -> Hyperslides:
    """Pack the sets of `patients` (S,) into hyperslides of at most `most` tokens."""
    slide = next_fit(sets.lengths, most)
    last = torch.cat([slide[1:] != slide[:-1], slide.new_ones(1, dtype=torch.bool)])
    ends = sets.offsets[1:][last]
    packed = replace(sets, offsets=torch.cat([ends.new_zeros(1), ends]), coords=None)
    return Hyperslides(packed, patients, slide, sets.lengths)


def class_labels(y: Tensor, classes: int, packed: Hyperslides) -> Tensor:
    """(H, classes) shares of the members' classes; `y` (S,)."""
    return packed.mean(torch.nn.functional.one_hot(y, classes).double())


def isup_labels(y: Tensor, packed: Hyperslides) -> Tensor:
    """(H, 6) ISUP grades of mixed prostate slides, through the mean Gleason patterns of the members' grades `y` (S,).

    With M and m the means of the major and minor pattern, M + m is mapped to a grade linearly between the sums of
    `SUMS`, 7 being grade 2 where m >= M, else 3; the grade is shared between its two neighbours.
    """
    major, minor = (packed.mean(y.new_tensor(of, dtype=torch.float64)[y]) for of in (MAJOR, MINOR))
    total = major + minor
    seven = torch.where(minor >= major, 2.0, 3.0).double()
    grades = torch.stack([0 * seven, 0 * seven + 1, seven, 0 * seven + 4, 0 * seven + 5], 1)
    sums = total.new_tensor(SUMS)
    right = torch.bucketize(total, sums).clamp(1, len(SUMS) - 1)[:, None]
    low, high = grades.gather(1, right - 1)[:, 0], grades.gather(1, right)[:, 0]
    start, end = sums[right[:, 0] - 1], sums[right[:, 0]]
    grade = low + ((total - start) / (end - start)).clamp(0, 1) * (high - low)
    return (1 - (grade[:, None] - torch.arange(6, device=y.device)).abs()).clamp(min=0)


def survival_labels(interval: Tensor, event: Tensor, packed: Hyperslides) -> tuple[Tensor, Tensor, Tensor]:
    """When a hyperslide has its event, as a patient who is partly censored.

    The earliest interval of the members counts. If a member has its event then, the hyperslide has: it is not
    censored (of several members of that interval, published the first to arrive decides). Otherwise it is censored
    there to the members' share of censored tokens, and has its event in the first interval of a member with one.

    Parameters
    ----------
    interval, event : Tensor
        (S,) interval and 1 event, 0 censored.
    packed : Hyperslides
        H of them.

    Returns
    -------
    tuple of Tensor
        (H,) interval of the event, interval of the censoring, and censored share.
    """
    late = torch.iinfo(interval.dtype).max

    def earliest(values: Tensor) -> Tensor:
        return values.new_full((len(packed.batch),), late).scatter_reduce(0, packed.slide, values, "amin")

    first = earliest(interval)
    seen = earliest(torch.where(event > 0, interval, late))
    share = packed.mean(1 - event.double())
    return torch.where(seen == late, first, seen), first, torch.where(seen == first, 0.0, share)


def survival_loss(logits: Tensor, label: tuple[Tensor, Tensor, Tensor], alpha: float = 0.0) -> Tensor:
    """(1 - c) times the loss of the event and c times that of the censoring: see `survival_labels` and `nll_loss`."""
    losses = []
    for row, seen, first, share in zip(logits[:, None], *label, strict=True):
        share = share.to(logits.dtype)
        events = [nll_loss(row, at[None], row.new_full((1,), one), alpha) for at, one in ((seen, 1.0), (first, 0.0))]
        losses.append((1 - share) * events[0] + share * events[1])
    return torch.stack(losses).mean()


def hyperslide_loss(
    head: Head, vectors: Tensor, targets: Mapping[str, Tensor], packed: Hyperslides, isup: bool
) -> Tensor:
    """The loss of the vectors (H, dim_out) of hyperslides.

    Parameters
    ----------
    head : Head
        Of classes, hazards or numbers.
    vectors : Tensor
        (H, dim_out).
    targets : mapping
        Outcomes of the batch's patients.
    packed : Hyperslides
        Who is in them.
    isup : bool
        The classes are ISUP grades: see `isup_labels`.
    """
    raw = full_precision(head(vectors))
    theirs = {name: value[packed.patients] for name, value in targets.items()}
    kind = head.config["kind"]
    if kind == "classification":
        label = isup_labels(theirs["y"], packed) if isup else class_labels(theirs["y"], raw.shape[1], packed)
        return cross_entropy(raw, label.to(raw.dtype))
    if kind == "survival_nll":
        edges: Tensor = head.edges  # type: ignore[assignment]
        when = survival_labels(bin_of(theirs["time"], edges), theirs["event"], packed)
        return survival_loss(raw, when, head.config.get("alpha", 0.0))
    return head.loss(raw, {"y": packed.mean(theirs["y"])})
