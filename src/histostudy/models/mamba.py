"""Mamba's mixer (Gu and Dao, Mamba: linear-time sequence modeling with selective state spaces, 2023), and stacks of it.

A mixer reads the tokens of each bag along one path or more: an order of the tokens, how far along it each lies, and the
scan. Paths are exact orders of a bag's own tokens, without anything between them to fill up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, silu, softplus

from histostudy.models.attention import AttentionAggregator, Pooled
from histostudy.models.batch import BagBatch, segment_softmax, segment_sum
from histostudy.models.layers import GatedAttention, full_precision
from histostudy.models.registry import is_count, is_share, require

#: Steps at the start are drawn log-uniformly between these, and are no smaller than the last.
FIRST_STEPS, SMALLEST_STEP = (1e-3, 1e-1), 1e-4

#: Inputs and steps (T, E), A (E, N), B, C (T, N), D (E,) to outputs (T, E).
Scan = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Path:
    """A way along the tokens of a batch.

    Attributes
    ----------
    order : Tensor or None
        (T,) the token at each place of the path; None for the order they have.
    place : Tensor
        (T,) number of each place from where its line (a bag, a row) starts: the convolution looks no further back.
    scan : callable
        The scan along it.
    """

    order: Tensor | None
    place: Tensor
    scan: Scan


class Branch(nn.Module):
    """Causal depthwise convolution, SiLU and the selective scan along one path.

    The steps are softplus(W s + b) of a low rank, with W uniform within rank^-0.5 and b so that they start log-uniform
    between 0.001 and 0.1: a state that remembers tens to hundreds of tokens. (The published MambaMIL draws all weights
    anew afterwards and loses this: its steps start at 0.69, its memory at about one token.) A starts at -1 .. -N.

    Parameters
    ----------
    width : int
        Channels E.
    state : int
        States N of each channel.
    kernel : int
        Tokens that the convolution sees, the own one and those before it.
    rank : int
        Of the steps.
    """

    def __init__(self, width: int, state: int, kernel: int, rank: int) -> None:
        super().__init__()
        self.split = [rank, state, state]
        bound = kernel**-0.5
        self.kernel = nn.Parameter(torch.empty(kernel, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(width).uniform_(-bound, bound))
        self.project = nn.Linear(width, sum(self.split), bias=False)
        self.step = nn.Linear(rank, width)
        nn.init.uniform_(self.step.weight, -(rank**-0.5), rank**-0.5)
        low, high = (math.log(value) for value in FIRST_STEPS)
        first = torch.empty(width).uniform_(low, high).exp().clamp(min=SMALLEST_STEP)
        with torch.no_grad():
            self.step.bias.copy_(first + (-torch.expm1(-first)).log())
        self.log_decay = nn.Parameter(torch.arange(1.0, state + 1).log().repeat(width, 1))
        self.passing = nn.Parameter(torch.ones(width))
        for special in (self.step.bias, self.log_decay, self.passing):
            special._no_weight_decay = True  # type: ignore[attr-defined]

    def forward(self, x: Tensor, path: Path) -> Tensor:
        """(T, E) along the path to (T, E), in float32 or better."""
        x = silu(self.convolved(x, path.place))
        step, b, c = self.project(x).split(self.split, 1)
        decay = -full_precision(self.log_decay).exp()
        return path.scan(x, softplus(self.step(step)), decay, b, c, self.passing)

    def convolved(self, x: Tensor, place: Tensor) -> Tensor:
        """Depthwise convolution with the tokens before; none from before the line's start."""
        out = x * self.kernel[0] + self.bias
        for back in range(1, min(len(self.kernel), len(x))):
            before = pad(x[:-back] * self.kernel[back], (0, 0, back, 0))
            out = out + torch.where((place >= back)[:, None], before, 0.0)
        return out


