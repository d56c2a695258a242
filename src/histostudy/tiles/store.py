"""Tile coordinates of a slide as HDF5, in the layout that TRIDENT reads, with our facts beside it.

The parents of the tiles at a coarser scale, where a study has such, are in a group ``scale@<um per pixel>``: its
``coords`` and ``grid`` are like the tiles' own, and ``parent`` is the row of each tile's parent among them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from histostudy.errors import FeatureError
from histostudy.files import atomic
from histostudy.tiles.coarser import CoarserTiles

#: Beginning of the name of a group of parents.
GROUP = "scale@"


@dataclass(frozen=True)
class TileSet:
    """The tiles of one slide.

    Attributes
    ----------
    coords : ndarray of int64, (N, 2)
        Top left corners, level-0 px, row-major.
    grid : ndarray of int32, (N, 2)
        Column and row on the lattice.
    tissue_fraction : ndarray of float32, (N,)
    attrs : dict
        `slide_id`, `mpp_requested`, `mpp_effective`, `mpp_slide` (um per pixel), `size_px`, `overlap_px` (px
        at `mpp_requested`), `size_px0` (level-0 px, not rounded), `width_px0`, `height_px0`, `identity`.
    coarser : tuple of CoarserTiles
        Their parents at coarser scales, finest first.
    """

    coords: np.ndarray
    grid: np.ndarray
    tissue_fraction: np.ndarray
    attrs: Mapping[str, Any] = field(default_factory=dict)
    coarser: tuple[CoarserTiles, ...] = ()

    def __len__(self) -> int:
        return len(self.coords)


def write_tiles(path: str | Path, tiles: TileSet) -> None:
    """Write a slide's tiles atomically; the same tiles give the same bytes."""
    import h5py

    attrs = dict(tiles.attrs)
    slide_mpp, mpp = float(attrs["mpp_slide"]), float(attrs["mpp_requested"])
    # TRIDENT speaks of magnification and whole pixels: 10 / mpp, rounded, and read by TRIDENT alone
    trident = {
        "patch_size": int(attrs["size_px"]),
        "patch_size_level0": round(float(attrs["size_px0"])),
        "level0_magnification": _magnification(slide_mpp),
        "target_magnification": _magnification(mpp),
        "overlap": int(attrs["overlap_px"]),
        "name": str(attrs["slide_id"]),
        "level0_width": int(attrs["width_px0"]),
        "level0_height": int(attrs["height_px0"]),
    }
    with atomic(path) as temporary, h5py.File(temporary, "w") as file:
        coords = file.create_dataset("coords", data=tiles.coords.astype(np.int64), track_times=False)
        for key, value in trident.items():
            coords.attrs[key] = value
        file.create_dataset("grid", data=tiles.grid.astype(np.int32), track_times=False)
        fraction = tiles.tissue_fraction.astype(np.float32)
        file.create_dataset("tissue_fraction", data=fraction, track_times=False)
        for one in tiles.coarser:
            group = file.create_group(f"{GROUP}{one.mpp:g}")
            group.attrs["mpp"] = one.mpp
            for name in ("coords", "grid", "parent"):
                group.create_dataset(name, data=getattr(one, name), track_times=False)
        for key in sorted(attrs):
            value = attrs[key]
            file.attrs[key] = json.dumps(value, sort_keys=True) if isinstance(value, Mapping | list) else value


def _magnification(mpp: float) -> int | float:
    """10 / mpp, as a whole number from 1 up: 20 for 0.5 and for 0.4942."""
    return max(1, round(10 / mpp)) if mpp <= 10 else 10 / mpp


def read_tiles(path: str | Path) -> TileSet:
    """Read a slide's tiles.

    Raises
    ------
    FeatureError
        If the file is not one that `write_tiles` wrote.
    """
    import h5py

    if not Path(path).is_file():
        raise FeatureError("no such tile file", where=path, todo="run the tiles stage")
    try:
        with h5py.File(path, "r") as file:
            groups = sorted((group for name, group in file.items() if name.startswith(GROUP)), key=_mpp_of)
            coarser = [CoarserTiles(_mpp_of(g), g["coords"][:], g["grid"][:], g["parent"][:]) for g in groups]
            own = file["coords"][:], file["grid"][:], file["tissue_fraction"][:]
            return TileSet(*own, dict(file.attrs.items()), tuple(coarser))
    except (KeyError, OSError) as error:
        raise FeatureError(
            f"not a tile file of histostudy ({error})", where=path, todo="delete it and run the tiles stage"
        ) from None


def _mpp_of(group: Any) -> float:
    return float(group.attrs["mpp"])
