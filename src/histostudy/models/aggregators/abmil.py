"""Attention-based multiple instance learning (Ilse, Tomczak and Welling, ICML 2018, equations 7 to 9)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from histostudy.models.attention import AttentionAggregator, Pooled
from histostudy.models.batch import BagBatch, segment_softmax, segment_sum
from histostudy.models.layers import GatedAttention, relu_layers
from histostudy.models.registry import AGGREGATORS, is_count, is_share, require


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
class ABMIL(AttentionAggregator):
    """Weighted mean of embedded tiles h = ReLU(x W + b), with weights softmax(w' (tanh(V h) * sigmoid(U h)))."""

    Options = ABMILOptions

    def __init__(self, dim_in: int, options: ABMILOptions) -> None:
        super().__init__(dim_in, options)
        self.width = hidden = options.hidden
        self.dim_out = hidden * options.heads
        self.embed = relu_layers(dim_in, hidden, dropout=options.dropout)
        self.attention = GatedAttention(hidden, options.attention, options.heads, options.gated)

    def pool(self, tokens: BagBatch) -> Pooled:
        """Pool; each head is a map."""
        maps = segment_softmax(self.attention(tokens.features), tokens)
        pooled = [segment_sum(maps[:, k : k + 1] * tokens.features, tokens) for k in range(maps.shape[1])]
        return Pooled(torch.cat(pooled, 1), maps)

    def contributions(self, tokens: BagBatch, pooled: Pooled) -> Tensor:
        """a_i h_i, head beside head."""
        return (pooled.maps[:, :, None] * tokens.features[:, None, :]).flatten(1)
