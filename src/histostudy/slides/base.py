"""The reader interface: what a backend gives, and the reading at an exact scale built on it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from histostudy.slides.prefetch import ordered
from histostudy.slides.resample import block_mean, resample, shrink_to, source_side
from histostudy.slides.scale import mean_mpp
from histostudy.slides.scatter import AHEAD, GROUP, Reading

#: A level counts as fine enough where it is coarser than asked by no more than this share (4.001 for 4).
LEVEL_SLACK = 2e-3
#: Pixels read at once for a thumbnail: 3 bytes each, so 48 MiB.
BAND_PIXELS = 16 << 20


class Slide(ABC):
    """An open slide. Level-0 pixels are the coordinates of everything unless a name says otherwise.

    Not safe for use by two threads at once; open one a thread, or let `read_tiles` have threads of its own.

    Attributes
    ----------
    path : Path
    backend : str
        ``native``, ``openslide`` or ``fastslide``.
    vendor : str
        Format family, OpenSlide's name.
    level_dimensions : tuple of (width, height)
    level_downsamples : tuple of float
    properties : mapping of str to str
    objective_power : float or None
    mpp_xy : (float, float) or None
        Scale in the file, um per pixel in x and y.
    mpp : float
        The scale in use; NaN until `open_slide` has chosen one.
    mpp_source : str
        ``table``, ``metadata`` or ``objective``.
    """

    backend = ""
    #: Whether several threads may read at once.
    concurrent = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.vendor = ""
        self.level_dimensions: tuple[tuple[int, int], ...] = ()
        self.level_downsamples: tuple[float, ...] = ()
        self.properties: Mapping[str, str] = {}
        self.objective_power: float | None = None
        self.mpp_xy: tuple[float, float] | None = None
        self.mpp = math.nan
        self.mpp_source = ""

    @property
    def width_px0(self) -> int:
        """Width at level 0, px."""
        return self.level_dimensions[0][0]

    @property
    def height_px0(self) -> int:
        """Height at level 0, px."""
        return self.level_dimensions[0][1]

    @property
    def mpp_metadata(self) -> float | None:
        """Scale in the file, mean of x and y, um per pixel; None where the file has none."""
        return mean_mpp(self.mpp_xy)

    @abstractmethod
    def _read(self, level: int, x: int, y: int, w: int, h: int) -> np.ndarray:
        """Pixels of a box that lies wholly in the level; x and y in pixels of that level."""

    @abstractmethod
    def close(self) -> None:
        """Close the file."""

    def associated(self) -> dict[str, np.ndarray]:
        """Label, macro and other images stored beside the slide, uint8 (H, W, 3) each."""
        return {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read_level(self, level: int, x: int, y: int, w: int, h: int) -> np.ndarray:
        """Read a box of a level.

        Parameters
        ----------
        level : int
        x, y, w, h : int
            In pixels of that level; what lies outside it is white.

        Returns
        -------
        ndarray of uint8, (h, w, 3)
            Yours to change.

        Raises
        ------
        BadSlideError
            ``unreadable``, if the stored data is damaged.
        """
        width, height = self.level_dimensions[level]
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
        if (x0, y0, x1, y1) == (x, y, x + w, y + h):
            return self._read(level, x, y, w, h)
        out = np.full((h, w, 3), 255, np.uint8)
        if x1 > x0 and y1 > y0:
            out[y0 - y : y1 - y, x0 - x : x1 - x] = self._read(level, x0, y0, x1 - x0, y1 - y0)
        return out

    def level_for(self, downsample: float) -> int:
        """The coarsest level that still has `downsample` level-0 pixels a pixel or fewer."""
        fine = [i for i, d in enumerate(self.level_downsamples) if d <= downsample * (1 + LEVEL_SLACK)]
        return max(fine, key=lambda i: self.level_downsamples[i]) if fine else 0

    def read_mpp(self, x_px0: int, y_px0: int, size_px: int, mpp: float) -> np.ndarray:
        """Read one square of `size_px` pixels at exactly `mpp`.

        Covers ``size_px * mpp / self.mpp`` level-0 pixels from (x_px0, y_px0), read from the coarsest level
        that is fine enough; on a level above 0 the corner is that level's nearest pixel.

        Returns
        -------
        ndarray of uint8, (size_px, size_px, 3)
        """
        reading = self._reading(np.array([[x_px0, y_px0]]), size_px, mpp)
        x, y = reading.corners[0].tolist()
        return resample(self.read_level(reading.level, x, y, reading.side, reading.side), reading.step, size_px)

    def read_tiles(
        self, xy_px0: np.ndarray, size_px: int, mpp: float, *, workers: int = 0, fast_scale: bool = False
    ) -> Iterator[np.ndarray]:
        """Read squares at exactly `mpp`, in the order given; row-major order decodes each stored tile once.

        Parameters
        ----------
        xy_px0 : ndarray of int, (N, 2)
            Top left corners at level 0.
        size_px : int
            Side, px at `mpp`.
        mpp : float
            Wanted um per pixel.
        workers : int
            Threads that read ahead while the caller works; 0: none. The pixels are the same. They end with the
            iterator: close it where it is not read to its end.
        fast_scale : bool
            Let libjpeg decode at a half, a quarter or an eighth where the scale is that much coarser than the
            level (`native` only); other pixels than the area mean of a full decode, in less time.

        Yields
        ------
        ndarray of uint8, (size_px, size_px, 3)

        Raises
        ------
        BadSlideError
            ``unreadable``, at the first tile that lies on damaged data or up to `GROUP` tiles before it.
        """
        # tiles of a group share one piece of memory, which is used again: single ones cost a page fault every 4 KB
        batches = self.read_batches(xy_px0, size_px, mpp, GROUP, workers=workers, fast_scale=fast_scale)
        with closing(batches):
            for batch in batches:
                yield from batch

    def read_batches(
        self, xy_px0: np.ndarray, size_px: int, mpp: float, batch_size: int, *, workers: int = 0,
        fast_scale: bool = False,
    ) -> Generator[np.ndarray, None, None]:  # fmt: skip
        """Read squares as `read_tiles` does, `batch_size` at a time.

        Yields
        ------
        ndarray of uint8, (n, size_px, size_px, 3)
            The last may be smaller.
        """
        reading = self._reading(xy_px0, size_px, mpp, fast_scale)
        # a reader that is not known to stand several threads is still read ahead, by one
        threads = workers if self.concurrent else min(workers, 1)
        batches = (
            partial(self._batch, reading, first, min(first + batch_size, len(reading.corners)))
            for first in range(0, len(reading.corners), batch_size)
        )
        with closing(ordered(batches, threads, ahead=threads + AHEAD // batch_size)) as made:
            yield from made

    def _batch(self, reading: Reading, first: int, last: int) -> np.ndarray:
        """The tiles from `first` to `last`, each read alone."""
        size, side = reading.size_px, reading.side
        batch = np.empty((last - first, size, size, 3), np.uint8)
        for (x, y), tile in zip(reading.corners[first:last].tolist(), batch, strict=True):
            resample(self.read_level(reading.level, x, y, side, side), reading.step, size, out=tile)
        return batch

    def _reading(self, xy_px0: np.ndarray, size_px: int, mpp: float, fast_scale: bool = False) -> Reading:
        """Which level the tiles are read from, where, and by what step."""
        wanted = mpp / self.mpp
        if not (math.isfinite(wanted) and wanted > 0):
            raise ValueError(f"cannot read at mpp {mpp} from a slide of mpp {self.mpp}")
        level = self.level_for(wanted)
        downsample = self.level_downsamples[level]
        shrink = self._fast_shrink(level, wanted / downsample) if fast_scale else 1
        step = wanted / (downsample * shrink)
        corners = np.rint(np.asarray(xy_px0, np.float64).reshape(-1, 2) / (downsample * shrink)).astype(np.int64)
        return Reading(level, corners, source_side(size_px, step), step, size_px, shrink)

    def _fast_shrink(self, level: int, step: float) -> int:
        """What the decoder can divide a level by, at most `step`."""
        return 1

    def _rows(self, level: int, y: int, height: int, shrink: int) -> np.ndarray:
        """Whole rows of a level that the decoder divides by `shrink`, in pixels of what it gives."""
        return self.read_level(level, 0, y, self.level_dimensions[level][0], height)

    def thumbnail(self, mpp: float) -> tuple[np.ndarray, float]:
        """The whole slide at `mpp`, or at its own scale where that is coarser.

        Returns
        -------
        ndarray of uint8, (H, W, 3)
        float
            Effective um per pixel: slide width in um over W.
        """
        rgb = self.shrunk(max(1.0, mpp / self.mpp))
        return rgb, self.mpp * self.width_px0 / rgb.shape[1]

    def shrunk(self, downsample: float, *, fast_scale: bool = False) -> np.ndarray:
        """The whole slide, `downsample` level-0 pixels to one.

        Where what is to be read is larger than `BAND_PIXELS` it is read in bands that are averaged over whole pixels
        first and brought to scale after, so that memory stays bounded.

        Parameters
        ----------
        downsample : float
        fast_scale : bool
            Let the decoder shrink as far as it can, as in `read_tiles`: to look at, not to measure on.
        """
        width = max(1, round(self.width_px0 / downsample))
        height = max(1, round(self.height_px0 / downsample))
        exact = self.width_px0 / width
        level = self.level_for(exact)
        level_width, level_height = self.level_dimensions[level]
        step = max(1.0, level_width / width)
        shrink = self._fast_shrink(level, step) if fast_scale else 1
        level_width, level_height, step = -(-level_width // shrink), -(-level_height // shrink), step / shrink
        k = 1 if level_width * level_height <= BAND_PIXELS else math.floor(step)
        rows = max(k, BAND_PIXELS // max(1, level_width) // k * k)
        bands = []
        for y in range(0, level_height, rows):
            band = self._rows(level, y, min(rows, level_height - y), shrink)
            bands.append(block_mean(band, k))
        reduced = bands[0] if len(bands) == 1 else np.concatenate(bands)
        return shrink_to(reduced, step / k, width, height)
