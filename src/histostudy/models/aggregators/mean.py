"""Mean pooling: the baseline every study must beat."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from histostudy.models.batch import BagBatch, segment_mean
from histostudy.models.registry import AGGREGATORS, Aggregator, is_count, is_share, require


@dataclass(frozen=True)
class MeanOptions:
    """Options of `Mean`: width of the embedding (None: none, a linear model) and its dropout."""

    hidden: int | None = None
    dropout: float = 0.25

    def __post_init__(self) -> None:
        require(self.hidden is None or is_count(self.hidden), "hidden is null or a whole number from 1")
        require(is_share(self.dropout), "dropout is from 0 up to 1")


@AGGREGATORS.register("mean")
class Mean(Aggregator):
    """Mean over the tiles of the features themselves, or of ReLU(features W + b) with `hidden`.

    With a linear head the first is a linear model of the patient's mean, the second the mean of instance logits
    (the two commute).
    """

    Options = MeanOptions

    def __init__(self, dim_in: int, options: MeanOptions) -> None:
        super().__init__(dim_in, options)
        self.linear = options.hidden is None
        self.dim_out = options.hidden or dim_in
        self.embed: nn.Module | None = None
        if options.hidden is not None:
            self.embed = nn.Sequential(nn.Linear(dim_in, options.hidden), nn.ReLU(), nn.Dropout(options.dropout))

    def forward(self, batch: BagBatch) -> tuple[Tensor, Tensor | None]:
        """Pool; every tile of a bag has the same attention."""
        tiles = batch.features if self.embed is None else self.embed(batch.features)
        attention = (1 / batch.lengths.to(tiles.dtype))[batch.segments]
        return segment_mean(tiles, batch), attention
