"""2DMambaMIL: tiles mixed in the plane, along rows and then down columns (Zhang et al., 2DMamba, CVPR 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from histostudy.models.batch import BagBatch
from histostudy.models.mamba import MambaAggregator, MambaOptions, Path
from histostudy.models.registry import AGGREGATORS, is_count, require
from histostudy.models.selective_scan import selective_scan_2d


@dataclass(frozen=True)
class Mamba2DOptions(MambaOptions):
    """Options of `Mamba2D` beside those of `MambaOptions`.

    cells : most cells of a grid for each tile on it; a sparser grid is made coarser.
    """

    layers: int = 1
    cells: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        require(is_count(self.cells), "cells is a whole number from 1")


@dataclass(frozen=True)
class Grids:
    """Grids on which the tiles of a batch lie, packed one after the other, row by row.

    Attributes
    ----------
    cell : Tensor
        (T,) cell of each tile among the cells of all grids.
    column : Tensor
        (cells,) column of each cell.
    shapes : list of (int, int)
        Rows and columns of each grid.
    """

    cell: Tensor
    column: Tensor
    shapes: list[tuple[int, int]]


def lay_out(batch: BagBatch, most: int) -> Grids:
    """Lay the tiles of each bag on grids of its own.

    With coordinates, the rows and columns of a grid are the values of y and x that tiles have: those that none has are
    left out, so that the step of the lattice need not be known. Tiles of a bag at the very same coordinates are of
    several slides: the k-th of them, in file order, lies on the bag's k-th grid. As long as a grid has more than `most`
    cells a tile, its neighbouring rows and columns are made one, in pairs; then some cells hold several tiles.

    Without coordinates, the tiles fill the smallest square that holds them, row by row in file order.
    """
    if batch.coords is None:
        side = batch.lengths.double().sqrt().ceil().long()
        grid, row, column = batch.segments, *_divided(batch.place, side[batch.segments])
        heights, widths = (batch.lengths + side - 1) // side, side
    else:
        x, y = batch.coords.unbind(1)
        position = _rank(_rank(batch.segments, y), x)
        order = position.argsort(stable=True)
        run = position[order]
        copy = torch.empty_like(order)
        copy[order] = torch.arange(len(order), device=order.device) - torch.searchsorted(run, run)
        grid = _rank(batch.segments, copy)
        row, column = _within(_rank(grid, y), grid), _within(_rank(grid, x), grid)
        tiles = torch.bincount(grid)
        while True:
            heights, widths = (
                1 + tiles.new_zeros(len(tiles)).scatter_reduce(0, grid, v, "amax") for v in (row, column)
            )
            sparse = (heights * widths > most * tiles)[grid]
            if not bool(sparse.any()):
                break
            row, column = (torch.where(sparse, value // 2, value) for value in (row, column))
    sizes = heights * widths
    first = sizes.cumsum(0) - sizes
    owner = torch.repeat_interleave(sizes)
    place = torch.arange(len(owner), device=owner.device) - first[owner]
    shapes = list(zip(heights.tolist(), widths.tolist(), strict=True))
    return Grids(first[grid] + row * widths[grid] + column, place % widths[owner], shapes)


def _divided(value: Tensor, by: Tensor) -> tuple[Tensor, Tensor]:
    return value // by, value % by


def _rank(group: Tensor, value: Tensor) -> Tensor:
    """Rank (T,) of the pairs of a group and a value, ties sharing one."""
    value = value - value.min()
    return torch.unique(group * (value.max() + 1) + value, return_inverse=True)[1]


def _within(rank: Tensor, group: Tensor) -> Tensor:
    """Ranks (T,) counted from the smallest of each group."""
    count = int(group.max()) + 1
    return rank - rank.new_zeros(count).scatter_reduce(0, group, rank, "amin", include_self=False)[group]


@AGGREGATORS.register("mamba2d")
class Mamba2D(MambaAggregator):
    """A Mamba layer whose scan goes along the rows of the slide's grid and then down its columns; attention pooling.

    Tiles lie on grids by their coordinates (see `lay_out`), and the order of tiles does not matter; without coordinates
    they fill a square in file order, and it does. Tiles of several slides of a patient lie on one grid where their
    coordinates differ, since which slide a tile is of is not known here, and on several where they are the same.
    An empty cell holds a trained token. A cell of several tiles (of a sparse grid that was made coarser) holds their
    mean, and what the layers add to it is added to each of them. Only tiles are pooled, no empty cells.

    The convolution before the scan goes along rows and does not cross from one to the next (our reading). The published
    code's own slow check of the scan is another recurrence, which counts every way to a cell; not so its kernel, nor
    this.
    """

    Options = Mamba2DOptions
    places = True
    options: Mamba2DOptions

    def __init__(self, dim_in: int, options: Mamba2DOptions) -> None:
        super().__init__(dim_in, options)
        self.empty = nn.Parameter(0.02 * torch.randn(options.hidden))

    def mixed(self, tokens: BagBatch) -> Tensor:
        """Tokens after the layers."""
        grids = lay_out(tokens, self.options.cells)
        held = torch.bincount(grids.cell, minlength=len(grids.column))[:, None]
        total = tokens.features.new_zeros(len(held), self.width).index_add(0, grids.cell, tokens.features)
        cells = torch.where(held > 0, total / held.clamp(min=1).to(total.dtype), self.empty.to(total.dtype))
        path = Path(None, grids.column, partial(selective_scan_2d, shapes=grids.shapes))
        added = self.through(cells, [[path]] * self.options.layers) - cells
        return tokens.features + added[grids.cell]
