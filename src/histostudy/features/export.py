"""Write a slide's tiles and vectors as TRIDENT, CLAM, STAMP, AtlasPatch or we do, and say what the layout lost.

Names, types, chunks and attributes are those that the tools write themselves (read from their sources; none of their
code is here). Each file appears whole, and the files of a slide together. What a layout has no place for goes into one
root attribute, ``histostudy`` (JSON), which the tools ignore and `histostudy.features.interchange` reads: it brings a
slide back whole, but the tool itself does not see it, so it is a loss all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from histostudy.encoders.registry import slug
from histostudy.errors import FeatureError
from histostudy.features.interchange import RECORD, Exchange, trident_bin
from histostudy.features.store import tile_side
from histostudy.files import atomic, digest_of

if TYPE_CHECKING:
    import h5py

#: The oldest STAMP that writes tile_size_um; its readers refuse files of a newer version than their own.
STAMP_VERSION = "2.1.0"
CLAM_ROWS = 32
PASSPORT = "{stem}__x{x}_y{y}_rw{w}_rh{h}_lv{level}_mag{mag:g}_tmag{target:g}_total{total}"


@dataclass(frozen=True)
class Loss:
    """Something the new file does not say, or not as exactly.

    Attributes
    ----------
    what : str
        The same for every slide.
    detail : str
        Of this slide, with numbers; may be empty.
    """

    what: str
    detail: str = ""


@dataclass
class _Sheet:
    """The files of one slide being written, and what is lost on the way."""

    stack: ExitStack
    to: str
    files: list[Path] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)

    def temporary(self, path: Path) -> Path:
        """Where to write what will be `path`, when the whole slide is done."""
        self.files.append(path)
        return self.stack.enter_context(atomic(path))

    @contextmanager
    def hdf5(self, path: Path, found: Exchange) -> Iterator[h5py.File]:
        import h5py

        with h5py.File(self.temporary(path), "w") as file:
            file.attrs[RECORD] = found.facts.record()
            yield file

    def lost(self, what: str, detail: str = "") -> None:
        self.losses.append(Loss(what, detail))


def write_exchange(found: Exchange, folder: str | Path, to: str) -> tuple[list[Path], list[Loss]]:
    """Write a slide in a layout.

    Parameters
    ----------
    found : Exchange
        Read by `histostudy.features.interchange.read_exchange`.
    folder : path
        Root of the tool's tree.
    to : str
        One of `WRITERS`.

    Returns
    -------
    files : list of Path
        The first holds the vectors, or the coordinates where there are no vectors.
    losses : list of Loss
        What the layout does not hold.

    Raises
    ------
    FeatureError
        If the layout cannot hold the slide: no places, no scale, numbers past float16. Nothing is written then.
    """
    with ExitStack() as stack:
        sheet = _Sheet(stack, to)
        WRITERS[to](found, Path(folder), sheet)
    return sheet.files, sheet.losses


def magnification_of(mpp: float) -> float:
    """10 / mpp; a whole number where that is within 3 percent (0.2527 um/px is 40x, 4 um/px is 2.5x)."""
    exact = 10 / mpp
    whole = round(exact)
    return whole if whole and abs(exact / whole - 1) <= 0.03 else round(exact, 3)


def _fail(found: Exchange, what: str, todo: str) -> FeatureError:
    return FeatureError(what, where=found.source, todo=todo)


def _need_places(found: Exchange, to: str) -> np.ndarray:
    if found.coords is None and found.coords_um is not None:
        raise _fail(found, "coordinates are micrometres and the slide's um/px is not stated", "give --mpp or --slides")
    if found.coords is None:
        raise _fail(found, f"has no coordinates, which {to} needs", "convert to plain, or find the tool's own files")
    return found.coords


def _magnifications(found: Exchange) -> tuple[float, float]:
    """Magnification at level 0 and of the tiles: as stated, else from um/px."""
    facts = found.facts
    level0 = facts.level0_magnification or (magnification_of(facts.mpp_slide) if facts.mpp_slide else None)
    if level0 is None or not facts.tile_px or not facts.tile_px0:
        missing = "the side of its tiles" if level0 else "magnification or um/px at level 0"
        raise _fail(found, f"does not state {missing}", "give --mpp or --slides")
    if facts.target_magnification:
        return level0, facts.target_magnification
    if facts.mpp_slide:
        return level0, magnification_of(facts.tile_px0 * facts.mpp_slide / facts.tile_px)
    return level0, magnification_of(10 / (level0 * facts.tile_px / facts.tile_px0))


def _plainly(value: float | None) -> int | float:
    """A number as an integer where it is one."""
    return 0 if value is None else int(value) if float(value).is_integer() else float(value)


def _scale_losses(found: Exchange, sheet: _Sheet, tool: str, level0: float, target: float) -> None:
    """What whole pixels and magnifications do to the side of a tile."""
    facts, side = found.facts, float(found.facts.tile_px0 or 0)
    if facts.mpp_slide and trident_bin(facts.mpp_slide) != level0:
        sheet.lost(
            f"{tool} would give this slide another magnification from its um/px",
            f"{facts.mpp_slide:g} um/px is {trident_bin(facts.mpp_slide)}x to it, written as {level0:g}x",
        )
    if abs(round(side) - side) > 1e-6:
        sheet.lost("the side of a tile at level 0 is rounded to a pixel", f"{side:.2f} to {round(side)}")
    by_magnification = float(facts.tile_px or 0) * level0 // target
    if abs(by_magnification - side) > max(1.0, 0.002 * side):
        sheet.lost(
            "the magnifications give tiles of another size than patch_size_level0",
            f"{by_magnification:g} px at level 0, not {side:.2f}",
        )


def _narrow(found: Exchange, sheet: _Sheet, dtype: str) -> np.ndarray:
    """The vectors in a type of the layout."""
    assert found.features is not None
    with np.errstate(over="ignore"):
        narrow = found.features.astype(dtype)
    if not np.isfinite(narrow).all():
        raise _fail(found, f"vectors do not fit {dtype} (largest {np.abs(found.features).max():g})", "use plain")
    if narrow.size:
        apart = np.abs(narrow.astype(np.float64) - found.features)
        if apart.max() > 0:
            sheet.lost(f"vectors are rounded from {found.features.dtype} to {dtype}", f"by at most {apart.max():.2g}")
    return narrow


def _trident(found: Exchange, folder: Path, sheet: _Sheet) -> None:
    """``<mag>x_<px>px_<overlap>px_overlap/{patches,features_<encoder>}``, chunks of one row, scale on /coords."""
    coords, facts = _need_places(found, "trident"), found.facts
    level0, target = _magnifications(found)
    size, overlap = _plainly(facts.tile_px), facts.overlap_px or 0
    home = folder / f"{target:g}x_{size:g}px_{overlap}px_overlap"
    attrs = {
        "patch_size": size, "patch_size_level0": round(float(facts.tile_px0 or 0)),
        "level0_magnification": _plainly(level0), "target_magnification": _plainly(target), "overlap": overlap,
        "name": found.slide_id, "savetodir": str(Path(home.name) / "patches"),
        "level0_width": facts.width_px0 or 0, "level0_height": facts.height_px0 or 0,
    }  # fmt: skip
    sheet.lost("TRIDENT has no um/px", "" if facts.mpp_slide is None else f"{facts.mpp_slide:g} at level 0")
    _scale_losses(found, sheet, "TRIDENT", level0, target)
    _common_losses(found, sheet)

    def put_coords(file: h5py.File) -> None:
        where = _rows(file, "coords", coords.astype(np.int64), 1)
        for key, value in attrs.items():
            where.attrs[key] = value

    if found.features is not None:
        name = slug(facts.encoder or "unknown")
        with sheet.hdf5(home / f"features_{name}" / f"{found.slide_id}.h5", found) as file:
            vectors = _rows(file, "features", found.features, 1)
            vectors.attrs.update(name=found.slide_id, savetodir=f"features_{name}", encoder=facts.encoder or name)
            put_coords(file)
    with sheet.hdf5(home / "patches" / f"{found.slide_id}_patches.h5", found) as file:
        put_coords(file)


def _clam(found: Exchange, folder: Path, sheet: _Sheet) -> None:
    """``patches/<slide>.h5`` and ``<encoder>/{h5_files,pt_files}``; a tile's side is in pixels of ``patch_level``."""
    facts, name = found.facts, slug(found.facts.encoder or "unknown")
    if found.coords_um is not None:
        _need_places(found, "clam")
    if found.features is not None:
        vectors = _narrow(found, sheet, "float32")
        if found.coords is not None:
            with sheet.hdf5(folder / name / "h5_files" / f"{found.slide_id}.h5", found) as file:
                _rows(file, "features", vectors, CLAM_ROWS)
                _rows(file, "coords", found.coords.astype(np.int32), CLAM_ROWS)
        import torch

        with open(sheet.temporary(folder / name / "pt_files" / f"{found.slide_id}.pt"), "wb") as tensor:
            torch.save(torch.from_numpy(vectors), tensor)  # by name, the temporary's would be in the bytes
    sheet.lost("CLAM has no scale: neither um/px nor magnification")
    _common_losses(found, sheet)
    if found.coords is None:
        sheet.lost("the source has no coordinates: a tensor alone is written")
        return
    if not facts.tile_px0:
        raise _fail(found, "does not state the side of its tiles", "give --mpp or --slides, or the file that states it")
    kept = found.layout == "clam" and facts.level and facts.downsample and facts.tile_px
    level, down = (facts.level or 0, facts.downsample or 1.0) if kept else (0, 1.0)
    side = facts.tile_px0 / down  # with its custom_downsample, which is not written
    if abs(round(side) - side) > 1e-6:
        sheet.lost("the side of a tile at level 0 is rounded to a pixel", f"{side:.2f} to {round(side)}")
    if facts.tile_px and abs(facts.tile_px - side) > 1e-6:
        sheet.lost(
            "CLAM reads tiles at a level and leaves resizing to the encoder's transform",
            f"{round(side)} px at level {level}, cut for {facts.tile_px:g} px",
        )
    if facts.width_px0 and facts.height_px0:
        size = (facts.width_px0 / down, facts.height_px0 / down)
    else:
        sheet.lost("the size of the slide is not known: level_dim is what its tiles span")
        size = tuple((found.coords.max(axis=0) / down + side) if len(found.coords) else (0, 0))
    dims = np.array([round(float(v)) for v in size], np.int64)
    with sheet.hdf5(folder / "patches" / f"{found.slide_id}.h5", found) as file:
        where = _rows(file, "coords", found.coords.astype(np.int32), CLAM_ROWS)
        where.attrs.update(
            patch_size=round(side), patch_level=int(level), downsample=np.array([down, down]),
            downsampled_level_dim=dims, level_dim=dims, name=found.slide_id, save_path="patches",
        )  # fmt: skip


