"""Pairs of a shard of slides: drawn tiles and changed versions of them through the study's encoder."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from histostudy.codeversion import code_version
from histostudy.encoders.augment import augment, sample
from histostudy.encoders.registry import encoder_identity, load_encoder
from histostudy.features.embed import Reader
from histostudy.features.pairs import PairSettings, write_pairs
from histostudy.features.staining import NormalisedSource, load_normaliser, stain_identity
from histostudy.seeds import derive_seed
from histostudy.stages import run_shard, slides_with_tiles

if TYPE_CHECKING:
    import pandas as pd

    from histostudy.encoders.base import Encoder
    from histostudy.encoders.stain.normaliser import Normaliser
    from histostudy.features.embed import TileSource
    from histostudy.study import Features, Tiles

logger = logging.getLogger(__name__)

COLUMNS = ["slide_id", "status", "reason", "detail", "n_tiles", "dim", "file", "sha256", "identity"]


def draw_pairs(
    slide: TileSource, coords: np.ndarray, encoder: Encoder, tiles: Tiles, settings: PairSettings, seed: int
) -> dict[str, np.ndarray]:
    """Draw tiles of an open slide and encode each, and its changed versions.

    Parameters
    ----------
    slide : histostudy.slides.reader.Slide
        Opened.
    coords : ndarray of int (N, 2)
        Level-0 pixels of each tile's top left.
    encoder : Encoder
        Loaded for the scale of the tiles.
    tiles : histostudy.study.Tiles
        Scale and size of tiles.
    settings : PairSettings
        How many, and how strong the changes.
    seed : int
        Of the tiles and the changes.

    Returns
    -------
    dict of str to ndarray
        As `histostudy.features.pairs.write_pairs` takes them. Memory: one tile and its versions, and what is returned.
    """
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(len(coords))[: settings.tiles])
    n, m = len(chosen), settings.versions
    drawn = sample(n * m, rng, settings.intensity)
    features = np.empty((n, encoder.dim), np.float32)
    augmented = np.empty((n, m, encoder.dim), np.float32)
    for i, tile in enumerate(slide.read_tiles(coords[chosen], tiles.size, tiles.mpp)):
        rows = range(i * m, i * m + m)
        changed = [augment(tile, drawn.values[row], drawn.positions[row]) for row in rows]
        vectors = encoder.encode(np.stack([tile, *changed]))
        features[i], augmented[i] = vectors[0], vectors[1:]
    return {
        "features": features,
        "augmented": augmented,
        "values": drawn.values.reshape(n, m, -1),
        "positions": drawn.positions.reshape(n, m, -1).astype(np.int8),
        "coords": np.asarray(coords[chosen], np.int64),
    }


class _Work:
    """Draws the pairs of one slide at a time; the encoder is loaded for the first that needs it."""

    def __init__(
        self, features: Features, tiles: Tiles, settings: PairSettings, tiles_dir: Path, out_dir: Path, device: str
    ) -> None:
        self.features, self.tiles, self.settings, self.device = features, tiles, settings, device
        self.tiles_dir, self.out_dir = Path(tiles_dir), Path(out_dir)

    @cached_property
    def encoder(self) -> Encoder:
        return load_encoder(self.features, self.tiles.mpp, self.device, self.tiles.size)

    @cached_property
    def normaliser(self) -> Normaliser | None:
        """What takes the stain off before a tile is changed, as the study's features have it."""
        return None if self.features.stain is None else load_normaliser(self.features.stain, self.tiles)

    @cached_property
    def shared(self) -> dict[str, Any]:
        """Identity that all slides share."""
        stain = {} if self.normaliser is None else {"stain": stain_identity(self.normaliser, self.device)}
        made = encoder_identity(self.features, self.tiles.mpp, self.device, self.tiles.size)
        fast = {"jpeg_scale": "fast"} if self.tiles.jpeg_scale == "fast" else {}
        return made | {
            "mpp_requested": self.tiles.mpp, "tile_px": self.tiles.size, "intensity": float(self.settings.intensity),
            "tiles": self.settings.tiles, "versions": self.settings.versions,
            "pairs_code": code_version("histostudy.features.pairing"), **stain, **fast,
        }  # fmt: skip

    def identity_of(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """All that the pairs of a slide depend on."""
        return {"pairs": self.shared, "slide": row["fingerprint"], "mpp": row["mpp"], "tiles": row["tiles_identity"]}

    def __call__(self, row: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        from histostudy.slides.reader import open_indexed
        from histostudy.tiles.store import read_tiles

        # of the slide alone: studies of one cohort share the pairs, whatever their seeds
        seed = derive_seed(0, "pairs", row["slide_id"])
        coords = read_tiles(self.tiles_dir / row["tiles_file"]).coords
        with open_indexed(row) as slide:
            # the pixels that the study's features are of, those of a decoder that shrinks too
            source: TileSource = Reader(slide, fast_scale=self.tiles.jpeg_scale == "fast")
            if self.normaliser is not None:
                source = NormalisedSource(source, self.normaliser, coords, self.tiles, self.device)
            arrays = draw_pairs(source, coords, self.encoder, self.tiles, self.settings, seed)
        name = f"{row['slide_id']}.h5"
        write_pairs(self.out_dir / name, arrays, self.identity_of(row))
        return name, {"n_tiles": len(arrays["features"]), "dim": self.encoder.dim}


def pair_slides(
    slides_index: pd.DataFrame,
    tiles_index: pd.DataFrame,
    tiles_dir: Path,
    features: Features,
    tiles: Tiles,
    settings: PairSettings,
    out_dir: Path,
    *,
    device: str = "cpu",
) -> pd.DataFrame:
    """Draw the pairs of the slides that have tiles; those that still hold are kept.

    Parameters
    ----------
    slides_index : DataFrame
        `slide_id`, `path`, `mpp`, `fingerprint` of each slide.
    tiles_index : DataFrame
        `slide_id`, `status`, `file`, `sha256` of each slide's tiles.
    tiles_dir : Path
        Where the tile files lie.
    features, tiles : histostudy.study.Features, histostudy.study.Tiles
        The study's settings.
    settings : PairSettings
        How pairs are drawn.
    out_dir : Path
        Gets ``<slide>.h5``.
    device : str
        ``cpu`` or ``cuda[:i]``.

    Returns
    -------
    DataFrame
        The columns of `COLUMNS`, a row a slide that has tiles.

    Raises
    ------
    EncoderError
        If the encoder cannot be had.
    FeatureError
        If it gives NaN or infinities.
    """
    rows = slides_with_tiles(slides_index, tiles_index)
    work = _Work(features, tiles, settings, tiles_dir, out_dir, device)
    index = run_shard(rows, work, out_dir=Path(out_dir), identity_of=work.identity_of, what="pairs")
    return index.reindex(columns=COLUMNS)
