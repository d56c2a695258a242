"""HIT, the hierarchical interaction transformer of ConSlide (Huang et al., ICCV 2023, section 3.2).

Two levels, tiles within regions and regions within the slide, which meet in one direction only and without a gradient:
the classifier's loss trains the level of regions, the cross-scale loss (CSSL) that of tiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from histostudy.models.registry import is_count, require
from histostudy.training.continual.regions import RegionBatch


@dataclass(frozen=True)
class HITOptions:
    """Options of `HIT`.

    hidden : width (the paper's 384); depth : blocks; heads : of each attention; ratio : width of the MLPs to `hidden`.
    """

    hidden: int = 64
    depth: int = 2
    heads: int = 2
    ratio: int = 2

    def __post_init__(self) -> None:
        for name in ("hidden", "depth", "heads", "ratio"):
            require(is_count(getattr(self, name)), f"{name} is a whole number from 1")
        require(self.hidden % self.heads == 0, "hidden is a multiple of heads")


class Attention(nn.Module):
    """Multi-head self-attention over the places that a mask shows."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(B, N, C) and a (B, N) mask, true for at least one place each, to (B, N, C)."""
        count, places, width = tokens.shape
        q, k, v = self.qkv(tokens).view(count, places, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        return self.out(mixed.transpose(1, 2).reshape(count, places, width))


class Layer(nn.Module):
    """x + MHSA(LN x), then x + MLP(LN x)."""

    def __init__(self, width: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, ratio * width), nn.GELU(), nn.Linear(ratio * width, width)
        )

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(B, N, C) to (B, N, C)."""
        tokens = tokens + self.attention(self.norm(tokens), mask)
        return tokens + self.mlp(tokens)


class ConvPool(nn.Module):
    """A region's tiles, on their grid, to one vector: a 4 x 4 convolution, LN over channels, the mean.

    Places without a tile are zeros. The mean is over the windows that hold a tile: of a full grid over all of them, as
    published, and of a region at the edge of the tissue not mostly over nothing.
    """

    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        self.side, self.kernel = side, min(4, side)
        self.conv, self.norm = nn.Conv2d(width, width, self.kernel), nn.LayerNorm(width)

    def forward(self, tiles: Tensor, mask: Tensor) -> Tensor:
        """(R, P, C) and (R, P) to (R, C)."""
        grid = (tiles * mask[:, :, None]).transpose(1, 2).reshape(len(tiles), -1, self.side, self.side)
        windows = self.norm(self.conv(grid).flatten(2).transpose(1, 2))
        shown = F.max_pool2d(mask.view(-1, 1, self.side, self.side).to(tiles.dtype), self.kernel, 1).flatten(1)
        return (windows * shown[:, :, None]).sum(1) / shown.sum(1, keepdim=True)


def cssl(tiles: Tensor, regions: Tensor) -> Tensor:
    """Cross-scale similarity loss of one slide: do regions resemble each other as their tiles do?

    ``mean over (i, j) of ((v v')_ij - (u u')_ij)^2``, with v and u standardised as a whole (ConSlide, equation 4).

    Parameters
    ----------
    tiles : Tensor
        (R, C) v, pooled from each region's tiles.
    regions : Tensor
        (R, C) u, of the regions themselves.
    """
    v, u = _standardised(tiles), _standardised(regions)
    return (v @ v.T - u @ u.T).square().mean()


def _standardised(values: Tensor) -> Tensor:
    centred = values - values.mean()
    return centred / centred.square().mean().clamp_min(1e-12).sqrt()


class Block(nn.Module):
    """Tiles attend within their region, are pooled to it, and the regions attend within the slide."""

    def __init__(self, options: HITOptions, side: int) -> None:
        super().__init__()
        self.inner = Layer(options.hidden, options.heads, options.ratio)
        self.pool = ConvPool(options.hidden, side)
        self.outer = Layer(options.hidden, options.heads, options.ratio)


class HIT(nn.Module):
    """Two-level transformer with a linear head over the classes of all tasks.

    Parameters
    ----------
    dim_in : int
        Width of the tiles.
    classes : int
        Of all tasks.
    size : int
        Places of a region's grid, a square number.
    options : HITOptions
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, dim_in: int, classes: int, size: int, options: HITOptions) -> None:
        super().__init__()
        hidden = options.hidden
        self.fc1, self.fc2 = nn.Linear(dim_in, hidden), nn.Linear(dim_in, hidden)
        self.token = nn.Parameter(torch.zeros(hidden))
        nn.init.normal_(self.token, std=0.02)
        self.blocks = nn.ModuleList(Block(options, isqrt(size)) for _ in range(options.depth))
        self.norm, self.head = nn.LayerNorm(hidden), nn.Linear(hidden, classes)
        self.register_buffer("mean", torch.zeros(dim_in))
        self.register_buffer("scale", torch.ones(dim_in))

    def patch_level(self) -> list[nn.Parameter]:
        """What only the cross-scale loss trains."""
        level = (".fc1.", ".inner.", ".pool.")
        return [p for name, p in self.named_parameters() if any(part in f".{name}" for part in level)]

    def forward(self, batch: RegionBatch) -> tuple[Tensor, Tensor]:
        """Logits (B, classes), and the cross-scale loss, a scalar: the mean over slides of its sum over blocks."""
        batch = batch.standardised(self.mean, self.scale)
        tiles, u = F.relu(self.fc1(batch.tiles)), F.relu(self.fc2(batch.means()))
        lengths = batch.offsets.diff()
        slide = torch.repeat_interleave(torch.arange(len(batch), device=u.device), lengths)
        place = torch.arange(len(u), device=u.device) - batch.offsets[slide] + 1
        outer = u.new_zeros(len(batch), int(lengths.max()) + 1, u.shape[1])
        outer = outer.index_put((slide, place), u)
        outer = torch.cat([self.token.expand(len(batch), 1, -1), outer[:, 1:]], 1)
        shown = torch.arange(outer.shape[1], device=u.device) <= lengths[:, None]
        similar = u.new_zeros(())
        for block in self.blocks:
            assert isinstance(block, Block)
            tiles = block.inner(tiles, batch.mask)
            v = block.pool(tiles, batch.mask)
            bounds = batch.offsets.tolist()
            for start, stop in zip(bounds[:-1], bounds[1:], strict=True):
                similar = similar + cssl(v[start:stop], u[start:stop]) / len(batch)
            met = (outer[slide, place] + v.detach()) / 2
            outer = block.outer(outer.index_put((slide, place), met), shown)
        return self.head(self.norm(outer[:, 0])), similar
