"""Tiles around given places, such as the spots of spatial transcriptomics, instead of on a lattice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from histostudy.errors import BadSlideError
from histostudy.tiles.lattice import Lattice
from histostudy.tiles.store import TileSet

if TYPE_CHECKING:
    import pandas as pd


def corner_of(centres: np.ndarray, size_px0: float) -> np.ndarray:
    """Top left corners (N, 2) int64 of tiles of a side around centres (N, 2), level-0 pixels."""
    return np.rint(np.asarray(centres, float) - size_px0 / 2).astype(np.int64)


def in_slide(centres: np.ndarray, size_px0: ArrayLike, width_px0: ArrayLike, height_px0: ArrayLike) -> np.ndarray:
    """Whether tiles of a side around centres (N, 2) lie wholly in their slide: (N,) bool; sizes one or (N,)."""
    side = np.asarray(size_px0, float)
    corners = np.rint(np.asarray(centres, float) - side.reshape(-1, 1) / 2)
    ends = np.stack(np.broadcast_arrays(np.asarray(width_px0, float), np.asarray(height_px0, float)), -1)
    return (corners >= 0).all(1) & (corners + side.reshape(-1, 1) <= ends).all(1)


def lay_spots(slide_id: str, lattice: Lattice, spots: pd.DataFrame, *, identity: str = "") -> TileSet:
    """One tile around each spot of a slide; one that does not lie in the slide is left out.

    The places are given, so no tissue is asked for: the tissue fraction is written as 1.

    Parameters
    ----------
    slide_id : str
    lattice : Lattice
        For the side of a tile and the size of the slide.
    spots : DataFrame
        `slide_id`, `x_px0`, `y_px0` (see `histostudy.cohort.spots.read_spots`).
    identity : str
        Digest of what the tiles depend on.

    Raises
    ------
    BadSlideError
        ``no_tiles``.
    """
    mine = spots[spots["slide_id"] == slide_id]
    centres = mine[["x_px0", "y_px0"]].to_numpy()
    inside = in_slide(centres, lattice.size_px0, lattice.width_px0, lattice.height_px0)
    if not inside.any():
        raise BadSlideError(
            "no_tiles", f"none of {len(mine)} spots has a tile of {lattice.size_px0:.0f} px in the slide"
        )
    corners = np.unique(corner_of(centres[inside], lattice.size_px0), axis=0)
    corners = corners[np.lexsort((corners[:, 0], corners[:, 1]))]
    attrs = {**lattice.facts(), "slide_id": slide_id, "overlap_px": 0, "min_tissue": 0.0, "identity": identity}
    grid = (corners / lattice.size_px0).astype(np.int32)
    return TileSet(corners, grid, np.ones(len(corners), np.float32), attrs)
