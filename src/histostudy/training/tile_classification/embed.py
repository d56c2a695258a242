"""Labelled tiles as vectors and mean colours, and as pixels where a model learns from them; made once a task.

A tile that cannot be read is data: its reason stands in the index and it takes part in nothing. What holds of an
earlier call (same tiles, same encoder, same code, same bytes) is kept.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from histostudy.codeversion import code_version
from histostudy.encoders.registry import encoder_identity, load_encoder
from histostudy.errors import BadSlideError, FeatureError, StudyError
from histostudy.features.store import check_finite
from histostudy.files import atomic, digest_of, fingerprint, read_json, sha256, write_json, write_table
from histostudy.log import progress
from histostudy.slides.reader import open_indexed
from histostudy.stages import RECORDS
from histostudy.training.tile_classification.table import Scale, TileTable

if TYPE_CHECKING:
    import pandas as pd

    from histostudy.study import Features

logger = logging.getLogger(__name__)

INDEX, VECTORS, PIXELS = "index.parquet", "vectors.h5", "pixels.npy"
#: An image whose scale differs from the one asked for by less than this share is taken as it is.
SAME_SCALE = 0.01

#: A tile, or why there is none.
Read = np.ndarray | BadSlideError


@dataclass(frozen=True)
class LabelledTiles:
    """The tiles of a task that could be read.

    Attributes
    ----------
    tile_ids : ndarray of str, (n,)
        Sorted.
    vectors : ndarray of float32, (n, dim)
        Of the study's encoder.
    colour : ndarray of float32, (n, 3)
        Mean red, green and blue, 0 to 255.
    digest : str
        Of what made them.
    rows : ndarray of int64, (n,)
        Their places in `pixels`.
    pixels : ndarray of uint8, (N, size, size, 3), or None
        A map of the file, if some model learns from pixels.
    """

    tile_ids: np.ndarray
    vectors: np.ndarray
    colour: np.ndarray
    digest: str
    rows: np.ndarray
    pixels: np.ndarray | None

    def places(self, tile_ids: Any) -> np.ndarray:
        """Where tiles stand (int64); all of them must be there."""
        wanted = np.asarray(tile_ids, dtype=object)
        found = np.searchsorted(self.tile_ids, wanted)
        if (self.tile_ids[np.minimum(found, len(self.tile_ids) - 1)] != wanted).any():
            raise KeyError("a tile that could not be read, or is not in the table")
        return found.astype(np.int64)


def embed_labelled(
    table: TileTable, scale: Scale, slides: pd.DataFrame | None, features: Features, out_dir: Path, *,
    device: str = "cpu", pixels: bool = False, max_failed: float = 0.2,
) -> pd.DataFrame:  # fmt: skip
    """Read every tile once; write vectors, mean colours and, where asked, pixels.

    Memory: one batch of tiles, and the vectors of all.

    Parameters
    ----------
    table, scale : TileTable, Scale
        The tiles and how they are seen.
    slides : DataFrame or None
        Index of the cohort's slides (`slide_id`, `status`, `reason`, `path`, `mpp`, `fingerprint`), for tiles that
        are cut from them.
    features : histostudy.study.Features
        The encoder.
    out_dir : Path
        Gets ``vectors.h5``, and ``pixels.npy``.
    device : str
        Where the encoder runs.
    pixels : bool
        Keep the pixels: size x size x 3 bytes a tile.
    max_failed : float
        Largest share of tiles that may fail.

    Returns
    -------
    DataFrame
        `tile_id`, `patient_id`, `status` (``ok`` or ``failed``), `reason`, `detail`, `identity`.

    Raises
    ------
    StudyError
        If too many tiles fail.
    FeatureError
        If a vector is not finite.
    """
    side = side_of(table, scale)
    identity = _identity(table, scale, slides, features, device, side)
    done = digest_of(identity)
    kept = _kept(out_dir, done, pixels)
    if kept is not None:
        logger.info("%d labelled tiles kept from an earlier run", len(kept))
        return kept
    out_dir.mkdir(parents=True, exist_ok=True)
    n, size = len(table.frame), scale.size
    reasons: list[tuple[str, str]] = [("", "")] * n
    encoder = load_encoder(features, scale.mpp, device, side)
    vectors, colour = np.zeros((n, encoder.dim), np.float32), np.zeros((n, 3), np.float32)
    pixel_map: np.memmap | None = None
    waiting: list[int] = []
    batch: list[np.ndarray] = []

    def encode() -> None:
        if batch:
            vectors[waiting] = encoder.encode(np.stack(batch))
            waiting.clear()
            batch.clear()

    with atomic(out_dir / PIXELS) as temporary:
        for row, tile in progress(_read_all(table, scale, slides), "labelled tiles", total=n):
            if isinstance(tile, np.ndarray) and size is not None and tile.shape[0] != size:
                tile = BadSlideError(
                    "another_size", f"{tile.shape[0]} px, and the first tile {size}; give the task's size"
                )
            if isinstance(tile, BadSlideError):
                reasons[row] = tile.reason, tile.detail
                continue
            size = tile.shape[0]
            colour[row] = tile.reshape(-1, 3).mean(0, dtype=np.float64)
            if pixels:
                if pixel_map is None:
                    pixel_map = np.lib.format.open_memmap(temporary, "w+", np.uint8, (n, size, size, 3))
                pixel_map[row] = tile
            waiting.append(row)
            batch.append(tile)
            if len(batch) == features.batch_size:
                encode()
        encode()
        if pixel_map is None:
            np.lib.format.open_memmap(temporary, "w+", np.uint8, (0, size or 1, size or 1, 3)).flush()
        else:
            pixel_map.flush()
    index = table.frame[["tile_id", "patient_id"]].copy()
    index["status"] = np.where([reason == "" for reason, _ in reasons], "ok", "failed")
    index["reason"], index["detail"] = [r for r, _ in reasons], [d for _, d in reasons]
    index["identity"] = done
    _refuse_many(index, table, max_failed)
    check_finite(vectors, out_dir / VECTORS)
    _write(out_dir / VECTORS, vectors.astype(features.dtype), colour, identity)
    files = {name: sha256(out_dir / name) for name in (VECTORS, PIXELS)}
    write_table(out_dir / RECORDS / INDEX, index)
    write_json(out_dir / RECORDS / "made.json", {"identity": done, "pixels": pixels, "files": files})
    return index


def load_labelled(folder: Path) -> LabelledTiles:
    """Read what `embed_labelled` wrote, the tiles that failed left out.

    Raises
    ------
    FeatureError
        If there is nothing, or a file is not as it was written.
    """
    import h5py
    import pandas as pd

    index = pd.read_parquet(folder / INDEX)
    record = folder / RECORDS / "made.json"
    if not record.is_file() or _kept(folder, str(index["identity"].iloc[0]), pixels=False) is None:
        raise FeatureError("is gone, or not as it was written", where=folder / VECTORS, todo="run embed-tiles again")
    good = np.flatnonzero(index["status"] == "ok")
    with h5py.File(folder / VECTORS, "r") as file:
        vectors, colour = file["features"][:].astype(np.float32), file["colour"][:]
    ids = index["tile_id"].to_numpy(dtype=object)[good]
    pixels = np.load(folder / PIXELS, mmap_mode="r") if read_json(record)["pixels"] else None
    return LabelledTiles(ids, vectors[good], colour[good], str(index["identity"].iloc[0]), good, pixels)


def side_of(table: TileTable, scale: Scale) -> int | None:
    """Side of a tile, px at the scale: of images of no given size that of the first whose header can be read."""
    from PIL import Image, UnidentifiedImageError

    if scale.size is not None or table.from_slides:
        return scale.size
    for path, mpp in zip(table.files, table.frame["mpp"], strict=True):
        try:
            with Image.open(path) as image:
                return min(_sides(image.size, scale.mpp if mpp != mpp else float(mpp), scale))
        except (UnidentifiedImageError, OSError, SyntaxError):  # told when the tiles are read
            continue
    return None


def _sides(sides: tuple[int, int], mpp: float, scale: Scale) -> tuple[int, int]:
    """Sides of an image, px, brought to the scale."""
    ratio = mpp / scale.mpp
    if abs(ratio - 1) <= SAME_SCALE:
        return sides
    return max(1, round(sides[0] * ratio)), max(1, round(sides[1] * ratio))


def _identity(
    table: TileTable, scale: Scale, slides: pd.DataFrame | None, features: Features, device: str, side: int | None
) -> dict[str, Any]:
    """All that the numbers depend on: the tiles and their files, the scale, the encoder, the code."""
    columns = ["tile_id", "patient_id", "slide_id", "x_px0", "y_px0", "mpp"]
    files: Any = [fingerprint(path) for path in table.files]
    if table.from_slides:
        facts = _facts(slides)
        wanted = sorted(set(table.frame["slide_id"]) & set(facts))
        files = [[s, str(facts[s]["fingerprint"]), str(facts[s]["mpp"]), facts[s]["status"]] for s in wanted]
    return {
        "tiles": digest_of([table.frame[columns].astype(str).to_numpy().tolist(), files]),
        "encoder": encoder_identity(features, scale.mpp, device, side),
        "mpp": scale.mpp,
        "size": scale.size,
        "code": code_version(__name__),
    }


def _facts(slides: pd.DataFrame | None) -> dict[str, dict[str, Any]]:
    """Facts of the slides, by their id."""
    if slides is None:
        raise StudyError("tiles are cut from slides, and the cohort has none", todo="give cohort.slides")
    return {str(row["slide_id"]): row for row in slides.to_dict("records")}  # type: ignore[misc]


def _read_all(table: TileTable, scale: Scale, slides: pd.DataFrame | None) -> Iterator[tuple[int, Read]]:
    """Row and tile, or the reason why there is none; tiles of a slide one after the other."""
    if not table.from_slides:
        for row, (path, mpp) in enumerate(zip(table.frame["path"], table.frame["mpp"], strict=True)):
            try:
                yield row, _image(Path(path), scale.mpp if mpp != mpp else float(mpp), scale)
            except BadSlideError as bad:
                yield row, bad
        return
    facts = _facts(slides)
    for slide_id, rows in table.frame.groupby("slide_id", sort=True):
        fact = facts.get(str(slide_id))
        places, coords = rows.index.to_numpy(), rows[["x_px0", "y_px0"]].to_numpy(np.int64)
        if fact is None or fact["status"] != "ok":
            why = "not in the cohort" if fact is None else str(fact["reason"])
            yield from ((int(row), BadSlideError("no_slide", f"slide {slide_id}: {why}")) for row in places)
            continue
        yield from _cut(fact, places, coords, scale)


def _cut(fact: Mapping[str, Any], places: np.ndarray, coords: np.ndarray, scale: Scale) -> Iterator[tuple[int, Read]]:
    """Cut tiles from one slide, row by row of it; those that leave it are no tiles."""
    assert scale.size is not None
    done: set[int] = set()
    try:
        with open_indexed(fact) as slide:
            side = scale.size * scale.mpp / slide.mpp
            ends = coords + side
            # a corner was rounded to a pixel, and so may its far end be
            inside = (coords >= 0).all(1) & (ends <= np.array([slide.width_px0, slide.height_px0]) + 1).all(1)
            for row in places[~inside]:
                done.add(int(row))
                yield int(row), BadSlideError("outside", f"does not lie in slide {fact['slide_id']}")
            order = np.flatnonzero(inside)
            order = order[np.lexsort((coords[order, 0], coords[order, 1]))]
            for row, tile in zip(places[order], slide.read_tiles(coords[order], scale.size, scale.mpp), strict=True):
                done.add(int(row))
                yield int(row), tile
    except BadSlideError as bad:  # tiles that were read before the damage stay
        yield from ((int(row), BadSlideError(bad.reason, bad.detail)) for row in places if int(row) not in done)


def _image(path: Path, mpp: float, scale: Scale) -> np.ndarray:
    """The middle square of an image, at the scale asked for.

    Raises
    ------
    BadSlideError
        ``unreadable``, ``too_small``.
    """
    import cv2
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as stored:
            image = np.asarray(stored.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        if getattr(error, "errno", None) is not None:  # the disk's, not the image's
            raise
        raise BadSlideError("unreadable", f"{path.name}: {' '.join(str(error).split())[:120]}") from None
    if abs(mpp / scale.mpp - 1) > SAME_SCALE:
        sides = _sides((image.shape[1], image.shape[0]), mpp, scale)
        image = cv2.resize(image, sides, interpolation=cv2.INTER_AREA if mpp < scale.mpp else cv2.INTER_CUBIC)
    side = scale.size or min(image.shape[:2])
    if min(image.shape[:2]) < side:
        detail = (
            f"{path.name}: {image.shape[1]} x {image.shape[0]} px at {scale.mpp:g} um/px, and the task's size is {side}"
        )
        raise BadSlideError("too_small", detail)
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    return np.ascontiguousarray(image[top : top + side, left : left + side])


def _refuse_many(index: pd.DataFrame, table: TileTable, max_failed: float) -> None:
    failed = index[index["status"] != "ok"]
    if len(failed):
        logger.warning("%d of %d labelled tiles cannot be used", len(failed), len(index))
    if len(failed) > max_failed * len(index) or len(failed) == len(index):
        reasons = failed["reason"].value_counts()
        first = failed.iloc[0]
        raise StudyError(
            f"{len(failed)} of {len(index)} tiles failed (most often {reasons.index[0]}: {reasons.iloc[0]}; "
            f"{first['tile_id']}: {first['detail']})",
            where=table.source,
            todo="mend or leave them out, or raise cohort.max_failed",
        )


def _write(path: Path, vectors: np.ndarray, colour: np.ndarray, identity: Mapping[str, Any]) -> None:
    import h5py

    with atomic(path) as temporary, h5py.File(temporary, "w") as file:
        file.create_dataset("features", data=vectors)
        file.create_dataset("colour", data=colour)
        file.attrs["identity"] = json.dumps(identity, sort_keys=True)


def _kept(folder: Path, identity: str, pixels: bool) -> pd.DataFrame | None:
    """The index of an earlier call that still holds, or None."""
    import pandas as pd

    record = folder / RECORDS / "made.json"
    if not record.is_file() or not (folder / RECORDS / INDEX).is_file():
        return None
    made = read_json(record)
    if made["identity"] != identity or (pixels and not made["pixels"]):
        return None
    for name, digest in made["files"].items():
        if not (folder / name).is_file() or sha256(folder / name) != digest:
            return None
    return pd.read_parquet(folder / RECORDS / INDEX)
