"""Layers that several models share."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GatedAttention(nn.Module):
    """Attention scores w' (tanh(V h) * sigmoid(U h)) of tokens (Ilse, Tomczak and Welling, ICML 2018, equation 9).

    Parameters
    ----------
    dim_in : int
        Width of the tokens.
    width : int
        Width of V and U.
    heads : int
        Scores a token.
    gated : bool
        With the sigmoid gate; without it w' tanh(V h), equation 8.
    dropout : float
        After tanh and after the sigmoid.
    """

    def __init__(self, dim_in: int, width: int, heads: int = 1, gated: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        self.value = nn.Linear(dim_in, width)
        self.gate = nn.Linear(dim_in, width) if gated else None
        self.score = nn.Linear(width, heads)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., dim_in) to (..., heads) scores before the softmax, in float32 or better whatever autocast does."""
        inner = self.dropout(torch.tanh(self.value(tokens)))
        if self.gate is not None:
            inner = inner * self.dropout(torch.sigmoid(self.gate(tokens)))
        scores = self.score(inner)
        return scores if scores.dtype == torch.float64 else scores.float()
