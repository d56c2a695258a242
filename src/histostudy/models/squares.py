"""Bags laid out in the plane: on the square that their tiles fill in order, or on the lattice they were cut from."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from histostudy.errors import ModelError

#: Most places of a lattice: this many a tile, and no fewer than the second.
PLACES_A_TILE, PLACES = 64, 1 << 16


def bags_by_side(lengths: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Bags (B,) of so many tiles each, grouped by the side of the smallest square that holds them: (side, bags)."""
    sides = lengths.double().sqrt().ceil().long()
    for side in sides.unique().tolist():
        yield side, torch.nonzero(sides == side)[:, 0]


def lattice_step(coords: Tensor) -> int:
    """The distance of neighbouring tiles of one bag: that most often found between tiles next to each other in a row
    or column (of several, the smallest); 1 where no two tiles share one.

    Parameters
    ----------
    coords : Tensor
        (N, 2) int64.
    """
    gaps = []
    for along, across in ((0, 1), (1, 0)):
        order = coords[:, along].argsort(stable=True)
        order = order[coords[order, across].argsort(stable=True)]
        step = coords[order].diff(dim=0)
        gaps.append(step[(step[:, across] == 0) & (step[:, along] > 0), along])
    found, counts = torch.cat(gaps).unique(return_counts=True)
    return int(found[counts.argmax()]) if len(found) else 1


def lattice_cells(coords: Tensor, reach: int) -> Tensor:
    """Row and column on the lattice of each tile of one bag.

    Empty rows and columns in a stretch of more than `reach` are left out: tiles on either side of it stay too far
    apart to meet under a convolution that reaches so far, and the lattice stays small.

    Parameters
    ----------
    coords : Tensor
        (N, 2) int64 x and y.
    reach : int
        Cells from its centre that a kernel covers.

    Returns
    -------
    Tensor
        (N, 2) int64 row and column from 0. Tiles of two slides of a patient may share a cell.

    Raises
    ------
    ModelError
        If the lattice would have far more places than there are tiles.
    """
    step = lattice_step(coords)
    cells = (coords.flip(1) - coords.amin(0).flip(0) + step // 2) // step
    axes = []
    for axis in (0, 1):
        values, place = cells[:, axis].unique(return_inverse=True)
        packed = values.diff().clamp(max=reach + 1).cumsum(0)
        axes.append(torch.cat([packed.new_zeros(1), packed])[place])
    cells = torch.stack(axes, 1)
    rows, columns = (cells.amax(0) + 1).tolist()
    if rows * columns > max(PLACES, PLACES_A_TILE * len(coords)):
        raise ModelError(
            f"the {len(coords)} tiles of a bag lie on no lattice: it would have {rows} x {columns} places",
            todo="set the aggregator's option `grid: square`",
        )
    return cells
