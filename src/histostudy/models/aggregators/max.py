"""Max pooling: one tile speaks for each dimension."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from histostudy.models.batch import BagBatch, segment_max, segment_sum
from histostudy.models.layers import relu_layers
from histostudy.models.registry import AGGREGATORS, Aggregator, is_count, is_share, require


@dataclass(frozen=True)
class MaxOptions:
    """Options of `Max`: width of the embedding (None: none) and its dropout."""

    hidden: int | None = 128
    dropout: float = 0.25

    def __post_init__(self) -> None:
        require(self.hidden is None or is_count(self.hidden), "hidden is null or a whole number from 1")
        require(is_share(self.dropout), "dropout is from 0 up to 1")


@AGGREGATORS.register("max")
class Max(Aggregator):
    """Largest value over the tiles, dimension by dimension, of ReLU(features W + b)."""

    Options = MaxOptions

    def __init__(self, dim_in: int, options: MaxOptions) -> None:
        super().__init__(dim_in, options)
        self.dim_out = options.hidden or dim_in
        self.embed: nn.Module = nn.Identity()
        if options.hidden is not None:
            self.embed = relu_layers(dim_in, options.hidden)
        self.drop = nn.Dropout(options.dropout)

    def forward(self, batch: BagBatch) -> tuple[Tensor, Tensor | None]:
        """Pool; a tile's attention is its share of the dimensions whose largest value it holds."""
        tiles = self.embed(batch.features)
        largest = segment_max(tiles, batch)
        attention = None
        if not self.training:
            holds = (tiles == largest[batch.segments]).to(tiles.dtype)
            holds = holds / segment_sum(holds, batch)[batch.segments]
            attention = holds.mean(1)
        return self.drop(largest), attention
