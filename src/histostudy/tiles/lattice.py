"""The lattice of tiles of a slide: where they lie, and how much of each is tissue."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from histostudy.errors import BadSlideError

#: Pixels of the tissue mask along a tile: the share of tissue is then good to about a percent.
MASK_PX_PER_TILE = 16
#: Longest side of that mask, px; bounds memory to about 150 MB whatever the slide.
MASK_SIDE_MAX = 6000


@dataclass(frozen=True)
class Lattice:
    """A regular lattice from the slide's top left corner, row-major, of tiles wholly in the slide.

    Parameters
    ----------
    width_px0, height_px0 : int
        Slide, level-0 px.
    slide_mpp : float
        um per level-0 pixel.
    mpp : float
        um per pixel asked for.
    size : int
        Side of a tile, px at `mpp`.
    overlap : int
        Overlap of neighbours, px at `mpp`.
    tolerance : float
        Share by which the slide may be coarser than `mpp`; its tiles are then enlarged.

    Raises
    ------
    BadSlideError
        ``coarser_than_tiles``.
    """

    width_px0: int
    height_px0: int
    slide_mpp: float
    mpp: float
    size: int
    overlap: int = 0
    tolerance: float = 0.05

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.size:
            raise ValueError(f"overlap {self.overlap} must lie in 0 to {self.size - 1}")
        if self.slide_mpp > self.mpp * (1 + self.tolerance):
            raise BadSlideError(
                "coarser_than_tiles",
                f"scanned at {self.slide_mpp:g} um per pixel, tiles ask for {self.mpp:g} (tolerance "
                f"{self.tolerance:.0%})",
            )

    @property
    def size_px0(self) -> float:
        """Side of a tile in level-0 pixels, not rounded: ``size * mpp / slide_mpp``."""
        return self.size * self.mpp / self.slide_mpp

    @property
    def stride_px0(self) -> float:
        """Distance of neighbours in level-0 pixels, not rounded."""
        return (self.size - self.overlap) * self.mpp / self.slide_mpp

    def facts(self) -> dict[str, float]:
        """What a file of tiles says of its lattice (see `histostudy.tiles.store.TileSet`)."""
        return {
            "mpp_requested": self.mpp, "mpp_effective": self.mpp_effective, "mpp_slide": self.slide_mpp,
            "size_px": self.size, "size_px0": self.size_px0, "overlap_px": self.overlap,
            "width_px0": self.width_px0, "height_px0": self.height_px0,
        }  # fmt: skip

    @property
    def mpp_effective(self) -> float:
        """The finest detail a tile can hold, um per pixel: `mpp`, or the slide's where that is coarser."""
        return max(self.mpp, self.slide_mpp)

    def _starts(self, length_px0: int) -> np.ndarray:
        """Left edges (or tops) along one side: multiples of the stride, each rounded once."""
        side = math.ceil(self.size_px0 - 1e-6)
        count = max(0, math.floor((length_px0 - side) / self.stride_px0) + 2)
        starts = np.floor(np.arange(count) * self.stride_px0 + 0.5).astype(np.int64)
        return starts[starts + side <= length_px0]

    @cached_property
    def columns_px0(self) -> np.ndarray:
        """Left edges of the columns, level-0 px, int64."""
        return self._starts(self.width_px0)

    @cached_property
    def rows_px0(self) -> np.ndarray:
        """Tops of the rows, level-0 px, int64."""
        return self._starts(self.height_px0)

    def __len__(self) -> int:
        return len(self.columns_px0) * len(self.rows_px0)

    @property
    def grid(self) -> np.ndarray:
        """Column and row of each tile, row-major, int32 (N, 2)."""
        row, column = np.indices((len(self.rows_px0), len(self.columns_px0)), dtype=np.int32)
        return np.stack([column.ravel(), row.ravel()], axis=1)

    @property
    def coords(self) -> np.ndarray:
        """Top left corner of each tile, level-0 px, row-major, int64 (N, 2)."""
        grid = self.grid
        return np.stack([self.columns_px0[grid[:, 0]], self.rows_px0[grid[:, 1]]], axis=1)

    @property
    def mask_downsample(self) -> float:
        """Level-0 pixels per pixel of a tissue mask that is fine enough for `tissue_fraction`."""
        longest = max(self.width_px0, self.height_px0)
        return max(1.0, self.size_px0 / MASK_PX_PER_TILE, longest / MASK_SIDE_MAX)

    @property
    def mask_shape(self) -> tuple[int, int]:
        """Height and width of that mask."""
        d = self.mask_downsample
        return math.ceil(self.height_px0 / d), math.ceil(self.width_px0 / d)

    def tissue_fraction(self, mask: np.ndarray, downsample: float | None = None) -> np.ndarray:
        """Share of each tile's area that the mask covers, from an integral image.

        A tile's edge that runs through a pixel of the mask takes that pixel's share, so the result is the
        exact area under the mask as drawn.

        Parameters
        ----------
        mask : ndarray of bool, (H, W)
        downsample : float, optional
            Level-0 pixels per pixel of the mask; default `mask_downsample`.

        Returns
        -------
        ndarray of float32, (N,)
            Row-major, 0 to 1.
        """
        d = self.mask_downsample if downsample is None else downsample
        height, width = mask.shape
        total = np.zeros((height + 1, width + 1), np.int32)
        np.cumsum(np.cumsum(mask, axis=0, dtype=np.int32), axis=1, dtype=np.int32, out=total[1:, 1:])
        left, right = _edges(self.columns_px0, self.size_px0, d, width)
        top, bottom = _edges(self.rows_px0, self.size_px0, d, height)
        area = (
            _area_to(total, bottom, right)
            - _area_to(total, top, right)
            - _area_to(total, bottom, left)
            + _area_to(total, top, left)
        )
        share = area / (self.size_px0 / d) ** 2
        return np.clip(share, 0, 1).astype(np.float32).ravel()


def _edges(starts: np.ndarray, side: float, downsample: float, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last edge of each tile in pixels of the mask, kept within it."""
    low, high = starts / downsample, (starts + side) / downsample
    return np.clip(low, 0, limit), np.clip(high, 0, limit)


def _area_to(total: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The integral image at fractional rows `y` and columns `x`: float64 (len(y), len(x))."""
    y0 = np.minimum(y.astype(np.int64), total.shape[0] - 2)
    x0 = np.minimum(x.astype(np.int64), total.shape[1] - 2)
    fy, fx = (y - y0)[:, None], (x - x0)[None, :]
    corner = total[np.ix_(y0, x0)] * (1 - fx) + total[np.ix_(y0, x0 + 1)] * fx
    below = total[np.ix_(y0 + 1, x0)] * (1 - fx) + total[np.ix_(y0 + 1, x0 + 1)] * fx
    return corner * (1 - fy) + below * fy
