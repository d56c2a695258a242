"""Clusters of the tiles of one bag: k-means that depends on the bag alone, and means of packed bags' clusters.

Unlike prototypes, which are fitted once to the training part, these are found anew for every bag; so nothing is
learned, and what a bag's clusters are does not depend on the seed, on other bags, or on the order of its tiles.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

import torch
from torch import Tensor

from histostudy.models.batch import BagBatch

#: Columns by which tiles are brought into one order, whatever order they come in.
KEY_COLUMNS = 4


@torch.no_grad()
def cluster_labels(points: Tensor, clusters: int, iterations: int = 10) -> Tensor:
    """Cluster the points of one bag by k-means.

    The first centre is the point nearest to the mean, each further one the point farthest from those before
    (Gonzalez 1985); then Lloyd's iterations until no point moves.

    Parameters
    ----------
    points : Tensor
        (N, D).
    clusters : int
        Most clusters; a bag of no more points than that is left as it is, one point a cluster.
    iterations : int
        Most iterations.

    Returns
    -------
    Tensor
        (N,) int64, numbers from 0 without a gap, so the largest plus one is the number of clusters: fewer than asked
        where points coincide.
    """
    order = _one_order(points)
    if len(points) <= clusters:
        return order.argsort()
    with torch.autocast(points.device.type, enabled=False):
        labels = _lloyd(points[order].float(), clusters, iterations)
    found = torch.empty_like(labels)
    found[order] = labels
    return found.unique(return_inverse=True)[1]


def _lloyd(x: Tensor, clusters: int, iterations: int) -> Tensor:
    """Labels (N,), with gaps where a cluster lost all its points."""
    x = x - x.mean(0)
    norms = x.square().sum(1)
    centres = x[_spread_out(x, norms, clusters)]
    labels = torch.full((len(x),), -1, device=x.device)
    for _ in range(iterations):
        # the norm of the point itself moves no point to another centre
        nearest = (centres.square().sum(1) - 2 * (x @ centres.T)).argmin(1)
        if torch.equal(nearest, labels):
            break
        labels = nearest
        sizes = torch.bincount(labels, minlength=len(centres))
        sums = torch.zeros_like(centres).index_add(0, labels, x)
        centres = torch.where(sizes[:, None] > 0, sums / sizes.clamp(min=1)[:, None], centres)
    return labels


def _one_order(points: Tensor) -> Tensor:
    """The order of points by their first columns, so that rounding is the same however they came."""
    order = torch.arange(len(points), device=points.device)
    for column in reversed(range(min(KEY_COLUMNS, points.shape[1]))):
        order = order[points[order, column].argsort(stable=True)]
    return order


def _spread_out(x: Tensor, norms: Tensor, clusters: int) -> Tensor:
    """Rows that start the clusters: the one nearest to zero, then always the farthest from those before."""
    chosen = [norms.argmin()]
    nearest = torch.full_like(norms, torch.inf)
    while len(chosen) < clusters:
        last = x[chosen[-1]]
        nearest = torch.minimum(nearest, norms - 2 * (x @ last) + last.square().sum())
        nearest[chosen[-1]] = 0.0  # rounding must not choose a point twice
        chosen.append(nearest.argmax())
    return torch.stack(chosen)


class ClusterCache:
    """Clusters of bags seen before, found again by the bytes of the points; the oldest go when it is full.

    Parameters
    ----------
    clusters, iterations : int
        As `cluster_labels` takes them.
    most : int
        Most tiles whose labels are kept, two bytes each.
    """

    def __init__(self, clusters: int, iterations: int = 10, most: int = 1 << 26) -> None:
        self.clusters, self.iterations, self.most = clusters, iterations, most
        self._labels: OrderedDict[bytes, Tensor] = OrderedDict()
        self._size = 0

    def labels(self, points: Tensor, offsets: Sequence[int]) -> list[Tensor]:
        """Labels of each of packed bags' points; the rows ``offsets[i]:offsets[i + 1]`` are bag i."""
        return [self._of(points[start:stop]) for start, stop in zip(offsets[:-1], offsets[1:], strict=True)]

    def _of(self, points: Tensor) -> Tensor:
        if len(points) <= self.clusters:
            return cluster_labels(points, self.clusters)
        data = points.detach().cpu().contiguous()
        key = blake2b(data.view(torch.uint8).numpy().tobytes(), digest_size=16).digest()
        if key not in self._labels:
            labels = cluster_labels(points, self.clusters, self.iterations)
            self._labels[key] = labels.to("cpu", torch.int16 if self.clusters < 1 << 15 else torch.int64)
            self._size += len(labels)
            while self._size > self.most and len(self._labels) > 1:
                self._size -= len(self._labels.popitem(last=False)[1])
        return self._labels[key].to(points.device, torch.int64)


def cluster_means(batch: BagBatch, labels: Sequence[Tensor]) -> tuple[BagBatch, Tensor]:
    """Mean features of the clusters of each bag.

    Parameters
    ----------
    batch : BagBatch
        Bags.
    labels : sequence of Tensor
        (N_i,) cluster of each tile of each bag, without gaps.

    Returns
    -------
    tokens : BagBatch
        The means: a bag has as many rows as clusters, in their order; without coordinates.
    place : Tensor
        (T,) row of `tokens` that each tile went to.
    """
    counts = torch.stack([label.max() + 1 for label in labels])
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    place = torch.cat(list(labels)) + offsets[batch.segments]
    sizes = torch.bincount(place)
    sums = batch.features.new_zeros(len(sizes), batch.features.shape[1]).index_add(0, place, batch.features)
    means = sums / sizes[:, None].to(sums.dtype)
    return BagBatch(means, offsets, None, batch.modalities), place


def spread_over_tiles(weights: Tensor, place: Tensor) -> Tensor:
    """Share the weights (M,) of clusters equally among their tiles: (T,)."""
    return (weights / torch.bincount(place, minlength=len(weights)).to(weights.dtype))[place]
