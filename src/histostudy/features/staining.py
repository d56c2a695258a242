"""The stain of one slide: fitted to some of its tiles, taken off all of them, and written down in numbers."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from histostudy.codeversion import code_version
from histostudy.encoders.stain.fit import HE_REFERENCE, StainFit, angle_between, fit_macenko
from histostudy.encoders.stain.normaliser import NORMALISERS, Normaliser, sample_pixels
from histostudy.encoders.stains import stain_density
from histostudy.errors import BadSlideError, EncoderError
from histostudy.stages import run_shard, slides_with_tiles

if TYPE_CHECKING:
    import pandas as pd

    from histostudy.features.embed import TileSource
    from histostudy.stain_keys import Stain
    from histostudy.study import Tiles

logger = logging.getLogger(__name__)

#: Tiles of a slide that its stain is fitted to, evenly over its rows, and pixels of them, about.
FIT_TILES, FIT_PIXELS = 64, 200_000
#: Tiles that are normalised at once.
BATCH = 32
#: Suffixes of a target that is an image, not a slide.
IMAGES = (".png", ".jpg", ".jpeg", ".bmp")
#: Scale at which tissue is looked for in a target that is a slide, um/px.
TARGET_MPP = 8.0
#: Facts of a slide's stain, see `stain_facts`.
FACTS = (
    "tissue_px", "stain_fallback", "haematoxylin_red", "haematoxylin_green", "haematoxylin_blue", "eosin_red",
    "eosin_green", "eosin_blue", "haematoxylin_strength", "eosin_strength", "between_deg", "haematoxylin_off_deg",
    "eosin_off_deg", "haematoxylin_mean", "haematoxylin_sd", "eosin_mean", "eosin_sd", "residual_mean", "residual_sd",
)  # fmt: skip
COLUMNS = ["slide_id", "status", "reason", "detail", "n_tiles", *FACTS]


def spaced(n: int, most: int) -> np.ndarray:
    """Places of at most `most` of `n` tiles, evenly, the first and the last among them."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(int)) if n else np.zeros(0, int)


def slide_pixels(slide: TileSource, coords: np.ndarray, tiles: Tiles) -> np.ndarray:
    """Pixels (N, 3) that the stain of an open slide is fitted to; one tile is in memory at a time.

    Parameters
    ----------
    slide : histostudy.slides.reader.Slide
        Opened.
    coords : ndarray of int (N, 2)
        Level-0 pixels of each of its tiles' top left.
    tiles : histostudy.study.Tiles
        Scale and size of tiles.
    """
    chosen = coords[spaced(len(coords), FIT_TILES)]
    each = FIT_PIXELS // max(1, len(chosen))
    read = (sample_pixels([tile], each) for tile in slide.read_tiles(chosen, tiles.size, tiles.mpp))
    return np.concatenate([np.zeros((0, 3), np.uint8), *read])


class NormalisedSource:
    """An open slide whose tiles are read with another stain; stands wherever a slide's tiles are read.

    Parameters
    ----------
    slide : histostudy.slides.reader.Slide
        Opened.
    normaliser : Normaliser
    coords : ndarray of int (N, 2)
        All tiles of the slide: its stain is fitted to some of them.
    tiles : histostudy.study.Tiles
        Scale and size of tiles.
    device : str
        ``cpu``, or ``cuda[:i]`` to normalise there.
    """

    def __init__(
        self, slide: TileSource, normaliser: Normaliser, coords: np.ndarray, tiles: Tiles, device: str = "cpu"
    ) -> None:
        self.slide, self.normaliser, self.device = slide, normaliser, device
        self.fit = normaliser.fit(slide_pixels(slide, coords, tiles))

    def read_tiles(self, xy_px0: np.ndarray, size_px: int, mpp: float) -> Iterator[np.ndarray]:
        """Tiles (uint8, size_px x size_px x 3) at level-0 places, in the order given."""
        read = iter(self.slide.read_tiles(xy_px0, size_px, mpp))
        while batch := list(islice(read, BATCH)):
            yield from normalise(self.normaliser, np.stack(batch), self.fit, self.device)


def normalise(normaliser: Normaliser, batch: np.ndarray, fit: StainFit, device: str = "cpu") -> np.ndarray:
    """`Normaliser.apply` where the encoder runs."""
    if device == "cpu" or fit.fallback:
        return normaliser.apply(batch, fit)
    import torch

    return normaliser.apply_torch(torch.from_numpy(np.ascontiguousarray(batch)).to(device), fit).cpu().numpy()


def load_normaliser(stain: Stain, tiles: Tiles) -> Normaliser:
    """The normaliser that a study names, its target read.

    Raises
    ------
    EncoderError
        If the target is no image or slide that can be read, or holds no stain.
    """
    plain = NORMALISERS[stain.method]()
    return plain if stain.target is None else plain.fit_target(_target_images(stain.target, tiles))


