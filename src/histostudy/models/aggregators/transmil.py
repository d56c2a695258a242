"""TransMIL: a transformer over the tiles, with attention by landmarks (Shao et al., NeurIPS 2021)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from histostudy.models.attention import AttentionAggregator, Pooled
from histostudy.models.batch import BagBatch, segment_sum
from histostudy.models.layers import full_precision, relu_layers
from histostudy.models.nystrom import NystromAttention
from histostudy.models.registry import AGGREGATORS, is_count, is_share, require
from histostudy.models.squares import bags_by_side, lattice_cells

GRIDS = ("square", "coords")
MAPS = ("mean", "heads")
#: Kernels of the positional convolutions, the largest first.
KERNELS = (7, 5, 3)
REACH = KERNELS[0] // 2
#: Most tokens that are mixed at a time.
TOKENS = 1 << 17


@dataclass(frozen=True)
class TransMILOptions:
    """Options of `TransMIL` (in brackets the published values where they differ).

    hidden : width of the tokens, a multiple of `heads` (512); heads : of attention; landmarks : at most, null for half
    of `hidden`; iterations : of the pseudo-inverse; kernel : length of the convolution along the values, odd; grid :
    ``square``, tiles in their order on a square, or ``coords``, on the lattice they were cut from; maps : ``mean`` over
    the heads or one a head; dropout : of the tile embedding (none); attention_dropout : of what attention gives.
    """

    hidden: int = 128
    heads: int = 8
    landmarks: int | None = None
    iterations: int = 6
    kernel: int = 33
    grid: str = "square"
    maps: str = "mean"
    dropout: float = 0.25
    attention_dropout: float = 0.1

    def __post_init__(self) -> None:
        for name in ("hidden", "heads", "iterations"):
            require(is_count(getattr(self, name)), f"{name} is a whole number from 1")
        require(self.hidden % self.heads == 0, "hidden is a multiple of heads")
        require(self.landmarks is None or is_count(self.landmarks), "landmarks is null or a whole number from 1")
        require(is_count(self.kernel) and self.kernel % 2 == 1, "kernel is an odd number from 1")
        require(self.grid in GRIDS, f"grid is one of {', '.join(GRIDS)}")
        require(self.maps in MAPS, f"maps is one of {', '.join(MAPS)}")
        for name in ("dropout", "attention_dropout"):
            require(is_share(getattr(self, name)), f"{name} is from 0 up to 1")


class PositionalConvolution(nn.Module):
    """PPEG: x plus three depthwise convolutions of the tokens in the plane (Shao et al., section 3.3).

    Their sum is one convolution with the sum of the kernels, which is what is computed.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(width, width, k, padding=k // 2, groups=width) for k in KERNELS)

    def forward(self, plane: Tensor) -> Tensor:
        """(G, width, rows, columns) to what is added to it."""
        kernel, bias = torch.zeros((), device=plane.device), torch.zeros((), device=plane.device)
        for layer in self.layers:
            assert isinstance(layer, nn.Conv2d) and layer.bias is not None
            kernel = kernel + pad(layer.weight, [REACH - layer.kernel_size[0] // 2] * 4)
            bias = bias + layer.bias
        return conv2d(plane, kernel, bias, padding=REACH, groups=plane.shape[1])


@AGGREGATORS.register("transmil")
class TransMIL(AttentionAggregator):
    """A class token among the tiles, two layers of Nystrom attention with positional convolutions between them.

    x = x + attention(LN(x)); tiles through `PositionalConvolution`; x = x + attention(LN(x)); LN of the class token.
    Before, the tiles are filled up to a square by repeating the first ones, and their order is that of the file (the
    published "position" is not one in the slide): so with `grid` ``square`` the result depends on the order of tiles.
    With ``coords`` (ours) they lie where they were cut, in row-major order and without repeats, and their order does
    not matter; bags without coordinates are laid on the square even so. Tiles of two slides of a patient that share a
    place are convolved as their mean.

    The maps are the class token's attention in the last layer over the bag's own tiles, negative values of the
    approximation taken as 0; a repeated tile's parts are added up.

    The published code fills sequences with zeros that take part in attention, and scales the pseudo-inverse by the
    largest sums over the whole batch; here nothing is filled up beyond the square and bags do not touch each other.
    """

    Options = TransMILOptions

    def __init__(self, dim_in: int, options: TransMILOptions) -> None:
        super().__init__(dim_in, options)
        self.places = options.grid == "coords"
        self.width = self.dim_out = width = options.hidden
        self.embed = relu_layers(dim_in, width, dropout=options.dropout)
        self.token = nn.Parameter(0.02 * torch.randn(width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        landmarks = options.landmarks or max(1, width // 2)
        self.mixing, self.reading = (
            NystromAttention(
                width, options.heads, landmarks, options.iterations, options.kernel, options.attention_dropout
            )
            for _ in range(2)
        )
        self.position = PositionalConvolution(width)

    def pool(self, tokens: BagBatch) -> Pooled:
        """Pool; a bag's result depends on its own tokens alone."""
        on_lattice = self.options.grid == "coords" and tokens.coords is not None
        bags, vectors, places, maps = [], [], [], []
        for some, rows, cells in _on_lattice(tokens) if on_lattice else _on_squares(tokens):
            vector, attention = self._mix(full_precision(tokens.features[rows]), cells)
            bags.append(some)
            vectors.append(vector)
            places.append(rows.flatten())
            maps.append(attention.transpose(1, 2).flatten(0, 1))
        found = torch.cat(vectors)[torch.cat(bags).argsort()]
        raw = torch.cat(maps)
        weights = raw.new_zeros(len(tokens.features), raw.shape[1]).index_add(0, torch.cat(places), raw)
        # a little to each, so that a bag whose tiles all got nothing has a map too
        weights = weights + 1e-12
        return Pooled(found, weights / segment_sum(weights, tokens)[tokens.segments])

    def _mix(self, tiles: Tensor, cells: Tensor | None) -> tuple[Tensor, Tensor]:
        """Vectors (G, width) and attention (G, K, n) of bags (G, n, width), on a square or in `cells` (n, 2)."""
        x = torch.cat([self.token.expand(len(tiles), 1, -1).to(tiles.dtype), tiles], 1)
        x = x + self.mixing(self.norms[0](x))
        placed = self._square(x[:, 1:]) if cells is None else self._cells(x[:, 1:], cells)
        x = torch.cat([x[:, :1], placed], 1)
        read, attention = self.reading.first(self.norms[1](x))
        attention = attention[:, :, 1:].clamp(min=0)
        if self.options.maps == "mean":
            attention = attention.mean(1, keepdim=True)
        return self.norms[2](x[:, 0] + read), attention

    def _square(self, tiles: Tensor) -> Tensor:
        side = round(tiles.shape[1] ** 0.5)
        plane = tiles.transpose(1, 2).unflatten(2, (side, side))
        return tiles + self.position(plane).flatten(2).transpose(1, 2)

    def _cells(self, tiles: Tensor, cells: Tensor) -> Tensor:
        rows, columns = (cells.amax(0) + 1).tolist()
        cell = cells[:, 0] * columns + cells[:, 1]
        count = torch.bincount(cell, minlength=rows * columns).clamp(min=1).to(tiles.dtype)
        held = tiles.new_zeros(rows * columns, tiles.shape[2]).index_add(0, cell, tiles[0]) / count[:, None]
        moved = self.position(held.T.unflatten(1, (rows, columns))[None])[0].flatten(1).T
        return tiles + moved[cell]


def _on_squares(tokens: BagBatch) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Groups of bags: their numbers (G,), and the rows (G, side * side) of their tiles, the first ones repeated."""
    for side, bags in bags_by_side(tokens.lengths):
        places = torch.arange(side * side, device=bags.device)
        for some in bags.split(max(1, TOKENS // (side * side))):
            yield some, tokens.offsets[some, None] + places % tokens.lengths[some, None], None


def _on_lattice(tokens: BagBatch) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Bag by bag: its number (1,), the rows (1, N) of its tiles in row-major order, their cells (N, 2)."""
    assert tokens.coords is not None
    for bag, start in enumerate(tokens.offsets[:-1].tolist()):
        rows = torch.arange(start, int(tokens.offsets[bag + 1]), device=tokens.offsets.device)
        cells = lattice_cells(tokens.coords[rows], REACH)
        order = cells[:, 1].argsort(stable=True)
        order = order[cells[order, 0].argsort(stable=True)]
        yield torch.tensor([bag], device=rows.device), rows[order][None], cells[order]
