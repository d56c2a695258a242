"""The global recycle network of MHIM: what is left of a bag is merged into a few tokens (Tang et al., IJCV 2025)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from histostudy.models.batch import BagBatch
from histostudy.models.layers import full_precision


class Recycle(nn.Module):
    """k tokens of each bag, Z = MCA(LN(G), LN(x)): cross-attention of k global queries G to the bag's tokens.

    G (1, k, width) gets no gradient: after each forward in training mode G <- m^B G + (1 - m^B) mean of Z over the B
    bags (with the authors' one bag a step, G <- m G + (1 - m) Z), so that it holds what such tokens are over the whole
    training part. It starts from U(-v, v), v^2 = 6 / (2.5 width), the authors' at width 512.

    Parameters
    ----------
    width : int
        Of the tokens.
    tokens : int
        k.
    heads, inner : int
        Heads, and their width together: 8 and 512 in the paper.
    dropout : float
        After the projection.
    momentum : float
        m.
    """

    queries: Tensor

    def __init__(self, width: int, tokens: int, heads: int, inner: int, dropout: float, momentum: float) -> None:
        super().__init__()
        self.heads, self.momentum = heads, momentum
        bound = math.sqrt(6 / (2.5 * width))
        self.register_buffer("queries", torch.empty(1, tokens, width).uniform_(-bound, bound))
        self.norm_tokens, self.norm_queries = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_query = nn.Linear(width, inner, bias=False)
        self.to_key_value = nn.Linear(width, 2 * inner, bias=False)
        self.out = nn.Sequential(nn.Linear(inner, width), nn.Dropout(dropout))

    def forward(self, batch: BagBatch) -> Tensor:
        """Merge bags of (T, width) tokens, each of at least one: (B, k, width)."""
        query = self.to_query(self.norm_queries(self.queries)).unflatten(2, (self.heads, -1)).transpose(1, 2)
        both, real = batch.with_features(self.to_key_value(self.norm_tokens(batch.features))).padded()
        key, value = both.unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        scores = full_precision(query @ key.transpose(2, 3)) / math.sqrt(key.shape[-1])
        weights = scores.masked_fill(~real[:, None, None], -math.inf).softmax(3).to(value.dtype)
        merged = self.out((weights @ value).transpose(1, 2).flatten(2))
        if self.training:
            share = 1 - self.momentum ** len(batch)
            # a new tensor: the backward pass still needs the one that was used
            self.queries = torch.lerp(self.queries, merged.detach().mean(0, keepdim=True).to(self.queries.dtype), share)
        return merged
