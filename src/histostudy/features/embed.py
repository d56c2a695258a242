"""Features of one open slide, a batch of tiles at a time.

Memory: one batch of tiles and vectors, the coordinates of the slide's tiles (16 bytes a tile), and what the
reader holds; nothing grows with the pixels of the slide.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from histostudy.features.store import writing

if TYPE_CHECKING:
    from histostudy.encoders.base import Encoder
    from histostudy.slides.base import Slide
    from histostudy.study import Features, Tiles
    from histostudy.tiles.coarser import CoarserTiles


class TileSource(Protocol):
    """What is needed of a slide."""

    def read_tiles(self, xy_px0: np.ndarray, size_px: int, mpp: float) -> Iterable[np.ndarray]:
        """Tiles (uint8, size_px x size_px x 3) at level-0 places, in the order given."""


@dataclass(frozen=True)
class Reader:
    """An open slide with how its tiles are read.

    Attributes
    ----------
    slide : Slide
    workers : int
        Threads that read ahead while the encoder works.
    fast_scale : bool
        See `Slide.read_tiles`.
    """

    slide: Slide
    workers: int = 0
    fast_scale: bool = False

    def read_tiles(self, xy_px0: np.ndarray, size_px: int, mpp: float) -> Iterator[np.ndarray]:
        """Tiles (uint8, size_px x size_px x 3) at level-0 places, in the order given."""
        return self.slide.read_tiles(xy_px0, size_px, mpp, workers=self.workers, fast_scale=self.fast_scale)

    def read_batches(
        self, xy_px0: np.ndarray, size_px: int, mpp: float, size: int
    ) -> Generator[np.ndarray, None, None]:
        """The same, `size` at a time."""
        return self.slide.read_batches(xy_px0, size_px, mpp, size, workers=self.workers, fast_scale=self.fast_scale)


def embed_tiles(
    slide: TileSource,
    coords: np.ndarray,
    out: Path,
    encoder: Encoder,
    tiles: Tiles,
    features: Features,
    identity: Mapping[str, Any],
    *,
    coords_attrs: Mapping[str, Any] | None = None,
    coarser: Sequence[tuple[CoarserTiles, Encoder]] = (),
) -> int:
    """Write the features of one open slide; return how many there are, parents at coarser scales aside.

    Parameters
    ----------
    slide : TileSource
        An opened slide, or a `Reader` of one.
    coords : ndarray of int (N, 2)
        Level-0 pixels of each tile's top left.
    out : Path
        Where to write.
    encoder : Encoder
        Loaded for the scale of the tiles.
    tiles, features : histostudy.study.Tiles, histostudy.study.Features
        Scale and size of tiles; batch size and type of the vectors.
    identity : mapping
        What to write as the identity.
    coords_attrs : mapping, optional
        Attributes for ``/coords``, see `coords_attributes`.
    coarser : sequence of (CoarserTiles, Encoder)
        The parents of the tiles, and the encoder loaded for their scale.

    Raises
    ------
    FeatureError
        If a vector is not finite; nothing is written then.
    """
    done = 0
    with writing(
        out, coords=coords, dim=encoder.dim, identity=identity, dtype=features.dtype, coords_attrs=coords_attrs,
        coarser=[one for one, _ in coarser],
    ) as put:  # fmt: skip
        for batch in _batches(slide, coords, tiles.size, tiles.mpp, features.batch_size):
            put(done, encoder.encode(batch))
            done += len(batch)
        for one, its_encoder in coarser:
            first = 0
            for batch in _batches(slide, one.coords, tiles.size, one.mpp, features.batch_size):
                put(first, its_encoder.encode(batch), one.mpp)
                first += len(batch)
    return done


def _batches(source: TileSource, coords: np.ndarray, size_px: int, mpp: float, count: int) -> Iterator[np.ndarray]:
    if isinstance(source, Reader):  # threads end with their iterator, whatever the encoder does
        with closing(source.read_batches(coords, size_px, mpp, count)) as batches:
            yield from batches
        return
    tiles = iter(source.read_tiles(coords, size_px, mpp))
    while batch := list(islice(tiles, count)):
        yield np.stack(batch)


def coords_attributes(tiles_file: Path) -> dict[str, Any]:
    """Attributes of a tile file's ``/coords``: with them TRIDENT's readers take a feature file for one of theirs."""
    import h5py

    with h5py.File(tiles_file, "r") as file:
        return dict(file["coords"].attrs)
