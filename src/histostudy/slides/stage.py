"""Look at each slide once: does it open, at what scale, is it brightfield, what does it look like."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histostudy.codeversion import code_version
from histostudy.cohort.slidefiles import noted_of
from histostudy.errors import BadSlideError, TableError
from histostudy.files import atomic, fingerprint
from histostudy.hashcache import glance
from histostudy.slides.brightfield import check_brightfield
from histostudy.slides.reader import open_raw
from histostudy.slides.scale import resolve_mpp
from histostudy.slides.status import FAILED
from histostudy.stages import run_shard

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

logger = logging.getLogger(__name__)

THUMBNAIL_PX = 1024
COLUMNS = [
    "slide_id", "patient_id", "status", "reason", "detail", "path", "mpp", "mpp_source", "mpp_metadata",
    "width_px0", "height_px0", "levels", "vendor", "objective_power", "backend", "fingerprint", "glance", "thumbnail",
    "file", "sha256", "identity",
]  # fmt: skip


def inspect_slides(rows: pd.DataFrame, out_dir: Path) -> pd.DataFrame:
    """Open every slide, settle its scale, check that it is brightfield and write its thumbnail.

    Parameters
    ----------
    rows : DataFrame
        `slide_id`, `patient_id`, `path` and, where the table gives them, `mpp` (um per pixel) and `path_given`.
    out_dir : Path
        Gets ``thumbnails/<slide>.jpg``, at most 1024 px a side; for a slide that fails too, where it opens.

    Returns
    -------
    DataFrame
        One row a slide, sorted by `slide_id`, with the columns of `COLUMNS`; `status` is ``ok`` or
        ``failed``, `file` repeats `thumbnail` and `sha256` is its checksum. What is known of a slide that
        fails (size, the wrong mpp in `mpp_metadata`) is there too. `path` is as the table gave it, the same on all
        machines.

    Raises
    ------
    TableError
        If a path does not exist (the table or the mount is wrong, not the slide) and nothing is known of it, or an mpp
        of the table cannot be true. Nothing is written then.
    """
    records = [{str(key): value for key, value in row.items()} for row in rows.to_dict("records")]
    known = {row["slide_id"]: _known(row, out_dir) for row in records}
    for row in records:
        _table_mpp(row)  # a wrong value is said before any work
    code = code_version("histostudy.slides.stage")

    def identity_of(row: Mapping[str, Any]) -> dict[str, Any]:
        return {"slide": known[row["slide_id"]]["fingerprint"], "mpp": _table_mpp(row), "code": code}

    def work(row: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
        return _inspect(row, {**known[row["slide_id"]], "file_name": Path(row["path"]).name}, out_dir)

    index = run_shard(rows, work, out_dir=out_dir, identity_of=identity_of, what="slides")
    here = {row["slide_id"]: (row["patient_id"], str(row.get("path_given", row["path"]))) for row in records}
    if len(index):  # not of its record: a slide may move, or its patient be another
        index["patient_id"] = [here[s][0] for s in index["slide_id"]]
        index["path"] = [here[s][1] for s in index["slide_id"]]
    index = index.reindex(columns=COLUMNS)
    index["thumbnail"] = index["file"]
    for column in ("width_px0", "height_px0", "levels"):
        index[column] = index[column].astype("Int64")
    for column in ("mpp", "mpp_metadata", "objective_power"):
        index[column] = index[column].astype(float)
    for column in ("mpp_source", "vendor", "backend"):
        index[column] = index[column].fillna("").astype(str)
    return index


def _known(row: Mapping[str, Any], out_dir: Path) -> dict[str, str]:
    """Fingerprint of a slide's file and a glance at it; those that were noted where the file is not here."""
    if Path(row["path"]).is_file():
        return {"fingerprint": fingerprint(row["path"]), "glance": glance(row["path"])}
    noted = noted_of(out_dir, row["slide_id"], str(row["path"]))
    if noted is None:
        raise TableError(
            f"slide {row['slide_id']}: no file {row['path']}",
            todo="mend the path in the slide table, or mount the disk",
        )
    return noted


def _table_mpp(row: Mapping[str, Any]) -> float | None:
    """The table's mpp of a slide, None where it has none; a wrong one is a `TableError`."""
    value = row.get("mpp")
    if value is None or value == "" or math.isnan(float(value)):
        return None
    try:
        return resolve_mpp(float(value), None, None).mpp
    except TableError as error:
        raise TableError(f"slide {row['slide_id']}: {error.what}", todo=error.todo) from None


def _inspect(row: Mapping[str, Any], facts: dict[str, Any], out_dir: Path) -> tuple[str | None, dict[str, Any]]:
    """Facts of one slide and the name of its thumbnail; a bad slide is said in the facts."""
    name: str | None = None
    try:
        with open_raw(row["path"]) as slide:
            facts |= {
                "width_px0": slide.width_px0,
                "height_px0": slide.height_px0,
                "levels": len(slide.level_dimensions),
                "vendor": slide.vendor,
                "backend": slide.backend,
                "mpp_metadata": slide.mpp_metadata,
                "objective_power": slide.objective_power,
            }
            thumbnail = slide.shrunk(max(1.0, max(slide.level_dimensions[0]) / THUMBNAIL_PX), fast_scale=True)
            name = f"thumbnails/{row['slide_id']}.jpg"
            write_jpeg(out_dir / name, thumbnail)
            check_brightfield(thumbnail, slide.properties)
            scale = resolve_mpp(_table_mpp(row), slide.mpp_xy, slide.objective_power)
            facts |= {"mpp": scale.mpp, "mpp_source": scale.source}
    except BadSlideError as bad:
        logger.warning("%s: %s", row["slide_id"], bad)
        facts |= {"status": FAILED, "reason": bad.reason, "detail": bad.detail}
    return name, facts


def write_jpeg(path: Path, rgb: np.ndarray, quality: int = 85) -> None:
    """Write uint8 (H, W, 3) as JPEG, atomically; the same pixels give the same bytes."""
    import numpy as np
    import simplejpeg

    data = simplejpeg.encode_jpeg(np.ascontiguousarray(rgb), quality=quality, colorspace="RGB")
    with atomic(path) as temporary:
        temporary.write_bytes(data)
