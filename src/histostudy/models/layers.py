"""Layers that several models share."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

#: More tiles than this go through a layer in chunks, whose inside is computed again for the gradient.
MANY_TILES = 1 << 16
CHUNK_TILES = 1 << 14


def tile_by_tile(layer: Callable[[Tensor], Tensor], tiles: Tensor) -> Tensor:
    """A layer that mixes no tiles, over (T, D) of them, in bounded memory whatever T is.

    Above `MANY_TILES` nothing is kept of what happens inside the layer but its result: the inside of `CHUNK_TILES` at a
    time is there, and computed a second time for the gradient (Chen, Xu, Zhang and Guestrin, Training deep nets with
    sublinear memory cost, 2016), with the same dropout.
    """
    if len(tiles) <= MANY_TILES:
        return layer(tiles)
    chunks = tiles.split(CHUNK_TILES)
    if not torch.is_grad_enabled():
        return torch.cat([layer(chunk) for chunk in chunks])
    return torch.cat([checkpoint(layer, chunk, use_reentrant=False) for chunk in chunks])


def full_precision(values: Tensor, like: Tensor | None = None) -> Tensor:
    """Values in float64 where `like` (unless given, they themselves) is float64, else in float32."""
    like = values if like is None else like
    return values.to(torch.float64 if like.dtype == torch.float64 else torch.float32)


def relu_layers(dim_in: int, *widths: int, dropout: float = 0.0) -> nn.Sequential:
    """A layer of each of `widths` after the other: linear, ReLU, dropout."""
    layers: list[nn.Module] = []
    for width, after in pairwise((dim_in, *widths)):
        layers += [nn.Linear(width, after), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers)


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
        return tile_by_tile(self._scores, tokens) if tokens.ndim == 2 else self._scores(tokens)

    def _scores(self, tokens: Tensor) -> Tensor:
        inner = self.dropout(torch.tanh(self.value(tokens)))
        if self.gate is not None:
            inner = inner * self.dropout(torch.sigmoid(self.gate(tokens)))
        return full_precision(self.score(inner))
