"""Tiled JPEG TIFF (Aperio SVS, generic): stored tiles decoded once each, identical to OpenSlide's pixels.

OpenSlide opens the file and says what its levels are; tifffile gives the place of each stored tile, and
libjpeg-turbo (simplejpeg) decodes it with the same transform and chroma upsampling as OpenSlide's libjpeg.
Whatever is not plainly this kind of file (JPEG 2000, missing tiles, planar, not 8-bit RGB) is left to
OpenSlide.
"""

from __future__ import annotations

import logging
import os
import struct
from collections import OrderedDict
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import simplejpeg
import tifffile

from histostudy.errors import BadSlideError
from histostudy.slides.base import Slide
from histostudy.slides.jpeg import Whole, jpeg_head
from histostudy.slides.openslide_backend import OpenSlideSlide
from histostudy.slides.resample import block_mean
from histostudy.slides.scatter import Grid, Reading, Scatter, cached

logger = logging.getLogger(__name__)

VENDORS = frozenset({"aperio", "generic-tiff"})
#: Most that tiles begun may take, or decoded ones where boxes are read: two rows of 256 px tiles of a slide
#: 125,000 px wide. Less is taken where the rows that one read touches, and one more, are less.
CACHE_BYTES = 192 << 20
#: Stored tiles that adjoin are read together up to about this.
READ_BYTES = 1 << 20
#: What libjpeg's scaled inverse DCT can divide by.
DECODER_SCALES = (8, 4, 2)
_JPEG, _RGB, _YCBCR, _CONTIGUOUS = 7, 2, 6, 1


class _Unknown(Exception):
    """The file is not one that this backend reads; the message says why."""


@dataclass(frozen=True)
class _Level:
    width: int
    height: int
    tile_w: int
    tile_h: int
    columns: int
    offsets: tuple[int, ...]
    counts: tuple[int, ...]
    whole: Whole


