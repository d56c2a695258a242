"""Pathways and tiles in one transformer without the attention among tiles (SurvPath, Jaume et al., CVPR 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from histostudy.models.batch import BagBatch, Modality
from histostudy.models.layers import full_precision, relu_layers
from histostudy.models.multimodal.encoders import GroupTokens
from histostudy.models.registry import AGGREGATORS, Aggregator, is_count, is_share, require


@dataclass(frozen=True)
class SurvPathOptions:
    """Options of `SurvPath`.

    hidden : width of tiles and tokens, 256 in the paper; blocks : SNN blocks of each pathway, 2; width : of queries,
    keys and values, and of tokens after the attention, 128; output : width of the patient's vector, 64; dropout : of
    the SNN blocks and the feed-forward layer, .25 (our reading).
    """

    hidden: int = 128
    blocks: int = 2
    width: int = 64
    output: int = 64
    dropout: float = 0.25

    def __post_init__(self) -> None:
        for name in ("hidden", "blocks", "width", "output"):
            require(is_count(getattr(self, name)), f"{name} is a whole number from 1")
        require(is_share(self.dropout), "dropout is from 0 up to 1")


class Attended(NamedTuple):
    """Result of `PathwayAttention`.

    Attributes
    ----------
    pathways, tiles : Tensor
        (B, P, width) and (B, N, width) tokens.
    attention : Tensor
        (B, N) share of each tile in what the pathways take from tiles, zero at padding, sums to 1.
    """

    pathways: Tensor
    tiles: Tensor
    attention: Tensor


class PathwayAttention(nn.Module):
    """One head of attention over [pathways, tiles] whose tile-to-tile block is not there.

    Pathways see pathways and tiles in one softmax, tiles see pathways alone; the cost is P^2 + 2 P N, linear in the
    tiles. Queries, keys and values are one linear map without bias for both kinds of token, after a LayerNorm; no
    residual.

    Parameters
    ----------
    hidden, width : int
        Of the tokens that come, and of the tokens that go.
    """

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.to_qkv = nn.Linear(hidden, 3 * width, bias=False)
        self.scale = width**-0.5

    def forward(self, pathways: Tensor, tiles: Tensor, mask: Tensor) -> Attended:
        """Attend: (B, P, hidden) pathways, (B, N, hidden) tiles of which `mask` (B, N) are real."""
        query_p, key_p, value_p = self.to_qkv(self.norm(pathways)).chunk(3, 2)
        query_h, key_h, value_h = self.to_qkv(self.norm(tiles)).chunk(3, 2)
        query_p, query_h = query_p * self.scale, query_h * self.scale
        among = full_precision(query_p @ key_p.transpose(1, 2))
        to_tiles = full_precision(query_p @ key_h.transpose(1, 2)).masked_fill(~mask[:, None], -torch.inf)
        both = torch.cat([among, to_tiles], 2).log_softmax(2)
        count = among.shape[2]
        weights = both.exp().to(value_p.dtype)
        from_tiles = full_precision(query_h @ key_p.transpose(1, 2)).softmax(2).to(value_p.dtype)
        return Attended(
            weights[:, :, :count] @ value_p + weights[:, :, count:] @ value_h,
            from_tiles @ value_p,
            # the mean over pathways, scaled to 1; by logs, as all the mass may lie among the pathways
            both[:, :, count:].logsumexp(1).softmax(1),
        )


class FeedForward(nn.Sequential):
    """LayerNorm, a GELU layer and a linear one of the same width (our reading of its inside), then LayerNorm."""

    def __init__(self, width: int, dropout: float) -> None:
        inner = [nn.Linear(width, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, width)]
        super().__init__(nn.LayerNorm(width), *inner, nn.LayerNorm(width))


@AGGREGATORS.register("survpath")
class SurvPath(Aggregator):
    """Memory-efficient multimodal transformer of pathways and tiles (Jaume et al., CVPR 2024).

    Tiles become x W + b, pathways tokens by SNN blocks of their own (every group of every modality is one);
    `PathwayAttention`, a feed-forward layer, the mean over each kind of token, and a ReLU layer of both means. The
    attention of a tile is that of the pathways, averaged. The paper draws 4,096 tiles a patient in training, which
    is the training's `max_tiles`.
    """

    Options = SurvPathOptions
    multimodal = True

    def __init__(self, dim_in: int, options: SurvPathOptions, modalities: tuple[Modality, ...]) -> None:
        super().__init__(dim_in, options)
        self.dim_out = options.output
        self.embed = nn.Linear(dim_in, options.hidden)
        self.tokens = GroupTokens(modalities, options.hidden, options.blocks, options.dropout)
        self.attention = PathwayAttention(options.hidden, options.width)
        self.feedforward = FeedForward(options.width, options.dropout)
        self.join = relu_layers(2 * options.width, options.output)

    def forward(self, batch: BagBatch) -> tuple[Tensor, Tensor | None]:
        """Attend, then the mean of each kind of token."""
        tiles, mask = batch.with_features(self.embed(batch.features)).padded()
        attended = self.attention(self.tokens(batch), tiles, mask)
        of_pathways = self.feedforward(attended.pathways).mean(1)
        of_tiles = torch.where(mask[:, :, None], self.feedforward(attended.tiles), 0.0).sum(1)
        of_tiles = of_tiles / batch.lengths[:, None].to(of_tiles.dtype)
        return self.join(torch.cat([of_pathways, of_tiles], 1)), attended.attention[mask]
