"""Features of one open slide, a batch of tiles at a time.

Memory: one batch of tiles and vectors, the coordinates of the slide's tiles (16 bytes a tile), and what the
reader holds; nothing grows with the pixels of the slide.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from histostudy.features.store import writing

if TYPE_CHECKING:
    from histostudy.encoders.base import Encoder
    from histostudy.study import Features, Tiles


class TileSource(Protocol):
    """What is needed of a slide."""

    def read_tiles(self, xy_px0: np.ndarray, size_px: int, mpp: float) -> Iterable[np.ndarray]:
        """Tiles (uint8, size_px x size_px x 3) at level-0 places, in the order given."""


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
) -> int:
    """Write the features of one open slide; return how many there are.

    Parameters
    ----------
    slide : histostudy.slides.reader.Slide
        Opened.
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

    Raises
    ------
    FeatureError
        If a vector is not finite; nothing is written then.
    """
    pixels = iter(slide.read_tiles(coords, tiles.size, tiles.mpp))
    done = 0
    with writing(
        out, coords=coords, dim=encoder.dim, identity=identity, dtype=features.dtype, coords_attrs=coords_attrs
    ) as put:
        for batch in _batches(pixels, features.batch_size):
            put(done, encoder.encode(batch))
            done += len(batch)
    return done


def _batches(tiles: Iterator[np.ndarray], size: int) -> Iterator[np.ndarray]:
    while batch := list(islice(tiles, size)):
        yield np.stack(batch)


def coords_attributes(tiles_file: Path) -> dict[str, Any]:
    """Attributes of a tile file's ``/coords``: with them TRIDENT's readers take a feature file for one of theirs."""
    import h5py

    with h5py.File(tiles_file, "r") as file:
        return dict(file["coords"].attrs)
