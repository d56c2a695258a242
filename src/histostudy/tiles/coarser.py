"""The parents of tiles at coarser scales: lattices with the same corner, whose cells are blocks of finer cells.

With k finer tiles along a coarser one, tile (i, j) has the parent (i // k, j // k), and that one's children are the
tiles (k i + a, k j + b) with a, b below k: no search, and no rounding of its own, since a parent's corner is that of
its first child.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from histostudy.scale_keys import multiple
from histostudy.tiles.lattice import Lattice


@dataclass(frozen=True)
class CoarserTiles:
    """The parents of a slide's tiles at one coarser scale.

    Attributes
    ----------
    mpp : float
        um per pixel.
    coords : ndarray of int64, (M, 2)
        Top left corners, level-0 px, row-major. A tile may reach past the slide, where it is white.
    grid : ndarray of int32, (M, 2)
        Column and row on the coarser lattice.
    parent : ndarray of int32, (N,)
        Row of each finer tile's parent.
    """

    mpp: float
    coords: np.ndarray
    grid: np.ndarray
    parent: np.ndarray

    def __len__(self) -> int:
        return len(self.coords)


def coarser_tiles(lattice: Lattice, grid: np.ndarray, scales: Sequence[float]) -> tuple[CoarserTiles, ...]:
    """The parents of tiles at each of `scales`.

    Parameters
    ----------
    lattice : Lattice
        Of the tiles.
    grid : ndarray of int, (N, 2)
        Column and row of each tile.
    scales : sequence of float
        um per pixel, each a whole multiple of the lattice's.

    Raises
    ------
    ValueError
        If one is not.
    """
    found = []
    for mpp in scales:
        k = multiple(lattice.mpp, mpp)
        cells = np.asarray(grid, np.int64) // k
        width = int(cells[:, 0].max(initial=0)) + 1
        keys, parent = np.unique(cells[:, 1] * width + cells[:, 0], return_inverse=True)
        own = np.stack([keys % width, keys // width], axis=1)
        coords = np.floor(own * k * lattice.stride_px0 + 0.5).astype(np.int64)
        found.append(CoarserTiles(float(mpp), coords, own.astype(np.int32), parent.astype(np.int32)))
    return tuple(found)
