"""Tables alone, without tiles: the self-normalising network that multimodal survival papers compare with."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from histostudy.models.batch import BagBatch, Modality
from histostudy.models.multimodal.encoders import TableVectors
from histostudy.models.registry import AGGREGATORS, Aggregator, is_count, is_share, require


@dataclass(frozen=True)
class SNNOptions:
    """Options of `SNN`; the defaults are the paper's.

    width : of each block; blocks : number of blocks; dropout : of AlphaDropout.
    """

    width: int = 256
    blocks: int = 4
    dropout: float = 0.25

    def __post_init__(self) -> None:
        for name in ("width", "blocks"):
            require(is_count(getattr(self, name)), f"{name} is a whole number from 1")
        require(is_share(self.dropout), "dropout is from 0 up to 1")


@AGGREGATORS.register("snn")
class SNN(Aggregator):
    """Self-normalising network of the tables (Klambauer et al., NeurIPS 2017; the genomic baseline of MCAT, ICCV 2021).

    Each modality has its own network, so that a patient who lacks one keeps the others; their vectors are set side
    by side. MCAT adds an L1 penalty of all weights (`training.l1`), which its gradient accumulation makes 32 times
    stronger than stated and which costs the baseline up to .1 of concordance.
    """

    Options = SNNOptions
    uses_tiles = False
    multimodal = True
    lecun_head = True

    def __init__(self, dim_in: int, options: SNNOptions, modalities: tuple[Modality, ...]) -> None:
        super().__init__(dim_in, options)
        self.tables = TableVectors(modalities, options.width, options.blocks, options.dropout)
        self.dim_out = self.tables.dim_out

    def forward(self, batch: BagBatch) -> tuple[Tensor, Tensor | None]:
        """Encode; there is no attention."""
        return self.tables(batch), None
