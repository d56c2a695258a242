"""Bags of several patients packed end to end, and sums over each of them.

A packed batch holds every tile once and no padding, so that a patient of one tile and a patient of ten thousand
cost what they hold, and nothing of one bag can reach another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Modality:
    """A table beside the slides: omics, mutations, clinical covariates.

    Parameters
    ----------
    name : str
        As the study names it.
    columns : tuple of str
        (P,) its columns, in the order of the values.
    groups : tuple of tuple of int
        Column numbers of each functional group, such as a pathway; a column may be in several. One group of all
        columns where the study names none.
    """

    name: str
    columns: tuple[str, ...]
    groups: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class ModalityValues:
    """Values of one modality for the patients of a batch.

    Parameters
    ----------
    values : Tensor
        (B, P) float32, standardised on the training part; zeros in the rows of patients who do not have it.
    present : Tensor
        (B,) bool, whether the patient has the modality.
    """

    values: Tensor
    present: Tensor


@dataclass
class BagBatch:
    """A batch of bags, packed.

    Parameters
    ----------
    features : Tensor
        (T, D) the tiles of all bags, bag after bag.
    offsets : Tensor
        (B + 1,) int64; the rows ``offsets[i]:offsets[i + 1]`` are bag i. No bag is empty.
    coords : Tensor, optional
        (T, 2) int64, level-0 pixels.
    scales : Tensor, optional
        (T,) float32, scale of each tile in micrometres per pixel, where a bag holds tiles of several.
    modalities : mapping of str to ModalityValues
        What is known of the patients beside their tiles, by the modality's name.
    """

    features: Tensor
    offsets: Tensor
    coords: Tensor | None = None
    modalities: Mapping[str, ModalityValues] = field(default_factory=dict)
    scales: Tensor | None = None

    @classmethod
    def pack(cls, bags: Sequence[Tensor], coords: Sequence[Tensor] | None = None) -> BagBatch:
        """Pack bags of (N_i, D) each."""
        lengths = torch.tensor([0, *(len(bag) for bag in bags)])
        offsets = lengths.cumsum(0).to(bags[0].device)
        return cls(torch.cat(list(bags)), offsets, None if coords is None else torch.cat(list(coords)))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> Tensor:
        """(B,) number of tiles of each bag."""
        return self.offsets.diff()

    @cached_property
    def segments(self) -> Tensor:
        """(T,) index of the bag each tile belongs to."""
        bags = torch.arange(len(self), device=self.offsets.device)
        return torch.repeat_interleave(bags, self.lengths, output_size=len(self.features))

    @cached_property
    def place(self) -> Tensor:
        """(T,) number of each tile within its bag, from 0."""
        return torch.arange(len(self.features), device=self.offsets.device) - self.offsets[self.segments]

    def padded(self) -> tuple[Tensor, Tensor]:
        """The batch as a zero-padded (B, N_max, D) tensor and its (B, N_max) mask of real tiles."""
        width = int(self.lengths.max())
        padded = self.features.new_zeros(len(self), width, self.features.shape[1])
        padded[self.segments, self.place] = self.features
        mask = torch.arange(width, device=self.features.device) < self.lengths[:, None]
        return padded, mask

    def with_features(self, features: Tensor) -> BagBatch:
        """The same bags with other features of the same tiles."""
        return replace(self, features=features)

    def select(self, kept: Tensor) -> BagBatch:
        """The tiles where `kept` (T,) is true; every bag must keep at least one."""
        lengths = segment_sum(kept.long(), self)
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        return replace(
            self,
            features=self.features[kept],
            offsets=offsets,
            coords=None if self.coords is None else self.coords[kept],
            scales=None if self.scales is None else self.scales[kept],
        )

    def with_tokens(self, tokens: Tensor) -> BagBatch:
        """The bags with the (B, k, D) `tokens` after each one's own tiles; where they lie is not known any more."""
        count, extra = len(self), tokens.shape[1]
        steps = torch.arange(count + 1, device=self.offsets.device) * extra
        features = self.features.new_empty(len(self.features) + count * extra, self.features.shape[1])
        own = torch.ones(len(features), dtype=torch.bool, device=features.device)
        own[(self.offsets[1:, None] + steps[:-1, None] + torch.arange(extra, device=features.device)).flatten()] = False
        features[own] = self.features
        features[~own] = tokens.flatten(0, 1).to(features.dtype)
        return BagBatch(features, self.offsets + steps, None, self.modalities)


def even_attention(batch: BagBatch) -> Tensor:
    """(T,) the same attention for every tile of a bag, in the precision of the features."""
    return (1 / batch.lengths.to(batch.features.dtype))[batch.segments]


def segment_sum(values: Tensor, batch: BagBatch) -> Tensor:
    """Sum (T, ...) over each bag: (B, ...)."""
    return values.new_zeros(len(batch), *values.shape[1:]).index_add(0, batch.segments, values)


def segment_mean(values: Tensor, batch: BagBatch) -> Tensor:
    """Mean of (T, D) over each bag: (B, D)."""
    return segment_sum(values, batch) / batch.lengths[:, None].to(values.dtype)


def segment_max(values: Tensor, batch: BagBatch) -> Tensor:
    """Largest of (T, D) over each bag: (B, D); the gradient goes to the tiles that reach it, in equal shares."""
    index = batch.segments[:, None].expand_as(values)
    empty = values.new_zeros(len(batch), values.shape[1])
    return empty.scatter_reduce(0, index, values, "amax", include_self=False)


def segment_argmax(values: Tensor, batch: BagBatch) -> Tensor:
    """(B, K) row of the highest of (T, K) in each bag, column by column; the first of several."""
    rows = torch.arange(len(values), device=values.device)[:, None].expand_as(values)
    reached = values == segment_max(values, batch)[batch.segments]
    last = rows.new_full((len(batch), values.shape[1]), len(values) - 1)  # a row, even where all values are NaN
    index = batch.segments[:, None].expand_as(values)
    return last.scatter_reduce(0, index, torch.where(reached, rows, len(values) - 1), "amin")


def segment_softmax(scores: Tensor, batch: BagBatch) -> Tensor:
    """Softmax of (T, K) over the tiles of each bag; every column of every bag sums to 1."""
    largest = segment_max(scores.detach(), batch)
    weights = (scores - largest[batch.segments]).exp()
    return weights / segment_sum(weights, batch)[batch.segments]
