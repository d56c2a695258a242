"""Gene expression from cluster means and linearised attention (Pizurica et al., SEQUOIA, Nat Commun 2024)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from histostudy.models.batch import BagBatch, segment_mean
from histostudy.models.clusters import ClusterCache, cluster_means
from histostudy.models.registry import AGGREGATORS, Aggregator, is_count, is_share, require


@dataclass(frozen=True)
class SequoiaOptions:
    """Options of `Sequoia` (in brackets the published values where they differ).

    clusters : of the tiles of a bag; iterations : of k-means; width : of the tokens, null for that of the features
    (that of the features); depth : blocks (6); heads : a block (16); head_width : of each head's local and of its
    summary branch; feed : width of the feed-forward layer in units of the tokens'; dropout : of both branches'
    outputs; position : adds a learned embedding of the cluster's number, as the published code does. It is off by
    default: the number of a cluster is an accident of k-means, so cluster 7 of one slide has nothing in common with
    cluster 7 of another, and what is learned there is noise.
    """

    clusters: int = 100
    iterations: int = 10
    width: int | None = 128
    depth: int = 2
    heads: int = 4
    head_width: int = 64
    feed: int = 2
    dropout: float = 0.1
    position: bool = False

    def __post_init__(self) -> None:
        for name in ("clusters", "iterations", "depth", "heads", "head_width", "feed"):
            require(is_count(getattr(self, name)), f"{name} is a whole number from 1")
        require(self.width is None or is_count(self.width), "width is null or a whole number from 1")
        require(is_share(self.dropout), "dropout is from 0 up to 1")
        require(isinstance(self.position, bool), "position is true or false")


class SummaryMixing(nn.Module):
    """Mixing of tokens in linear time: c([f(x_n), mean over the bag of s(x)]) in each head, projected together.

    f, s and c are a linear layer and GELU each (our reading of which activation, and where).

    Parameters
    ----------
    width : int
        Of the tokens.
    heads, head_width : int
        Number of heads, and width of each branch of a head.
    """

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * head_width
        self.local = nn.Linear(width, inner)
        self.summary = nn.Linear(width, inner)
        bound = (2 * head_width) ** -0.5
        self.combine = nn.Parameter(torch.empty(heads, 2 * head_width, head_width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(inner))
        self.project = nn.Linear(inner, width)

    def forward(self, tokens: BagBatch) -> Tensor:
        """(M, width) of packed tokens to the same."""
        x = tokens.features
        local = gelu(self.local(x)).unflatten(1, (self.heads, -1))
        # x is a LayerNorm's, so never of half precision, and neither is the sum over the tokens
        summary = segment_mean(gelu(self.summary(x)).to(x.dtype), tokens)[tokens.segments]
        both = torch.cat([local.to(x.dtype), summary.unflatten(1, (self.heads, -1))], 2)
        mixed = torch.einsum("mhi,hij->mhj", both, self.combine)
        return self.project(gelu(mixed.flatten(1) + self.bias))


class Block(nn.Module):
    """Mixing and a feed-forward layer, each added to what it was given the LayerNorm of."""

    def __init__(self, width: int, options: SequoiaOptions) -> None:
        super().__init__()
        self.norm, self.norm_feed = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mixing = SummaryMixing(width, options.heads, options.head_width)
        self.feed = nn.Sequential(
            nn.Linear(width, options.feed * width), nn.GELU(), nn.Linear(options.feed * width, width)
        )
        self.drop = nn.Dropout(options.dropout)

    def forward(self, tokens: BagBatch) -> BagBatch:
        """Packed tokens of one width to the same."""
        x = tokens.features
        x = x + self.drop(self.mixing(tokens.with_features(self.norm(x))))
        return tokens.with_features(x + self.drop(self.feed(self.norm_feed(x))))


@AGGREGATORS.register("sequoia")
class Sequoia(Aggregator):
    """Means of the clusters of a bag's tiles as tokens; blocks of summary mixing; mean over the tokens, LayerNorm.

    A cluster counts the same however many tiles it has. The clusters of a bag depend on its tiles alone (see
    `histostudy.models.clusters`), so they are found once and kept for the epochs to come; where every step draws
    other tiles (`max_tiles`) or alters them (some recipes), they are found anew every time, which is much slower.
    Bags of no more tiles than `clusters` are their own tokens.
    """

    Options = SequoiaOptions

    def __init__(self, dim_in: int, options: SequoiaOptions) -> None:
        super().__init__(dim_in, options)
        width = options.width or dim_in
        self.dim_out = width
        self.embed: nn.Module = nn.Identity() if options.width is None else nn.Linear(dim_in, width)
        self.position = nn.Parameter(0.02 * torch.randn(options.clusters, width)) if options.position else None
        self.blocks = nn.Sequential(*(Block(width, options) for _ in range(options.depth)))
        self.norm = nn.LayerNorm(width)
        self._clusters = ClusterCache(options.clusters, options.iterations)

    def forward(self, batch: BagBatch) -> tuple[Tensor, Tensor | None]:
        """Cluster, mix and pool; there is no attention, as every cluster weighs the same."""
        labels = self._clusters.labels(batch.features, batch.offsets.tolist())
        tokens, _ = cluster_means(batch, labels)
        x = self.embed(tokens.features)
        if self.position is not None:
            x = x + self.position[tokens.place]
        tokens = self.blocks(tokens.with_features(x))
        return self.norm(segment_mean(tokens.features, tokens)), None