class Mixer(nn.Module):
    """W_out (SiLU(z) * sum over paths of their branch of x) with [x; z] = W_in h: Mamba's block around the scan.

    Parameters
    ----------
    width : int
        Of the tokens.
    expand : int
        Inner width, as a multiple of it.
    state, kernel : int
        See `Branch`.
    branches : int
        Paths; each has a branch of its own, W_in and W_out are shared (SR-Mamba).
    """

    def __init__(self, width: int, expand: int, state: int, kernel: int, branches: int = 1) -> None:
        super().__init__()
        inner = expand * width
        self.enter = nn.Linear(width, 2 * inner, bias=False)
        self.branches = nn.ModuleList(Branch(inner, state, kernel, -(-width // 16)) for _ in range(branches))
        self.leave = nn.Linear(inner, width, bias=False)

    def forward(self, tokens: Tensor, paths: Sequence[Path]) -> Tensor:
        """(T, width) to (T, width)."""
        x, z = self.enter(tokens).chunk(2, 1)
        total: Tensor | None = None
        for branch, path in zip(self.branches, paths, strict=True):
            y = branch(x if path.order is None else x[path.order], path)
            if path.order is not None:
                y = y[inverse(path.order)]
            total = y if total is None else total + y
        assert total is not None
        return self.leave(total * silu(z))


def inverse(order: Tensor) -> Tensor:
    """The order (T,) that undoes an order."""
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order), device=order.device)
    return back


def turned(batch: BagBatch) -> Tensor:
    """(T,) the order in which every bag is read from its last token to its first."""
    return (batch.offsets[1:] - 1)[batch.segments] - batch.place


def strided(batch: BagBatch, rate: int) -> Tensor:
    """(T,) the order in which every bag is read in strides: tokens 0, R, 2R, ..., then 1, R + 1, ... (SR-Mamba).

    No bag is filled up to a multiple of the rate: strides that are one token shorter are just that.
    """
    place, length = batch.place, batch.lengths[batch.segments]
    stride, along = place % rate, place // rate
    # the first (length mod rate) strides hold one token more than the others
    new = stride * (length // rate) + torch.minimum(stride, length % rate) + along
    return inverse(batch.offsets[batch.segments] + new)


@dataclass(frozen=True)
class MambaOptions:
    """Options that all Mamba aggregators have.

    hidden : width of the tokens; layers : of mixers; state : states of each channel; expand : inner width of a mixer as
    a multiple of `hidden`; kernel : tokens that the convolution sees; attention : width of the attention layer;
    dropout : of the tile embedding.
    """

    hidden: int = 128
    layers: int = 2
    state: int = 16
    expand: int = 2
    kernel: int = 4
    attention: int = 128
    dropout: float = 0.25

    def __post_init__(self) -> None:
        for name in ("hidden", "layers", "state", "expand", "kernel", "attention"):
            require(is_count(getattr(self, name)), f"{name} is a whole number from 1")
        require(is_share(self.dropout), "dropout is from 0 up to 1")


class MambaAggregator(AttentionAggregator):
    """Tiles embedded by Linear, GELU and dropout; layers h + mixer(LN(h)); LN; attention w' tanh(V h).

    A subclass says in `mixed` along which paths the layers go.

    Parameters
    ----------
    dim_in : int
        Width of the features.
    options : MambaOptions
        The aggregator's.
    branches : int
        Paths of each layer.
    """

    def __init__(self, dim_in: int, options: MambaOptions, branches: int = 1) -> None:
        super().__init__(dim_in, options)
        self.width = self.dim_out = width = options.hidden
        self.embed = nn.Sequential(nn.Linear(dim_in, width), nn.GELU(), nn.Dropout(options.dropout))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(options.layers))
        self.mixers = nn.ModuleList(
            Mixer(width, options.expand, options.state, options.kernel, branches) for _ in range(options.layers)
        )
        self.norm = nn.LayerNorm(width)
        self.attention = GatedAttention(width, options.attention, gated=False)

    def mixed(self, tokens: BagBatch) -> Tensor:
        """Tokens (T, width) after the layers."""
        raise NotImplementedError

    def through(self, tokens: Tensor, paths: Sequence[Sequence[Path]]) -> Tensor:
        """Tokens (T, width) through all layers, each along its paths."""
        for norm, mixer, along in zip(self.norms, self.mixers, paths, strict=True):
            tokens = tokens + mixer(norm(tokens), along)
        return tokens

    def pool(self, tokens: BagBatch) -> Pooled:
        """Mix along the paths, then pool."""
        features = self.norm(self.mixed(tokens))
        maps = segment_softmax(self.attention(features), tokens)
        return Pooled(segment_sum(maps * features, tokens), maps)
