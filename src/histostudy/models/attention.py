"""Aggregators in two steps: each tile is embedded by itself, then the embedded tiles are pooled with attention.

The seam between the two is where recipes work: tokens are dropped, merged or added there, and the attention maps are
looked at, whatever the aggregator (see `histostudy.training.recipes`).
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from histostudy.models.batch import BagBatch
from histostudy.models.layers import tile_by_tile
from histostudy.models.registry import Aggregator


class Pooled(NamedTuple):
    """What pooling gives.

    Attributes
    ----------
    vectors : Tensor
        (B, dim_out).
    maps : Tensor
        (T, K) attention maps in float32 or better; each sums to 1 over the tokens of each bag.
    """

    vectors: Tensor
    maps: Tensor


class AttentionAggregator(Aggregator):
    """An aggregator that embeds tiles one by one and pools them with attention.

    A subclass sets `embed` (a module from (T, dim_in) to (T, width), tile by tile, so that what other tiles there are
    does not matter), `width` and `dim_out`, and implements `pool`. Layers that mix tiles belong to `pool`.
    """

    embed: nn.Module
    width: int
    #: Where tiles lie matters to `pool`, so that tokens that lie nowhere must not be put among them.
    places: bool = False
    #: The vectors of evaluation are other quantities than those of training.
    evaluates_otherwise: bool = False

    def tokens(self, batch: BagBatch) -> BagBatch:
        """The bags with their tiles embedded, in memory that many tiles do not break."""
        return batch.with_features(tile_by_tile(self.embed, batch.features))

    def pool(self, tokens: BagBatch) -> Pooled:
        """Pool embedded tiles: `tokens.features` are (T, width). Tokens may be fewer or more than a bag has tiles."""
        raise NotImplementedError

    def contributions(self, tokens: BagBatch, pooled: Pooled) -> Tensor | None:
        """What each token adds to its bag's vector, (T, dim_out), where that vector is a sum over tokens; else None."""
        return None

    def forward(self, batch: BagBatch) -> tuple[Tensor, Tensor | None]:
        """Embed and pool; the attention is the mean of the maps."""
        vectors, maps = self.pool(self.tokens(batch))
        return vectors, maps.mean(1)
