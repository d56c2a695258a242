"""Regions: the tiles of a patient in groups of at most so many, which a two-level model sees as one.

Where positions are known a region is a square of the slide, as in ConSlide (4096 px of 8 x 8 patches); where they are
not, it is a run of tiles in the order of their file, and its grid is filled row by row: neighbours in the grid are then
neighbours in the file, whatever they are on the slide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from histostudy.features.bags import Bags
    from histostudy.training.continual.buffer import KeptTiles
    from histostudy.training.tilestore import TileStore


@dataclass(frozen=True)
class RegionBatch:
    """Regions of several slides, padded to a grid each.

    Parameters
    ----------
    tiles : Tensor
        (R, P, D), zeros where there is no tile; P is a square number.
    mask : Tensor
        (R, P) bool, where there is a tile; every region holds at least one.
    offsets : Tensor
        (B + 1,) int64; regions ``offsets[i]:offsets[i + 1]`` are those of slide i.
    """

    tiles: Tensor
    mask: Tensor
    offsets: Tensor

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def means(self) -> Tensor:
        """(R, D) mean of each region's tiles: its own feature, where the study has tiles of one scale only."""
        return self.tiles.sum(1) / self.mask.sum(1, keepdim=True)

    def standardised(self, mean: Tensor, scale: Tensor) -> RegionBatch:
        """The same regions, standardised; empty places stay zero."""
        return RegionBatch(((self.tiles - mean) / scale) * self.mask[:, :, None], self.mask, self.offsets)


@dataclass(frozen=True)
class Regions:
    """Regions of all patients of a store.

    Attributes
    ----------
    rows : list of list of Tensor
        By patient (in the order of the store) and region: the rows of its tiles in the store.
    cells : list of list of Tensor
        And their places in the region's grid, row by row.
    size : int
        Places of a grid.
    by_position : bool
        Whether regions are squares of slides rather than runs of tiles in file order.
    """

    rows: list[list[Tensor]]
    cells: list[list[Tensor]]
    size: int
    by_position: bool


def regions_of(bags: Bags, patient_ids: Sequence[str], size: int) -> Regions:
    """Cut bags into regions; none spans two slides.

    Parameters
    ----------
    bags : Bags
        Of all patients.
    patient_ids : sequence of str
        Those of the store, each with a tile.
    size : int
        Most tiles a region, a square number.
    """
    known = bags.positions != "unknown"
    starts = dict(zip(bags.patient_ids, zip(bags.offsets[:-1], bags.offsets[1:], strict=True), strict=True))
    rows: list[list[Tensor]] = []
    cells: list[list[Tensor]] = []
    for patient in patient_ids:
        first, last = map(int, starts[patient])
        mine: list[Tensor] = []
        places: list[Tensor] = []
        slides = bags.slide_index[first:last]
        for slide in np.unique(slides):
            members = first + np.flatnonzero(slides == slide)
            groups = _squares(bags.coords[members], size) if known else _runs(len(members), size)
            for inside, cell in groups:
                mine.append(torch.from_numpy(members[inside]))
                places.append(torch.from_numpy(cell))
        rows.append(mine)
        cells.append(places)
    return Regions(rows, cells, size, known)


def _runs(count: int, size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Runs of at most `size`, of lengths as even as can be."""
    parts = np.array_split(np.arange(count), -(-count // size))
    return [(part, np.arange(len(part))) for part in parts]


def _squares(coords: np.ndarray, size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Squares of the slide, row by row; where tiles lie on no lattice, several may fall in one place of the grid.

    Then the square is cut into runs.
    """
    side, step = isqrt(size), _step(coords)
    at = np.floor_divide(coords - coords.min(0), step)
    square = np.floor_divide(at, side)
    inner = at - square * side
    out: list[tuple[np.ndarray, np.ndarray]] = []
    for one in np.unique(square[:, ::-1], axis=0)[:, ::-1]:
        inside = np.flatnonzero((square == one).all(1))
        cell = inner[inside, 1] * side + inner[inside, 0]
        if len(np.unique(cell)) == len(cell):
            out.append((inside, cell))
        else:
            out += [(inside[part], place) for part, place in _runs(len(inside), size)]
    return out


def _step(coords: np.ndarray) -> int:
    """Distance of neighbouring tiles: the smallest between two columns, or two rows, of the slide."""
    gaps = [np.diff(np.unique(coords[:, axis])) for axis in (0, 1)]
    return int(min((int(gap.min()) for gap in gaps if len(gap)), default=1))


def region_batch(
    store: TileStore, regions: Regions, patients: Sequence[int], most: int | None = None,
    generator: torch.Generator | None = None,
) -> RegionBatch:  # fmt: skip
    """Pack the regions of patients, at `patients` of the store; with `most`, that many tiles' worth of each, drawn."""
    chosen: list[list[int]] = []
    for patient in patients:
        count = len(regions.rows[patient])
        keep = count if most is None else max(1, most // regions.size)
        chosen.append(
            sorted(torch.randperm(count, generator=generator)[:keep].tolist()) if keep < count else list(range(count))
        )
    rows = [regions.rows[p][i] for p, some in zip(patients, chosen, strict=True) for i in some]
    cells = [regions.cells[p][i] for p, some in zip(patients, chosen, strict=True) for i in some]
    features = store.features[torch.cat(rows).to(store.features.device)]
    # features may be stored in half precision
    return _packed(features.to(store.device).float(), cells, [len(some) for some in chosen], regions.size)


def kept_batch(slides: Sequence[Sequence[KeptTiles]], size: int, device: str) -> RegionBatch:
    """Pack pseudo-slides of regions that were kept."""
    every = [one for slide in slides for one in slide]
    cells = [one.cells for one in every if one.cells is not None]
    features = torch.cat([one.tiles for one in every]).to(device).float()
    return _packed(features, cells, [len(slide) for slide in slides], size)


def _packed(features: Tensor, cells: Sequence[Tensor], counts: Sequence[int], size: int) -> RegionBatch:
    device = features.device
    region = torch.repeat_interleave(torch.arange(len(cells)), torch.tensor([len(c) for c in cells]))
    at = (region * size + torch.cat(list(cells))).to(device)
    tiles = features.new_zeros(len(cells) * size, features.shape[1])
    tiles[at] = features
    mask = torch.zeros(len(cells) * size, dtype=torch.bool, device=device)
    mask[at] = True
    offsets = torch.tensor([0, *counts]).cumsum(0).to(device)
    return RegionBatch(tiles.view(len(cells), size, -1), mask.view(len(cells), size), offsets)
