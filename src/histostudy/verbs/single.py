"""Verbs that work on one slide, without a study."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histostudy.errors import BadSlideError
from histostudy.files import atomic
from histostudy.study import Features, Tiles, Tissue

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)


def tissue_of_slide(slide: Path, output: Path, method: str, slide_mpp: float | None) -> None:
    """Write the tissue of a slide as GeoJSON."""
    with tempfile.TemporaryDirectory() as scratch:
        _, outlined, folder = _outline(slide, method, slide_mpp, Path(scratch))
        _hand_over(outlined, folder, output)
    logger.info("%s: %.1f mm2 of tissue -> %s", slide.name, outlined["tissue_area_um2"].iloc[0] / 1e6, output)


def tiles_of_slide(slide: Path, output: Path, tiles: Tiles, method: str, slide_mpp: float | None) -> None:
    """Write the tiles of a slide as HDF5."""
    with tempfile.TemporaryDirectory() as scratch:
        index, folder = _tile(slide, tiles, method, slide_mpp, Path(scratch))[1:]
        _hand_over(index, folder, output)
    logger.info("%s: %d tiles -> %s", slide.name, index["n_tiles"].iloc[0], output)


def embed_slide(
    slide: Path, output: Path, tiles: Tiles, features: Features, method: str, slide_mpp: float | None
) -> None:
    """Write the features of a slide's tiles as HDF5."""
    from histostudy.features.stage import embed_slides
    from histostudy.verbs.slides import device_of

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        slides, tiled, tile_folder = _tile(slide, tiles, method, slide_mpp, folder)
        index = embed_slides(
            slides, tiled, tile_folder, features, tiles, folder / "features", device=device_of(features)
        )
        _hand_over(index, folder / "features", output)
    logger.info("%s: %d tiles of %d features -> %s", slide.name, *index[["n_tiles", "dim"]].iloc[0], output)


def _outline(
    slide: Path, method: str, slide_mpp: float | None, scratch: Path
) -> tuple[pd.DataFrame, pd.DataFrame, Path]:
    """Indexes of the slide and of its tissue, made by the stages a study runs, and the folder of the outline."""
    import pandas as pd

    from histostudy.slides.stage import inspect_slides
    from histostudy.tissue.stage import segment_slides

    rows = pd.DataFrame([{"slide_id": slide.stem, "patient_id": slide.stem, "path": str(slide), "mpp": slide_mpp}])
    slides = _good(inspect_slides(rows, scratch / "slides"))
    folder = scratch / "tissue"
    return slides, _good(segment_slides(slides, Tissue(method=method), folder)), folder


def _tile(
    slide: Path, tiles: Tiles, method: str, slide_mpp: float | None, scratch: Path
) -> tuple[pd.DataFrame, pd.DataFrame, Path]:
    """Indexes of the slide and of its tiles, and the folder of the tiles."""
    from histostudy.tiles.stage import tile_slides

    slides, outlined, outlines = _outline(slide, method, slide_mpp, scratch)
    folder = scratch / "tiles"
    return slides, _good(tile_slides(slides, outlined, outlines, tiles, folder)), folder


def _good(index: pd.DataFrame) -> pd.DataFrame:
    row: dict[str, Any] = index.iloc[0].to_dict()
    if row["status"] != "ok":
        raise BadSlideError(row["reason"], row["detail"])
    return index


def _hand_over(index: pd.DataFrame, folder: Path, output: Path) -> None:
    """Copy the one file of an index to where the user wants it."""
    import shutil

    source = folder / _good(index)["file"].iloc[0]
    with atomic(output) as temporary:
        shutil.copyfile(source, temporary)
