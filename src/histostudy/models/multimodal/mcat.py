"""Gene-guided co-attention: each functional group of genes gathers the tiles it looks for (MCAT, ICCV 2021).

`GeneGuided` is the network around the matching of tiles and groups; `MCAT` matches by attention, `MOTCat` (its own
file) by optimal transport.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from histostudy.models.batch import BagBatch, Modality
from histostudy.models.layers import GatedAttention, full_precision, relu_layers
from histostudy.models.multimodal.encoders import GroupTokens
from histostudy.models.registry import AGGREGATORS, Aggregator, is_count, is_share, require


@dataclass(frozen=True)
class MCATOptions:
    """Options of `MCAT`.

    hidden : width of tiles and tokens, 256 in the paper; blocks : SNN blocks of each group, 2; layers : of each
    transformer, 2; heads : of the transformers, 8, and hidden is a multiple of it; feedforward : inner width of the
    transformers, 512; dropout : everywhere, .25.
    """

    hidden: int = 128
    blocks: int = 2
    layers: int = 2
    heads: int = 8
    feedforward: int = 256
    dropout: float = 0.25

    def __post_init__(self) -> None:
        for name in ("hidden", "blocks", "layers", "heads", "feedforward"):
            require(is_count(getattr(self, name)), f"{name} is a whole number from 1")
        require(self.hidden % self.heads == 0, "hidden is a multiple of heads")
        require(is_share(self.dropout), "dropout is from 0 up to 1")


class GeneGuided(Aggregator):
    """MCAT's network, with the matching of tiles and groups left to a subclass.

    Tiles become h = ReLU(x W + b), groups tokens g by SNN blocks of their own (every group of every modality is one).
    A matching gathers one vector of tiles for each group; gathered vectors and tokens each go through a transformer
    over the groups, a gated attention over the groups and a ReLU layer, and two more ReLU layers join the two. It is
    made for a handful of groups: with hundreds of pathways the transformers, quadratic in them, cost more than the
    tiles.
    """

    multimodal = True

    def __init__(self, dim_in: int, options: MCATOptions, modalities: tuple[Modality, ...]) -> None:
        super().__init__(dim_in, options)
        hidden, dropout = options.hidden, options.dropout
        self.dim_out = hidden
        self.embed = relu_layers(dim_in, hidden, dropout=dropout)
        self.tokens = GroupTokens(modalities, hidden, options.blocks, dropout)
        self.of_tiles, self.of_tables = GroupPooling(options), GroupPooling(options)
        self.join = relu_layers(2 * hidden, hidden, hidden)

    def match(self, tiles: Tensor, mask: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Gather tiles for each group.

        Parameters
        ----------
        tiles : Tensor
            (B, N, h), zero where `mask` (B, N) is false.
        mask : Tensor
            Real tiles.
        tokens : Tensor
            (B, G, h) of the groups.

        Returns
        -------
        gathered : Tensor
            (B, G, h).
        attention : Tensor
            (B, N) share of each tile over all groups; sums to 1 over the real ones.
        """
        raise NotImplementedError

    def forward(self, batch: BagBatch) -> tuple[Tensor, Tensor | None]:
        """Match, pool each side over the groups, join."""
        tokens = self.tokens(batch)
        tiles, mask = batch.with_features(self.embed(batch.features)).padded()
        gathered, attention = self.match(tiles, mask, tokens)
        joined = torch.cat([self.of_tiles(gathered), self.of_tables(tokens)], 1)
        return self.join(joined), attention[mask]


class GroupPooling(nn.Module):
    """A transformer over the groups, gated attention over them and a ReLU layer: (B, G, h) to (B, h)."""

    def __init__(self, options: MCATOptions) -> None:
        super().__init__()
        hidden, dropout = options.hidden, options.dropout
        layer = nn.TransformerEncoderLayer(hidden, options.heads, options.feedforward, dropout, batch_first=True)
        self.transformer = nn.TransformerEncoder(layer, options.layers, enable_nested_tensor=False)
        self.attention = GatedAttention(hidden, hidden, dropout=dropout)
        self.last = relu_layers(hidden, hidden, dropout=dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.transformer(tokens)
        weights = self.attention(tokens).softmax(1)
        return self.last((weights * tokens).sum(1))


class CoAttention(nn.Module):
    """Tiles gathered by queries of the groups: A = softmax(Q K' / sqrt(h)) over tiles, (A V) W_o + b.

    One head, queries Q = G W_q, keys K = H W_k and values V = H W_v without bias (MCAT, ICCV 2021, equation 4).
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(hidden, hidden, bias=False) for _ in range(3))
        self.out = nn.Linear(hidden, hidden)
        self.scale = hidden**-0.5

    def forward(self, tiles: Tensor, mask: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, G, h) gathered vectors and (B, G, N) attention, zero at padding."""
        scores = (self.query(tokens) * self.scale) @ self.key(tiles).transpose(1, 2)
        attention = full_precision(scores).masked_fill(~mask[:, None], -torch.inf).softmax(2)
        values = self.value(tiles)
        return self.out(attention.to(values.dtype) @ values), attention


@AGGREGATORS.register("mcat")
class MCAT(GeneGuided):
    """Multimodal co-attention transformer (Chen et al., ICCV 2021).

    The attention of a tile is its co-attention averaged over the groups.
    """

    Options = MCATOptions

    def __init__(self, dim_in: int, options: MCATOptions, modalities: tuple[Modality, ...]) -> None:
        super().__init__(dim_in, options, modalities)
        self.coattention = CoAttention(options.hidden)

    def match(self, tiles: Tensor, mask: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Gather by co-attention."""
        gathered, attention = self.coattention(tiles, mask, tokens)
        return gathered, attention.mean(1)
