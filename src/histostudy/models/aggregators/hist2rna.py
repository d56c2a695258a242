"""Gene expression from the mean of the tiles (Mondol et al., hist2RNA, Cancers 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from histostudy.models.batch import BagBatch, even_attention, segment_mean
from histostudy.models.layers import relu_layers
from histostudy.models.registry import AGGREGATORS, Aggregator, is_count, is_share, require


@dataclass(frozen=True)
class Hist2RNAOptions:
    """Options of `Hist2RNA`.

    widths : of the layers (the paper's, and practical on a CPU, as they see one vector a patient); dropout : after
    each layer (the paper has none).
    """

    widths: Sequence[int] = (256, 512, 512)
    dropout: float = 0.0

    def __post_init__(self) -> None:
        given = isinstance(self.widths, list | tuple) and len(self.widths) > 0
        require(given and all(map(is_count, self.widths)), "widths is a list of whole numbers from 1")
        require(is_share(self.dropout), "dropout is from 0 up to 1")


@AGGREGATORS.register("hist2rna")
class Hist2RNA(Aggregator):
    """Mean of the tiles, then linear layers with ReLU; the head is the linear layer to the genes.

    The published network is three 1-D convolutions (kernel 5 with padding 2, then twice kernel 1), each with ReLU, and
    a global average pool, of the mean vector taken as a sequence of length one. Of such a sequence a padded kernel
    sees zeros but for its centre, and the pool averages one position: the network is this MLP, and 4/5 of the first
    kernel's weights never see data.
    """

    Options = Hist2RNAOptions

    def __init__(self, dim_in: int, options: Hist2RNAOptions) -> None:
        super().__init__(dim_in, options)
        self.layers = relu_layers(dim_in, *options.widths, dropout=options.dropout)
        self.dim_out = options.widths[-1]

    def forward(self, batch: BagBatch) -> tuple[Tensor, Tensor | None]:
        """Pool, then embed; every tile of a bag has the same attention."""
        return self.layers(segment_mean(batch.features, batch)), even_attention(batch)