def stain_identity(normaliser: Normaliser, device: str = "cpu") -> dict[str, Any]:
    """All that normalisation adds to the identity of features."""
    return {
        **normaliser.identity,
        "fitted_to": [FIT_TILES, FIT_PIXELS],
        # the batch version may differ by a grey level
        "device": device.split(":")[0],
        "code_fit": code_version("histostudy.encoders.stain.fit"),
    }


def _target_images(path: Path, tiles: Tiles) -> list[np.ndarray]:
    """The image, or tiles of the tissue of a slide."""
    if path.suffix.lower() in IMAGES:
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(path) as image:
                return [np.asarray(image.convert("RGB"))]
        except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as bad:
            raise EncoderError(f"cannot read the stain target ({bad})", where=path, todo="give a PNG or JPEG") from bad
    from histostudy.encoders.stain.fit import BETA, densities
    from histostudy.slides.reader import open_slide

    try:
        with open_slide(path) as slide:
            small, mpp = slide.thumbnail(TARGET_MPP)
            y, x = np.nonzero(densities(small).mean(-1) >= BETA)
            places = spaced(len(x), FIT_TILES)
            middle = np.stack([x[places], y[places]], 1) * (mpp / slide.mpp)
            corners = np.rint(middle - tiles.size * tiles.mpp / slide.mpp / 2).astype(int)
            return list(slide.read_tiles(corners, tiles.size, tiles.mpp))
    except BadSlideError as bad:
        raise EncoderError(
            f"cannot read the stain target ({bad})", where=path, todo="give a slide with a scale, or a PNG"
        ) from bad


def stain_facts(pixels: np.ndarray) -> dict[str, Any]:
    """The stain of a slide in numbers.

    Parameters
    ----------
    pixels : ndarray of uint8, (N, 3)
        As `slide_pixels` gives them.

    Returns
    -------
    dict
        By `FACTS`: Macenko's vectors, their strengths (99th percentile of the amounts), the angle between them and of
        each to the reference's (degrees; NaN with a fallback); mean and s.d. over all pixels of the densities of
        haematoxylin, eosin and the rest in the fixed basis of `histostudy.encoders.stains`.
    """
    fit = fit_macenko(pixels)
    facts: dict[str, Any] = dict.fromkeys(FACTS, float("nan"))
    facts |= {"tissue_px": fit.tissue_px, "stain_fallback": fit.fallback}
    if fit.vectors is not None and fit.strengths is not None:
        for k, stain in enumerate(("haematoxylin", "eosin")):
            for c, channel in enumerate(("red", "green", "blue")):
                facts[f"{stain}_{channel}"] = float(fit.vectors[c, k])
            facts[f"{stain}_strength"] = float(fit.strengths[k])
            facts[f"{stain}_off_deg"] = angle_between(fit.vectors[:, k], HE_REFERENCE[:, k])
        facts["between_deg"] = angle_between(fit.vectors[:, 0], fit.vectors[:, 1])
    if len(pixels):
        density = stain_density(pixels[None])[0].astype(np.float64)
        for k, stain in enumerate(("haematoxylin", "eosin", "residual")):
            facts[f"{stain}_mean"], facts[f"{stain}_sd"] = float(density[:, k].mean()), float(density[:, k].std())
    return facts


def describe_slides(
    slides_index: pd.DataFrame, tiles_index: pd.DataFrame, tiles_dir: Path, tiles: Tiles, out_dir: Path
) -> pd.DataFrame:
    """The stain of the slides that have tiles; those that still hold are kept.

    Parameters
    ----------
    slides_index : DataFrame
        `slide_id`, `path`, `mpp`, `fingerprint` of each slide.
    tiles_index : DataFrame
        `slide_id`, `status`, `file`, `sha256` of each slide's tiles.
    tiles_dir : Path
        Where the tile files lie.
    tiles : histostudy.study.Tiles
        Scale and size of tiles.
    out_dir : Path
        Gets the records.

    Returns
    -------
    DataFrame
        The columns of `COLUMNS`, a row a slide that has tiles.
    """
    rows = slides_with_tiles(slides_index, tiles_index)
    code = code_version("histostudy.features.staining", "histostudy.slides.reader", "histostudy.tiles.store")

    def identity_of(row: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "slide": row["fingerprint"], "mpp": row["mpp"], "tiles": row["tiles_identity"], "code": code,
            "mpp_requested": tiles.mpp, "tile_px": tiles.size,
        }  # fmt: skip

    def work(row: Mapping[str, Any]) -> tuple[None, dict[str, Any]]:
        from histostudy.slides.reader import open_indexed
        from histostudy.tiles.store import read_tiles

        coords = read_tiles(Path(tiles_dir) / row["tiles_file"]).coords
        with open_indexed(row) as slide:
            pixels = slide_pixels(slide, coords, tiles)
        return None, {"n_tiles": min(len(coords), FIT_TILES)} | stain_facts(pixels)

    index = run_shard(rows, work, out_dir=Path(out_dir), identity_of=identity_of, what="stain")
    return index.reindex(columns=COLUMNS)
