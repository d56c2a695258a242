"""Slides to tissue: one GeoJSON a slide and a shard's index."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histostudy.codeversion import code_version
from histostudy.errors import BadSlideError
from histostudy.files import write_text
from histostudy.stages import run_shard
from histostudy.tissue.geojson import to_geojson
from histostudy.tissue.mask import clean, in_reading_order, nearest_label, sections
from histostudy.tissue.registry import BoolMask, Image, Segmentation, segment, weights_of

if TYPE_CHECKING:
    import pandas as pd

    from histostudy.slides.reader import Slide
    from histostudy.study import Tissue


COLUMNS = [
    "slide_id", "status", "reason", "detail", "tissue_area_um2", "sections", "pen_area_um2", "working_mpp",
    "file", "sha256", "identity",
]  # fmt: skip


def segment_image(rgb: Image, mpp: float, tissue: Tissue) -> tuple[BoolMask, BoolMask]:
    """Tissue and pen of an image, cleaned up as the study asks.

    Parameters
    ----------
    rgb : ndarray of uint8, (H, W, 3)
    mpp : float
        Micrometres per pixel of `rgb`.
    tissue : Tissue
        The study's `tissue` keys.

    Returns
    -------
    tissue, pen : ndarray of bool, (H, W)
    """
    found = segment(rgb, mpp, tissue.method, tissue.options, tissue.checkpoint)
    return _clean(found, mpp, tissue), found.pen


def _clean(found: Segmentation, mpp: float, tissue: Tissue) -> BoolMask:
    out = found.pen if not (found.tissue & found.pen).any() else None  # the method leaves pen out
    return clean(found.tissue, mpp, min_area_um2=tissue.min_area_um2, min_hole_um2=tissue.min_hole_um2, exclude=out)


def segment_slide(slide: Slide, tissue: Tissue) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tissue of a slide as a GeoJSON FeatureCollection in level-0 pixels, and its figures.

    Parameters
    ----------
    slide : Slide
        Anything with `width_px0`, `height_px0`, `mpp` and ``thumbnail(mpp) -> (rgb, mpp)``.
    tissue : Tissue
        The study's `tissue` keys.

    Returns
    -------
    collection : dict
    stats : dict
        `tissue_area_um2`, `sections`, `pen_area_um2` and `working_mpp`, the scale that was had.

    Raises
    ------
    BadSlideError
        ``no_tissue``, if none is left after cleaning up.
    """
    rgb, mpp = slide.thumbnail(max(tissue.working_mpp, slide.mpp))
    found = segment(rgb, mpp, tissue.method, tissue.options, tissue.checkpoint)
    mask, pen = _clean(found, mpp, tissue), found.pen
    height, width = mask.shape
    scale = (slide.width_px0 / width, slide.height_px0 / height)
    pixel_um2 = scale[0] * scale[1] * slide.mpp**2
    if not mask.any():
        marks = f", {pen.sum() * pixel_um2 / 1e6:.2f} mm2 of pen" if pen.any() else ""
        raise BadSlideError("no_tissue", f"nothing of {tissue.min_area_um2:g} um2 or more by {tissue.method}{marks}")
    # by the gaps between them, unless the method has told them apart itself
    labels, n = sections(mask, mpp) if found.sections is None else in_reading_order(nearest_label(found.sections, mask))
    stats = {
        "tissue_area_um2": float(round(mask.sum() * pixel_um2, 1)),
        "sections": n,
        "pen_area_um2": float(round(pen.sum() * pixel_um2, 1)),
        "working_mpp": float(mpp),
    }
    return to_geojson(labels, pen, scale), stats


def segment_slides(slides_index: pd.DataFrame, tissue: Tissue, out_dir: Path) -> pd.DataFrame:
    """Find the tissue of every slide of a shard whose status is ``ok``.

    Parameters
    ----------
    slides_index : DataFrame
        The slides stage's index: `slide_id`, `status`, `path`, `mpp`, `backend`, `fingerprint`, ...
    tissue : Tissue
        The study's `tissue` keys.
    out_dir : Path
        Takes `<slide>.geojson`.

    Returns
    -------
    DataFrame
        One row a slide (see `histostudy.stages.run_shard`) with `tissue_area_um2`, `sections`, `pen_area_um2` and
        `working_mpp`.
    """
    from histostudy.slides.reader import open_indexed

    out_dir.mkdir(parents=True, exist_ok=True)
    parameters = {
        "tissue": tissue.model_dump(mode="json", exclude={"checkpoint"}),
        **weights_of(tissue.method, tissue.checkpoint),
        "code": code_version(__name__),
    }

    def identity_of(row: Mapping[str, Any]) -> dict[str, Any]:
        return {"slide": row["fingerprint"], "mpp": float(row["mpp"]), **parameters}

    def work(row: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
        with open_indexed(row) as slide:
            collection, stats = segment_slide(slide, tissue)
        name = f"{row['slide_id']}.geojson"
        write_text(out_dir / name, compact(collection))
        return name, stats

    index = run_shard(
        slides_index[slides_index["status"] == "ok"],
        work,
        out_dir=out_dir,
        identity_of=identity_of,
        what="tissue",
    )
    index = index.reindex(columns=COLUMNS)
    index["sections"] = index["sections"].astype(float).fillna(0).astype("int64")
    for column in ("tissue_area_um2", "pen_area_um2", "working_mpp"):
        index[column] = index[column].astype(float)
    return index


def compact(collection: Mapping[str, Any]) -> str:
    """A FeatureCollection as text, one feature a line."""
    lines = ",\n".join(
        json.dumps(f, sort_keys=True, separators=(",", ":"), allow_nan=False) for f in collection["features"]
    )
    return '{"type":"FeatureCollection","features":[\n' + lines + "\n]}\n"