def _rows(file: h5py.File, name: str, data: np.ndarray, rows: int) -> Any:
    """A dataset that can grow, in chunks of some rows."""
    width = data.shape[1]
    if not width:
        return file.create_dataset(name, data=data, track_times=False)
    return file.create_dataset(name, data=data, maxshape=(None, width), chunks=(rows, width), track_times=False)


def _stamp(found: Exchange, folder: Path, sheet: _Sheet) -> None:
    """``<extractor>-<hash>/<slide>.h5``: float16 vectors, float32 micrometres, all facts at the root."""
    facts = found.facts
    if found.features is None:
        raise _fail(found, "holds coordinates alone, of which STAMP has no file", "give features, or another layout")
    mpp, side_um = facts.mpp_slide, facts.identity.get("tile_um")
    if found.coords_um is not None:
        places, side_um = found.coords_um, float(side_um or 0)
    else:
        coords = _need_places(found, "stamp")
        if mpp is None or not facts.tile_px0:
            missing = "the side of its tiles" if mpp else "um/px, and a magnification is none"
            raise _fail(found, f"does not state {missing}", "give --mpp or --slides")
        places, side_um = coords * mpp, facts.tile_px0 * mpp
    vectors = _narrow(found, sheet, "float16")
    written = places.astype(np.float32)
    if mpp and len(places) and (np.rint(written.astype(np.float64) / mpp) != np.rint(places / mpp)).any():
        sheet.lost("coordinates do not come back exactly from float32 micrometres")
    if found.layout != "stamp":
        sheet.lost("STAMP has no level-0 pixels and no um/px: coordinates are float32 micrometres")
    _common_losses(found, sheet, "name and code")
    name = slug(facts.encoder or "unknown")
    code = facts.code or digest_of(facts.identity)[:8]
    with sheet.hdf5(folder / f"{name}-{code[:8]}" / f"{found.slide_id}.h5", found) as file:
        file.create_dataset("coords", data=written, track_times=False)
        file.create_dataset("feats", data=vectors, track_times=False)
        file.attrs.update(
            stamp_version=STAMP_VERSION, extractor=facts.encoder or name, unit="um", tile_size_um=float(side_um),
            tile_size_px=round(facts.tile_px or 224), code_hash=code, feat_type="tile",
        )  # fmt: skip


