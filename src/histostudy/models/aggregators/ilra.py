"""ILRA-MIL: tiles re-embedded through a few latent vectors (Xiang et al., ICLR 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from histostudy.models.attention import AttentionAggregator, Pooled
from histostudy.models.batch import BagBatch, segment_softmax, segment_sum
from histostudy.models.layers import full_precision, relu_layers
from histostudy.models.registry import AGGREGATORS, is_count, is_share, require


@dataclass(frozen=True)
class ILRAOptions:
    """Options of `ILRA`.

    hidden : width of tokens and latents (the paper: 256), a multiple of `heads`; heads : of each attention; blocks :
    low-rank blocks; latents : latent vectors of each, the rank, and seeds of the pooling; norm : with LayerNorms;
    dropout : of the tile embedding.
    """

    hidden: int = 128
    heads: int = 8
    blocks: int = 2
    latents: int = 1
    norm: bool = True
    dropout: float = 0.25

    def __post_init__(self) -> None:
        for name in ("hidden", "heads", "blocks", "latents"):
            require(is_count(getattr(self, name)), f"{name} is a whole number from 1")
        require(self.hidden % self.heads == 0, "hidden is a multiple of heads")
        require(isinstance(self.norm, bool), "norm is true or false")
        require(is_share(self.dropout), "dropout is from 0 up to 1")


class CrossAttention(nn.Module):
    """Multi-head attention of queries to keys, a ReLU layer, and a gate by what the queries were.

    With Q = W_q q, the output is O = Q + W_o softmax(Q K' / sqrt(head width)) V in each head, then O + ReLU(W O),
    each through a LayerNorm if asked for, and last times SiLU(W_g q) if gated. The published code projects K and V by
    two linear layers in a row, which are one.

    Parameters
    ----------
    width, heads : int
        Of queries and keys; attention heads.
    norm, gated : bool
        With LayerNorms; with the gate.
    """

    def __init__(self, width: int, heads: int, *, norm: bool, gated: bool) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.inner_query = nn.Linear(width, width), nn.Linear(width, width)
        self.key, self.value = nn.Linear(width, width), nn.Linear(width, width)
        self.out, self.feed = nn.Linear(width, width), nn.Linear(width, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) if norm else nn.Identity() for _ in range(2))
        self.gate = nn.Linear(width, width) if gated else None

    def finish(self, given: Tensor, query: Tensor, attended: Tensor) -> Tensor:
        """Everything after the attention: `given`, `query` and `attended` are (..., width)."""
        out = self.norms[0](query + self.out(attended))
        out = self.norms[1](out + self.feed(out).relu())
        return out if self.gate is None else out * silu(self.gate(given))

    def to_tokens(self, latents: Tensor, tokens: BagBatch) -> tuple[Tensor, Tensor]:
        """Latents (r, width) attend to the tokens of each bag: (B, r, width), and the (T, r * heads) maps."""
        query, split = self.query(latents), (self.heads, -1)
        inner = full_precision(self.inner_query(query)).unflatten(-1, split)
        key = full_precision(self.key(tokens.features)).unflatten(-1, split)
        value = full_precision(self.value(tokens.features)).unflatten(-1, split)
        # no matrix product: autocast would take it to half precision
        scores = torch.stack([(key * one).sum(-1) for one in inner], 1) / key.shape[-1] ** 0.5  # (T, r, heads)
        maps = segment_softmax(scores.flatten(1), tokens)
        each = [segment_sum(m[:, :, None] * value, tokens) for m in maps.unflatten(1, scores.shape[1:]).unbind(1)]
        attended = torch.stack(each, 1).flatten(2)
        return self.finish(latents, query, attended), maps

    def to_latents(self, tokens: BagBatch, latents: Tensor) -> BagBatch:
        """Tokens (T, width) attend to the latents (B, r, width) of their bag."""
        query, split = self.query(tokens.features), (self.heads, -1)
        inner = full_precision(self.inner_query(query)).unflatten(-1, split)
        key = full_precision(self.key(latents)).unflatten(-1, split)
        value = full_precision(self.value(latents)).unflatten(-1, split)
        scores = [(inner * one[tokens.segments]).sum(-1) for one in key.unbind(1)]
        weights = (torch.stack(scores, 1) / key.shape[-1] ** 0.5).softmax(1)  # (T, r, heads)
        shares = zip(weights.unbind(1), value.unbind(1), strict=True)
        attended = torch.stack([w[..., None] * one[tokens.segments] for w, one in shares]).sum(0).flatten(1)
        return tokens.with_features(self.finish(tokens.features, query, attended))


class LowRankBlock(nn.Module):
    """Tokens to tokens through r latents: the latents attend to the tokens, then the tokens to the latents."""

    def __init__(self, options: ILRAOptions) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.empty(options.latents, options.hidden))
        nn.init.xavier_uniform_(self.latents)
        width, heads = options.hidden, options.heads
        self.gather = CrossAttention(width, heads, norm=options.norm, gated=True)
        self.spread = CrossAttention(width, heads, norm=options.norm, gated=True)

    def forward(self, tokens: BagBatch) -> BagBatch:
        """Packed tokens of one width to the same."""
        return self.spread.to_latents(tokens, self.gather.to_tokens(self.latents, tokens)[0])


@AGGREGATORS.register("ilra")
class ILRA(AttentionAggregator):
    """Low-rank blocks over embedded tiles, then learned seeds attend to the tokens; the vector is the seeds' mean.

    What a tile learns of the others passes through `latents` vectors, so that the cost grows with the number of tiles,
    not its square. The tile embedding ReLU(x W + b) is ours, and common to all our models; the paper's first block
    takes the features. Its contrastive pretraining of the encoder is not part of this. Positions are not looked at,
    and the order of tiles does not matter. The attention is the seeds', the mean over seeds and heads.
    """

    Options = ILRAOptions

    def __init__(self, dim_in: int, options: ILRAOptions) -> None:
        super().__init__(dim_in, options)
        self.width = self.dim_out = options.hidden
        self.embed = relu_layers(dim_in, options.hidden, dropout=options.dropout)
        self.blocks = nn.Sequential(*(LowRankBlock(options) for _ in range(options.blocks)))
        self.seeds = nn.Parameter(torch.empty(options.latents, options.hidden))
        nn.init.xavier_uniform_(self.seeds)
        self.readout = CrossAttention(options.hidden, options.heads, norm=options.norm, gated=False)

    def pool(self, tokens: BagBatch) -> Pooled:
        """Pool; each head of each seed is a map."""
        vectors, maps = self.readout.to_tokens(self.seeds, self.blocks(tokens))
        return Pooled(full_precision(vectors).mean(1), maps)
