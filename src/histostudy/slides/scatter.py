"""Tiles from stored tiles: each stored tile decoded once and laid at once into every tile that it is part of.

A decoded stored tile is used while it lies in the processor's cache and never kept; kept are the tiles begun. A
tile is read for the batch it is in; what it shares with tiles up to a horizon after it, bounded by memory, is laid
into those too. So an order in which neighbours follow (row by row) decodes everything once, and any other order
decodes some stored tiles again, in the same memory. Stored tiles are read in the order of the file, adjacent ones
by one read.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from histostudy.slides.prefetch import pool
from histostudy.slides.resample import is_crop, resample

#: Stored tiles that one thread takes at a time.
RUN = 8
#: Tiles looked ahead at least, so that stored tiles can be taken in the order of the file.
GROUP = 32
#: Tiles made ahead by threads, beyond the batch that is asked for: by each of them, and at most.
AHEAD_EACH, AHEAD = GROUP, 256


@dataclass(frozen=True)
class Reading:
    """How tiles are read from a level.

    Attributes
    ----------
    level : int
    corners : ndarray of int64, (N, 2)
        Top left of each box, in pixels of the level divided by `shrink` and `mean`.
    side : int
        Of a box, in those pixels.
    step : float
        Those pixels per pixel of a tile.
    size_px : int
        Side of a tile.
    shrink : int
        What the decoder divides stored tiles by (libjpeg's scaled inverse DCT); 1: nothing.
    mean : int
        What decoded stored tiles are divided by, by the mean of whole blocks; 1: nothing.
    """

    level: int
    corners: np.ndarray
    side: int
    step: float
    size_px: int
    shrink: int = 1
    mean: int = 1


@dataclass(frozen=True)
class Grid:
    """Stored tiles of a level, in the pixels of a `Reading`: size of the level and of a stored tile."""

    width: int
    height: int
    tile_w: int
    tile_h: int
    columns: int


#: Pixels of stored tiles by their numbers: ``decode(numbers, direct)`` gives them one after the other, each valid
#: until the next; ``direct`` may hold, by number, where to decode to.
Decode = Callable[[Sequence[int], dict[int, np.ndarray]], Iterator[np.ndarray]]
#: A tile, and the parts of the stored tile and of its box that are the same.
_Piece = tuple[int, slice, slice, slice, slice]


class Scatter:
    """One pass over the tiles of a reading.

    Parameters
    ----------
    grid : Grid
    reading : Reading
    decode : callable
        May be called by several threads at once.
    offset_of : callable
        Place of a stored tile in the file.
    batch_size : int
        Tiles a batch.
    budget : int
        Bytes that tiles begun may take.
    """

    def __init__(
        self, grid: Grid, reading: Reading, decode: Decode, offset_of: Callable[[int], int], batch_size: int,
        budget: int,
    ) -> None:  # fmt: skip
        self.grid, self.reading, self.decode, self.offset_of, self.batch_size = (
            grid, reading, decode, offset_of, batch_size,
        )  # fmt: skip
        self.crops = is_crop(reading.size_px, reading.step)
        self.horizon = max(1, budget // max(1, 3 * reading.side**2))
        self.group = min(self.horizon, max(GROUP, batch_size))
        self.decoded = 0
        self._corners: list[list[int]] = reading.corners.tolist()
        self._todo: dict[int, list[_Piece]] = {}
        self._keys: dict[int, list[int]] = {}
        self._left: dict[int, int] = {}
        self._boxes: dict[int, np.ndarray] = {}
        self._spare: list[np.ndarray] = []
        self._batches: dict[int, np.ndarray] = {}
        self._waits: dict[int, list[Future[None]]] = {}
        self._entered = 0
        self._lock = threading.Lock()
        self._along_x = lru_cache(4096)(lambda x: _spans(x, reading.side, grid.tile_w, grid.width))
        self._along_y = lru_cache(4096)(lambda y: _spans(y, reading.side, grid.tile_h, grid.height))

    def batches(self, workers: int = 0) -> Generator[np.ndarray, None, None]:
        """The tiles, uint8 (n, size_px, size_px, 3), with `workers` threads that decode ahead (0: none)."""
        count, made = len(self._corners), 0
        with pool(workers) if workers > 0 else nullcontext() as executor:
            ahead = min(AHEAD_EACH * workers, AHEAD)
            for number, first in enumerate(range(0, count, self.batch_size)):
                last = min(first + self.batch_size, count)
                while made < min(last + ahead, count):
                    upto = min(made + self.group, count)
                    self._make(made, upto, executor)
                    made = upto
                for tile in range(first, last):
                    for future in self._waits.pop(tile, ()):
                        future.result()
                    self._boxes.pop(tile, None)
                    del self._left[tile]
                yield self._batches.pop(number)

    def _make(self, first: int, last: int, executor: ThreadPoolExecutor | None) -> None:
        """Decode what the tiles from `first` to `last` still need."""
        for tile in range(self._entered, min(first + self.horizon, len(self._corners))):
            self._enter(tile)
            self._entered = tile + 1
        needed: dict[int, list[_Piece]] = {}
        for tile in range(first, last):
            for key in self._keys.pop(tile):
                if (pieces := self._todo.pop(key, None)) is not None:
                    needed[key] = pieces
        self.decoded += len(needed)
        order = sorted(needed, key=self.offset_of)
        for start in range(0, len(order), RUN):
            run = [(key, needed[key]) for key in order[start : start + RUN]]
            tiles = {piece[0] for _, pieces in run for piece in pieces}
            if self.crops:  # a box is its place in the batch
                self._begin(tiles)
            if executor is None:
                self._lay(run)
                continue
            future = executor.submit(self._lay, run)
            for tile in tiles:
                self._waits.setdefault(tile, []).append(future)

    def _enter(self, tile: int) -> None:
        """Note what a tile needs of each stored tile."""
        x, y = self._corners[tile]
        across, down = self._along_x(x), self._along_y(y)
        keys = self._keys[tile] = []
        for row, from_y, to_y in down:
            for column, from_x, to_x in across:
                key, piece = row * self.grid.columns + column, (tile, from_y, from_x, to_y, to_x)
                keys.append(key)
                if (pieces := self._todo.get(key)) is None:
                    self._todo[key] = [piece]
                else:
                    pieces.append(piece)
        self._left[tile] = len(keys)
        if not self._left[tile]:  # it lies wholly outside
            with self._lock:  # threads that finish tiles of the same batch may be making it
                self._slot(tile)[:] = 255

    def _slot(self, tile: int) -> np.ndarray:
        """Where a tile goes in its batch."""
        number, place = divmod(tile, self.batch_size)
        batch = self._batches.get(number)
        if batch is None:
            n, side = min(self.batch_size, len(self._corners) - number * self.batch_size), self.reading.size_px
            batch = self._batches[number] = cached((n, side, side, 3))
        return batch[place]

    def _begin(self, tiles: set[int]) -> None:
        """Find memory for the tiles that have none yet."""
        with self._lock:
            for tile in tiles:
                if tile not in self._boxes:
                    self._boxes[tile] = self._box(tile)

    def _box(self, tile: int) -> np.ndarray:
        """Memory for a tile's source pixels."""
        side = self.reading.side
        if self.crops:
            box = self._slot(tile)
        else:
            box = self._spare.pop() if self._spare else np.empty((side, side, 3), np.uint8)
        x, y = self._corners[tile]
        if x < 0 or y < 0 or x + side > self.grid.width or y + side > self.grid.height:
            box[:] = 255
        return box

    def _lay(self, run: Sequence[tuple[int, list[_Piece]]]) -> None:
        """Decode a run of stored tiles, lay each into its tiles, and finish the tiles that have all their parts."""
        if not self.crops:  # only now: a box for every tile looked ahead would be gigabytes
            self._begin({piece[0] for _, pieces in run for piece in pieces})
        whole = (self.grid.tile_h, self.grid.tile_w)
        direct = {}
        for key, pieces in run:
            if len(pieces) == 1:
                tile, from_y, from_x, to_y, to_x = pieces[0]
                box = self._boxes[tile]
                if box.shape[:2] == whole and (from_y.stop - from_y.start, from_x.stop - from_x.start) == whole:
                    direct[key] = box
        pixels = self.decode([key for key, _ in run], direct)
        for key, pieces in run:
            stored = next(pixels)
            if stored is direct.get(key):
                continue
            for tile, from_y, from_x, to_y, to_x in pieces:
                self._boxes[tile][to_y, to_x] = stored[from_y, from_x]
        if not self.crops:
            self._finish([piece[0] for _, pieces in run for piece in pieces])

    def _finish(self, laid: Sequence[int]) -> None:
        """Bring the tiles to scale that have all their parts now; `laid` holds a tile for each part."""
        whole = []
        with self._lock:
            for tile in laid:
                self._left[tile] -= 1
                if not self._left[tile]:
                    whole.append((self._boxes.pop(tile), self._slot(tile)))
        for box, slot in whole:
            resample(box, self.reading.step, self.reading.size_px, out=slot)
            with self._lock:
                if len(self._spare) < self.horizon:
                    self._spare.append(box)


def cached(shape: tuple[int, ...]) -> np.ndarray:
    """Memory for uint8 pixels that libjpeg-turbo writes to through the cache.

    Where each row begins at a multiple of 32 bytes it writes past the cache (AVX2, non-temporal stores), and what
    is used next has to come back from memory: a tenth of the time of a decode, and more of what follows it.
    """
    size = math.prod(shape)
    raw = np.empty(size + 32, np.uint8)
    start = (16 - raw.ctypes.data) % 32
    return raw[start : start + size].reshape(shape)


def _spans(start: int, length: int, tile: int, limit: int) -> list[tuple[int, slice, slice]]:
    """Along one axis: numbers of the stored tiles under a box, the part of each and the part of the box."""
    low, high = max(start, 0), min(start + length, limit)
    spans = []
    for number in range(low // tile, -(-high // tile)) if high > low else ():
        origin = number * tile
        first, last = max(low, origin), min(high, origin + tile)
        spans.append((number, slice(first - origin, last - origin), slice(first - start, last - start)))
    return spans
