"""Attention-based multiple instance learning (Ilse, Tomczak and Welling, ICML 2018, equations 7 to 9)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from histostudy.models.batch import BagBatch, segment_softmax, segment_sum
from histostudy.models.layers import GatedAttention, relu_layers
from histostudy.models.registry import AGGREGATORS, Aggregator, is_count, is_share, require


@dataclass(frozen=True)
class ABMILOptions:
    """Options of `ABMIL`.

    hidden : width of the tile embedding; attention : width of the attention layer; heads : attention maps, whose
    vectors are set side by side; gated : with the sigmoid gate; dropout : of the embedding.
    """

    hidden: int = 128
    attention: int = 64
    heads: int = 1
    gated: bool = True
    dropout: float = 0.25

    def __post_init__(self) -> None:
        for name in ("hidden", "attention", "heads"):
            require(is_count(getattr(self, name)), f"{name} is a whole number from 1")
        require(isinstance(self.gated, bool), "gated is true or false")
        require(is_share(self.dropout), "dropout is from 0 up to 1")


@AGGREGATORS.register("abmil")
class ABMIL(Aggregator):
    """Weighted mean of embedded tiles h = ReLU(x W + b), with weights softmax(w' (tanh(V h) * sigmoid(U h)))."""

    Options = ABMILOptions

    def __init__(self, dim_in: int, options: ABMILOptions) -> None:
        super().__init__(dim_in, options)
        hidden = options.hidden
        self.dim_out = hidden * options.heads
        self.embed = relu_layers(dim_in, hidden, dropout=options.dropout)
        self.attention = GatedAttention(hidden, options.attention, options.heads, options.gated)

    def forward(self, batch: BagBatch) -> tuple[Tensor, Tensor | None]:
        """Pool; with several heads the attention is their mean."""
        tiles = self.embed(batch.features)
        attention = segment_softmax(self.attention(tiles), batch)
        pooled = [segment_sum(attention[:, k : k + 1] * tiles, batch) for k in range(attention.shape[1])]
        return torch.cat(pooled, 1), attention.mean(1)
