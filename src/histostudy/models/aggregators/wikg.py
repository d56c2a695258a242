"""WiKG: a directed graph of tiles whose edges are learned (Li et al., CVPR 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from histostudy.errors import ModelError
from histostudy.models.attention import AttentionAggregator, Pooled
from histostudy.models.batch import BagBatch, segment_mean, segment_softmax, segment_sum
from histostudy.models.layers import full_precision
from histostudy.models.registry import AGGREGATORS, is_count, is_share, require

#: Rows of an N x N matrix held at once, and rows of N x k x width numbers.
BLOCK, ROWS = 2048, 1 << 14


@dataclass(frozen=True)
class WiKGOptions:
    """Options of `WiKG` (in brackets the published values where they differ).

    hidden : width of the tokens (512); neighbours : of each tile; attention : width of the readout (256); dropout : of
    the messages; published_weight : weighs a neighbour by the product of sums (sum e_t)(sum gate) of the published
    code, not by the inner product <e_t, gate> of the paper; most_tiles : of a bag, more is an error (time grows with
    the square of them), null for any number.
    """

    hidden: int = 128
    neighbours: int = 6
    attention: int = 64
    dropout: float = 0.3
    published_weight: bool = False
    most_tiles: int | None = None

    def __post_init__(self) -> None:
        for name in ("hidden", "neighbours", "attention"):
            require(is_count(getattr(self, name)), f"{name} is a whole number from 1")
        require(is_share(self.dropout), "dropout is from 0 up to 1")
        require(isinstance(self.published_weight, bool), "published_weight is true or false")
        require(self.most_tiles is None or is_count(self.most_tiles), "most_tiles is null or a whole number from 1")


@torch.no_grad()
def best_neighbours(heads: Tensor, tails: Tensor, count: int) -> Tensor:
    """The `count` tails of largest inner product with each head, (N, count), in O(N) memory.

    Parameters
    ----------
    heads, tails : Tensor
        (N, D).
    count : int
        At most N.
    """
    return torch.cat([(block @ tails.T).topk(count, dim=1).indices for block in heads.split(BLOCK)])


@AGGREGATORS.register("wikg")
class WiKG(AttentionAggregator):
    """Each tile takes up what its k best neighbours have, weighed by gated attention; then attention pooling.

    x = (x + mean x) / 2; heads e_h = W_h x and tails e_t = W_t x; the neighbours j of i are the k largest of
    e_h,i e_t,j / sqrt(d), with p their softmax (a tile may be its own); r_ij = p e_t,j + (1 - p) e_h,i;
    w_ij = <e_t,j, tanh(e_h,i + r_ij)>, a softmax over j; n_i = sum_j w_ij e_t,j;
    h_i = LeakyReLU(W1 (e_h + n)) + LeakyReLU(W2 (e_h * n)); attention over h, LayerNorm.

    The neighbours are found in blocks, bag by bag, so memory is that of k neighbours a tile. A bag of fewer than k
    tiles has as many neighbours. Coordinates are not used and the order of tiles does not matter.
    """

    Options = WiKGOptions

    def __init__(self, dim_in: int, options: WiKGOptions) -> None:
        super().__init__(dim_in, options)
        self.width = self.dim_out = width = options.hidden
        self.embed = nn.Sequential(nn.Linear(dim_in, width), nn.LeakyReLU())
        self.head, self.tail, self.both, self.product = (nn.Linear(width, width) for _ in range(4))
        self.dropout = nn.Dropout(options.dropout)
        self.readout = nn.Sequential(
            nn.Linear(width, options.attention), nn.LeakyReLU(), nn.Linear(options.attention, 1)
        )
        self.norm = nn.LayerNorm(width)

    def pool(self, tokens: BagBatch) -> Pooled:
        """Pool.

        Raises
        ------
        ModelError
            If a bag has more than `most_tiles`.
        """
        largest, most = int(tokens.lengths.max()), self.options.most_tiles
        if most is not None and largest > most:
            raise ModelError(
                f"wikg: a bag of {largest} tiles, at most {most} are allowed",
                todo="raise the aggregator's `most_tiles`, set `training.max_tiles`, or cut larger tiles",
            )
        x = tokens.features
        x = (x + segment_mean(x, tokens)[tokens.segments]) / 2
        heads, tails = full_precision(self.head(x)), full_precision(self.tail(x))
        neighbours, real = self._neighbours(tokens, heads, tails)
        taken = [
            self._take(heads[rows], tails, neighbours[rows], real[rows])
            for rows in torch.arange(len(x), device=x.device).split(ROWS)
        ]
        near = torch.cat(taken)
        found = self.dropout(leaky_relu(self.both(heads + near)) + leaky_relu(self.product(heads * near)))
        maps = segment_softmax(full_precision(self.readout(found)), tokens)
        return Pooled(self.norm(segment_sum(maps * found, tokens)), maps)

    def _neighbours(self, tokens: BagBatch, heads: Tensor, tails: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (T, k) of each tile's neighbours, and which of them there are."""
        k = self.options.neighbours
        rows = torch.zeros(len(heads), k, dtype=torch.long, device=heads.device)
        with torch.autocast(heads.device.type, enabled=False):
            for start, stop in pairwise(tokens.offsets.tolist()):
                count = min(k, stop - start)
                rows[start:stop, :count] = start + best_neighbours(heads[start:stop], tails[start:stop], count)
        return rows, torch.arange(k, device=rows.device) < tokens.lengths[tokens.segments, None]

    def _take(self, heads: Tensor, tails: Tensor, neighbours: Tensor, real: Tensor) -> Tensor:
        """What tiles with these heads (n, D) take from their neighbours (n, k): (n, D)."""
        near, own = tails[neighbours], heads[:, None, :]
        # computed anew from the chosen pairs, so that the gradient needs no N x N
        scores = (own * near).sum(2) * heads.shape[1] ** -0.5
        share = scores.masked_fill(~real, -torch.inf).softmax(1)[:, :, None]
        gate = torch.tanh(own + share * near + (1 - share) * own)
        weight = near.sum(2) * gate.sum(2) if self.options.published_weight else (near * gate).sum(2)
        return (weight.masked_fill(~real, -torch.inf).softmax(1)[:, :, None] * near).sum(1)