def _level_of(page: tifffile.TiffPage, file_size: int) -> _Level:
    """What is needed to read a page's tiles."""
    tag = {code: page.tags.get(code) for code in (258, 277, 284, 262, 266, 317)}

    def value(code: int, default: int) -> object:
        found = tag[code]
        return default if found is None else found.value

    if page.compression != _JPEG:
        raise _Unknown(f"compression {page.compression}")
    bits = value(258, 8)
    if value(277, 1) != 3 or any(b != 8 for b in (bits if isinstance(bits, tuple) else (bits,))):
        raise _Unknown("not 8-bit RGB")
    if value(284, 1) != _CONTIGUOUS or value(266, 1) != 1 or value(317, 1) != 1:
        raise _Unknown("planar, bit-reversed or predicted")
    photometric = value(262, -1)
    if photometric not in (_RGB, _YCBCR):
        raise _Unknown(f"photometric interpretation {photometric}")
    width, height, tile_w, tile_h = page.imagewidth, page.imagelength, page.tilewidth, page.tilelength
    columns, rows = -(-width // tile_w), -(-height // tile_h)
    offsets, counts = tuple(page.dataoffsets), tuple(page.databytecounts)
    if len(offsets) != columns * rows or len(counts) != columns * rows:
        raise _Unknown(f"{len(offsets)} stored tiles for {columns} x {rows}")
    if min(counts) <= 0 or min(offsets) <= 0:
        raise _Unknown("missing tiles")
    if max(o + c for o, c in zip(offsets, counts, strict=True)) > file_size:
        raise BadSlideError("unreadable", "the file is cut short: stored tiles lie beyond its end")
    try:
        head = jpeg_head(page.jpegtables, photometric == _YCBCR)
    except ValueError as error:
        raise _Unknown(f"JPEG tables: {error}") from None
    return _Level(width, height, tile_w, tile_h, columns, offsets, counts, Whole(head))


def _levels(path: Path, dimensions: tuple[tuple[int, int], ...]) -> list[_Level]:
    """The tiled page of each of OpenSlide's levels, matched by size."""
    size = path.stat().st_size
    try:
        with tifffile.TiffFile(path) as tiff:
            tiled = [p for p in tiff.pages if isinstance(p, tifffile.TiffPage) and p.is_tiled]
            levels = []
            for want in dimensions:
                same = [p for p in tiled if (p.imagewidth, p.imagelength) == want]
                if len(same) != 1:
                    raise _Unknown(f"{len(same)} tiled images of size {want}")
                levels.append(_level_of(same[0], size))
            return levels
    except (tifffile.TiffFileError, ValueError, KeyError, IndexError, struct.error) as error:
        raise _Unknown(f"tifffile: {error}") from None


class NativeSlide(Slide):
    """A tiled JPEG TIFF read by its stored tiles; made by `open_native`."""

    backend = "native"

    def __init__(self, oracle: OpenSlideSlide, levels: list[_Level], cache_bytes: int = CACHE_BYTES) -> None:
        super().__init__(oracle.path)
        self.vendor, self.properties = oracle.vendor, oracle.properties
        self.level_dimensions, self.level_downsamples = oracle.level_dimensions, oracle.level_downsamples
        self.mpp_xy, self.objective_power = oracle.mpp_xy, oracle.objective_power
        self.decoded = 0
        self._oracle = oracle
        self._levels = levels
        self._cache: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._cache_bytes = cache_bytes
        self._file = os.open(oracle.path, os.O_RDONLY)

    def _close_file(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def close(self) -> None:
        self._close_file()
        self._cache.clear()
        self._oracle.close()

    def associated(self) -> dict[str, np.ndarray]:
        return self._oracle.associated()

    def _stored(self, level: _Level, indices: Sequence[int]) -> Iterator[bytes]:
        """Bytes of stored tiles, those that adjoin in the file by one read."""
        offsets, counts = level.offsets, level.counts
        first = 0
        while first < len(indices):
            start, last = offsets[indices[first]], first + 1
            end = start + counts[indices[first]]
            while last < len(indices) and offsets[indices[last]] == end and end - start < READ_BYTES:
                end += counts[indices[last]]
                last += 1
            data = os.pread(self._file, end - start, start)
            if len(data) != end - start:
                raise BadSlideError("unreadable", f"the file ends inside stored tile {indices[first]}")
            if last == first + 1:
                yield data
            else:
                for index in indices[first:last]:
                    at = offsets[index] - start
                    yield data[at : at + counts[index]]
            first = last

    def _decode(self, number: int, index: int, data: bytes, out: np.ndarray, shrink: int = 1) -> None:
        """Stored tile `index` of a level to `out` (tile_h / shrink, tile_w / shrink, 3).

        As libjpeg-turbo reads it, or else OpenSlide.
        """
        level = self._levels[number]
        try:
            if shrink == 1:
                tile = simplejpeg.decode_jpeg(level.whole(data), buffer=out)
            else:  # the smallest of the decoder's scales that is not below this size: the size itself
                tile = simplejpeg.decode_jpeg(
                    level.whole(data), min_height=out.shape[0], min_width=out.shape[1], min_factor=shrink, buffer=out
                )
            if tile.shape == out.shape:
                return
            problem = f"shape {tile.shape}"
        except ValueError as error:
            problem = str(error)
        logger.debug("%s: level %d tile %d left to OpenSlide: %s", self.path, number, index, problem)
        row, column = divmod(index, level.columns)
        x, y = column * level.tile_w, row * level.tile_h
        whole = self._oracle.read_level(number, x, y, level.tile_w, level.tile_h)
        out[:] = whole if shrink == 1 else block_mean(whole, shrink)

    def _tile(self, number: int, index: int, keep: int) -> np.ndarray:
        """A decoded tile, at most `keep` of them kept; the memory of one let go is used for the next."""
        key = (number, index)
        tile = self._cache.get(key)
        if tile is not None:
            self._cache.move_to_end(key)
            return tile
        level, spare = self._levels[number], None
        while len(self._cache) >= keep:
            spare = self._cache.popitem(last=False)[1]
        shape = (level.tile_h, level.tile_w, 3)
        tile = spare if spare is not None and spare.shape == shape else np.empty(shape, np.uint8)
        self.decoded += 1
        self._decode(number, index, next(self._stored(level, [index])), tile)
        self._cache[key] = tile
        return tile

    def _read(self, level: int, x: int, y: int, w: int, h: int) -> np.ndarray:
        at = self._levels[level]
        tw, th = at.tile_w, at.tile_h
        rows = range(y // th, (y + h - 1) // th + 1)
        columns = range(x // tw, (x + w - 1) // tw + 1)
        keep = max(1, min((len(rows) + 1) * at.columns, self._cache_bytes // (tw * th * 3)))
        out = np.empty((h, w, 3), np.uint8)
        for row in rows:
            y0, y1 = max(y, row * th), min(y + h, (row + 1) * th)
            for column in columns:
                x0, x1 = max(x, column * tw), min(x + w, (column + 1) * tw)
                tile = self._tile(level, row * at.columns + column, keep)
                out[y0 - y : y1 - y, x0 - x : x1 - x] = tile[
                    y0 - row * th : y1 - row * th, x0 - column * tw : x1 - column * tw
                ]
        return out

    def _fast_shrink(self, level: int, step: float) -> int:
        at = self._levels[level]
        return next((k for k in DECODER_SCALES if k <= step and at.tile_w % k == at.tile_h % k == 0), 1)

    def _rows(self, level: int, y: int, height: int, shrink: int) -> np.ndarray:
        at = self._levels[level]
        tw, th = at.tile_w // shrink, at.tile_h // shrink
        out = np.empty((height, -(-at.width // shrink), 3), np.uint8)
        scratch = cached((th, tw, 3))
        for row in range(y // th, (y + height - 1) // th + 1):
            top, bottom = max(y, row * th), min(y + height, (row + 1) * th)
            indices = range(row * at.columns, (row + 1) * at.columns)
            for column, data in enumerate(self._stored(at, indices)):
                self._decode(level, indices[column], data, scratch, shrink)
                part = out[top - y : bottom - y, column * tw : (column + 1) * tw]
                part[:] = scratch[top - row * th : bottom - row * th, : part.shape[1]]
        # a last pixel that is in part of what lies beyond the level takes its neighbour's colour
        if at.width % shrink and out.shape[1] > 1:
            out[:, -1] = out[:, -2]
        if at.height % shrink and (y + height) * shrink > at.height and height > 1:
            out[-1] = out[-2]
        return out

    def read_batches(
        self, xy_px0: np.ndarray, size_px: int, mpp: float, batch_size: int, *, workers: int = 0,
        fast_scale: bool = False,
    ) -> Generator[np.ndarray, None, None]:  # fmt: skip
        reading = self._mean_of_stored(self._reading(xy_px0, size_px, mpp, fast_scale))
        level = self._levels[reading.level]
        k = reading.shrink * reading.mean
        grid = Grid(-(-level.width // k), -(-level.height // k), level.tile_w // k, level.tile_h // k, level.columns)
        decode = partial(self._decode_run, reading)
        tiles = Scatter(grid, reading, decode, level.offsets.__getitem__, batch_size, self._cache_bytes)
        try:
            yield from tiles.batches(workers)
        finally:
            self.decoded += tiles.decoded

    def _mean_of_stored(self, reading: Reading) -> Reading:
        """The same reading with the mean of whole blocks taken of each stored tile, where that is the same pixels."""
        at = self._levels[reading.level]
        k = round(reading.step)
        ends = reading.corners + reading.side
        inside = (reading.corners >= 0).all() and (ends * reading.shrink <= (at.width, at.height)).all()
        blocks = k > 1 and reading.step == k and not (reading.corners % k).any()
        if not (inside and blocks and at.tile_w % (reading.shrink * k) == at.tile_h % (reading.shrink * k) == 0):
            return reading
        return replace(reading, corners=reading.corners // k, side=reading.size_px, step=1.0, mean=k)

    def _decode_run(
        self, reading: Reading, indices: Sequence[int], direct: Mapping[int, np.ndarray]
    ) -> Iterator[np.ndarray]:
        """Pixels of stored tiles as a reading wants them; each array is used again for the next."""
        import cv2

        level, shrink = self._levels[reading.level], reading.shrink
        scratch = cached((level.tile_h // shrink, level.tile_w // shrink, 3))
        means = cached((scratch.shape[0] // reading.mean, scratch.shape[1] // reading.mean, 3))
        for index, data in zip(indices, self._stored(level, indices), strict=True):
            out = scratch if reading.mean > 1 else direct.get(index, scratch)
            self._decode(reading.level, index, data, out, shrink)
            if reading.mean > 1:
                out = cv2.resize(out, means.shape[1::-1], dst=means, interpolation=cv2.INTER_AREA)
            yield out


def open_native(oracle: OpenSlideSlide, cache_bytes: int = CACHE_BYTES) -> NativeSlide | None:
    """The fast reader of a slide that OpenSlide has opened, or None where the file is not of a known kind.

    Raises
    ------
    BadSlideError
        ``unreadable``, if the file is cut short.
    """
    try:
        if oracle.vendor not in VENDORS:
            raise _Unknown(f"vendor {oracle.vendor}")
        levels = _levels(oracle.path, oracle.level_dimensions)
        slide = NativeSlide(oracle, levels, cache_bytes)
        try:
            for number, level in enumerate(levels):
                _try_first_tile(slide, number, level)
        except (_Unknown, BadSlideError):
            slide._close_file()
            raise
    except _Unknown as why:
        logger.debug("%s: read by OpenSlide: %s", oracle.path, why)
        return None
    return slide


def _try_first_tile(slide: NativeSlide, number: int, level: _Level) -> None:
    """Decode the first tile of a level, so that an odd sampling is found before it matters."""
    try:
        shape = simplejpeg.decode_jpeg(level.whole(next(slide._stored(level, [0])))).shape
    except ValueError as error:
        raise _Unknown(f"level {number}: {error}") from None
    if shape != (level.tile_h, level.tile_w, 3):
        raise _Unknown(f"level {number}: first tile is {shape}")