def _atlaspatch(found: Exchange, folder: Path, sheet: _Sheet) -> None:
    """``patches/<slide>.h5``: windows, passports, a group of features, facts at the root."""
    coords, facts = _need_places(found, "atlaspatch"), found.facts
    level0, target = _magnifications(found)
    side, total = round(float(facts.tile_px0 or 0)), len(coords)
    windows = found.windows
    if windows is None:
        windows = np.tile(np.array([side, side, 0], np.int32), (total, 1))
    _scale_losses(found, sheet, "AtlasPatch", level0, target)
    _common_losses(found, sheet)
    passports = [
        PASSPORT.format(
            stem=found.slide_id, x=x, y=y, w=w, h=h, level=level, mag=level0, target=target, total=total
        ).encode()
        for (x, y), (w, h, level) in zip(coords.tolist(), windows.tolist(), strict=True)
    ]
    if any(len(p) > 160 for p in passports):
        sheet.lost("passports are cut at 160 letters")
    # the date of the source keeps the same input the same bytes
    created = facts.created or datetime.fromtimestamp(int(found.source.stat().st_mtime), UTC).isoformat()
    with sheet.hdf5(folder / "patches" / f"{found.slide_id}.h5", replace(found, facts=facts)) as file:
        rows = np.column_stack([coords, windows]).astype(np.int32).reshape(total, 5)
        file.create_dataset("coords", data=rows, track_times=False)
        file.create_dataset("passports", data=np.array(passports, "S160"), track_times=False)
        file.attrs.update(
            patch_size=_plainly(facts.tile_px), patch_size_level0=side, level0_magnification=_plainly(level0),
            target_magnification=_plainly(target), overlap=facts.overlap_px or 0, level0_width=facts.width_px0 or 0,
            level0_height=facts.height_px0 or 0, wsi_path="", passport_format=PASSPORT, passport_version=2,
            creation_date=created, num_patches=total, filename=found.slide_id,
        )  # fmt: skip
        if facts.mpp_slide:
            file.attrs["mpp"] = facts.mpp_slide
        if found.features is not None:
            group = file.create_group("features", track_order=False)
            vectors = _narrow(found, sheet, "float32")
            group.create_dataset(slug(facts.encoder or "unknown"), data=vectors, track_times=False)


