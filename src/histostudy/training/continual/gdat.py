"""The network of CoMEL (arXiv 2507.02395; no code, so our reading): grouped double attention, then pooling.

Tokens meet through a few groups of them, so that time and memory grow with the number of tokens, not its square.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from histostudy.models.batch import BagBatch, segment_softmax, segment_sum
from histostudy.models.registry import is_count, is_share, require
from histostudy.training.continual.owlora import AdaptedLinear


@dataclass(frozen=True)
class GDATOptions:
    """Options of `GDATNetwork`.

    hidden : width of the tokens; attention : width of the gated attention; groups : of a bag, at most; dropout : of the
    embedding.
    """

    hidden: int = 128
    attention: int = 64
    groups: int = 32
    dropout: float = 0.25

    def __post_init__(self) -> None:
        for name in ("hidden", "attention", "groups"):
            require(is_count(getattr(self, name)), f"{name} is a whole number from 1")
        require(is_share(self.dropout), "dropout is from 0 up to 1")


class GDAT(nn.Module):
    """Grouped double attention: groups gather from all tokens of their bag, and every token takes from the groups.

    G' = softmax(Q_g K_x^T / sqrt d) V_x, then X' = X + softmax(Q_x K_g'^T / sqrt d) V_g', with G the means of runs of
    tokens in file order (a bag of no more tokens than groups has groups of one). The layer norms before it have no
    weights: a task could not be kept from changing them for earlier ones.
    """

    def __init__(self, width: int, groups: int, rank: int) -> None:
        super().__init__()
        self.groups = groups
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.gather = nn.ModuleDict({name: AdaptedLinear(width, width, rank) for name in ("q", "k", "v")})
        self.spread = nn.ModuleDict({name: AdaptedLinear(width, width, rank) for name in ("q", "k", "v")})

    def forward(self, tokens: Tensor, bounds: Sequence[int]) -> Tensor:
        """(T, C) tokens of bags ``bounds[i]:bounds[i + 1]`` to (T, C)."""
        bags = list(zip(bounds[:-1], bounds[1:], strict=True))
        groups = torch.cat([_means(tokens[start:stop], self.groups) for start, stop in bags])
        ends = torch.tensor([0, *(min(self.groups, stop - start) for start, stop in bags)]).cumsum(0).tolist()
        whose = list(zip(ends[:-1], ends[1:], strict=True))
        normed = self.norm(tokens)
        groups = _attend(self.gather, self.norm(groups), normed, whose, bags)
        return tokens + _attend(self.spread, normed, self.norm(groups), bags, whose)


def _means(tokens: Tensor, groups: int) -> Tensor:
    """(m, C) means of m runs of tokens, of lengths as even as can be."""
    count = min(groups, len(tokens))
    group = torch.arange(len(tokens), device=tokens.device) * count // len(tokens)
    sums = tokens.new_zeros(count, tokens.shape[1]).index_add(0, group, tokens)
    return sums / torch.bincount(group, minlength=count)[:, None]


def _attend(
    layers: nn.ModuleDict, asking: Tensor, asked: Tensor, mine: Sequence[tuple[int, int]],
    theirs: Sequence[tuple[int, int]],
) -> Tensor:  # fmt: skip
    """Cross-attention of one head within each bag."""
    q, k, v = layers["q"](asking), layers["k"](asked), layers["v"](asked)
    out = []
    for (a, b), (c, d) in zip(mine, theirs, strict=True):
        weights = torch.softmax((q[a:b] @ k[c:d].T).float() / q.shape[1] ** 0.5, 1).to(q.dtype)
        out.append(weights @ v[c:d])
    return torch.cat(out)


class Seen(NamedTuple):
    """What the network makes of a batch.

    Attributes
    ----------
    logits : Tensor
        (B, classes) over all tasks.
    vectors : Tensor
        (B, C) attention-weighted bags.
    tokens : Tensor
        (T, C) re-embedded tiles.
    tiles : Tensor
        (T, C) embedded tiles before they met, without dropout.
    attention : Tensor
        (T,) summing to 1 a bag.
    """

    logits: Tensor
    vectors: Tensor
    tokens: Tensor
    tiles: Tensor
    attention: Tensor


class GDATNetwork(nn.Module):
    """Embedding, GDAT, gated attention pooling, and for each task a classifier of bags and one of tiles.

    Parameters
    ----------
    dim_in : int
        Width of the tiles.
    counts : sequence of int
        Classes of each task.
    options : GDATOptions
    rank : int
        Of the adapters.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, dim_in: int, counts: Sequence[int], options: GDATOptions, rank: int) -> None:
        super().__init__()
        hidden = options.hidden
        self.embed = AdaptedLinear(dim_in, hidden, rank)
        self.dropout = nn.Dropout(options.dropout)
        self.gdat = GDAT(hidden, options.groups, rank)
        self.value, self.gate = (AdaptedLinear(hidden, options.attention, rank) for _ in range(2))
        self.score = AdaptedLinear(options.attention, 1, rank)
        self.heads = nn.ModuleList(nn.Linear(hidden, count) for count in counts)
        self.instances = nn.ModuleList(nn.Linear(hidden, 1) for _ in counts)
        self.register_buffer("mean", torch.zeros(dim_in))
        self.register_buffer("scale", torch.ones(dim_in))

    def forward(self, batch: BagBatch) -> Seen:
        """Look at a batch of bags."""
        tiles = (batch.features - self.mean) / self.scale
        tiles = F.relu(self.embed(tiles))
        tokens = self.gdat(self.dropout(tiles), batch.offsets.tolist())
        score = self.score(torch.tanh(self.value(tokens)) * torch.sigmoid(self.gate(tokens)))
        attention = segment_softmax(score.float(), batch)
        vectors = segment_sum(attention * tokens, batch)
        logits = torch.cat([head(vectors) for head in self.heads], 1)
        return Seen(logits, vectors, tokens, tiles, attention[:, 0])