def _plain(found: Exchange, folder: Path, sheet: _Sheet) -> None:
    """``<slide>.h5`` as this package writes it: any type, level-0 pixels or none, everything that is known."""
    facts = found.facts
    if found.coords_um is not None:
        _need_places(found, "plain")
    identity = {**facts.identity, "encoder": facts.encoder or facts.identity.get("encoder", "")}
    if facts.mpp_slide and facts.tile_px and facts.tile_px0:
        identity |= {"mpp_slide": facts.mpp_slide, "tile_px": _plainly(facts.tile_px)}
        if abs((tile_side(identity) or 0.0) - facts.tile_px0) > 0.5:  # not stated, or of another um/px of the slide
            identity["mpp_requested"] = facts.tile_px0 * facts.mpp_slide / facts.tile_px
    stated = {
        "patch_size": facts.tile_px, "patch_size_level0": facts.tile_px0, "overlap": facts.overlap_px,
        "level0_magnification": facts.level0_magnification, "target_magnification": facts.target_magnification,
        "level0_width": facts.width_px0, "level0_height": facts.height_px0,
    }  # fmt: skip
    attrs = {k: _plainly(v) for k, v in stated.items() if v is not None}
    _common_losses(found, sheet)
    path = folder / f"{found.slide_id}.h5"
    if found.features is None:
        coords = _need_places(found, "plain")
        with sheet.hdf5(path, found) as file:
            where = file.create_dataset("coords", data=coords.astype(np.int64), track_times=False)
            where.attrs.update(attrs)
        return
    import json

    unknown = found.coords is None
    coords = np.full((len(found.features), 2), -1, np.int64) if found.coords is None else found.coords
    if unknown:
        sheet.lost("the source has no coordinates")
    with sheet.hdf5(path, found) as file:
        file.create_dataset("features", data=found.features, track_times=False)
        where = file.create_dataset("coords", data=coords.astype(np.int64), track_times=False)
        where.attrs.update({**attrs, "positions": "unknown" if unknown else "px0"})
        file.attrs.update(
            encoder=identity["encoder"], identity=json.dumps(identity, sort_keys=True),
            positions="unknown" if unknown else "px0",
        )  # fmt: skip


def _common_losses(found: Exchange, sheet: _Sheet, encoder: str = "name") -> None:
    """What none of the other tools' layouts, or this one, has a place for."""
    facts = found.facts
    if sheet.to != "plain" and (facts.identity.get("weights_sha256") or facts.identity.get("transform")):
        sheet.lost(f"of what made the vectors only the encoder's {encoder} is held: no weights, no transform")
    if found.windows is not None and found.windows[:, 2].any() and sheet.to != "atlaspatch":
        sheet.lost("the level and window that AtlasPatch reads each tile with")
    if found.coarser:
        sheet.lost("the tiles at coarser scales", f"at {', '.join(found.coarser)} um/px")
    if sheet.to == "stamp" and facts.width_px0:
        sheet.lost("STAMP has no place for the size of the slide")
    if sheet.to in ("trident", "atlaspatch") and not facts.width_px0:
        sheet.lost("the size of the slide is not known and written as 0")
    if sheet.to in ("clam", "stamp") and facts.overlap_px:
        sheet.lost("the layout has no place for the overlap", f"{facts.overlap_px} px")


WRITERS: dict[str, Callable[[Exchange, Path, _Sheet], None]] = {
    "trident": _trident,
    "clam": _clam,
    "stamp": _stamp,
    "atlaspatch": _atlaspatch,
    "plain": _plain,
}
