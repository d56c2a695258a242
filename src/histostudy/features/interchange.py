"""One slide's tiles and vectors between two tools' layouts, with every fact that either of them states.

Scale is where layouts differ and readers go wrong: TRIDENT's and AtlasPatch's ``patch_size`` is in pixels at the target
scale, CLAM's in pixels of ``patch_level``, STAMP's coordinates are micrometres, and a magnification is a bin: 0.20 and
0.29 um/px are both "40x" to TRIDENT. A slide's um/px therefore comes from a file that states it or from the user, never
from a magnification; where both are there and disagree, the file is refused.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from histostudy.errors import FeatureError
from histostudy.features.layouts import detect, parts_of
from histostudy.features.readers import nowhere, opened, ours
from histostudy.features.store import check_finite

if TYPE_CHECKING:
    import h5py

logger = logging.getLogger(__name__)

#: Root attribute with what a layout has no place for; other tools ignore it.
RECORD = "histostudy"
#: TRIDENT's bins: below so many um/px a slide is called so many x.
BINS = ((0.16, 80), (0.2, 60), (0.3, 40), (0.6, 20), (1.2, 10), (2.4, 5))
#: How far um/px may lie from 10 / magnification before it is worth a line.
EXACT = 0.05


@dataclass(frozen=True)
class Facts:
    """What is known of a slide's tiles beside places and vectors; None: not stated.

    Attributes
    ----------
    encoder : str or None
    tile_px : float or None
        Side of a tile at the scale it was cut for (TRIDENT's and AtlasPatch's ``patch_size``; CLAM's at its level).
    tile_px0 : float or None
        The same in level-0 pixels, not rounded where it is known better.
    overlap_px : int or None
        At the scale of `tile_px`.
    mpp_slide : float or None
        um/px at level 0.
    level0_magnification, target_magnification : float or None
        As stated by a tool; never turned into um/px.
    width_px0, height_px0 : int or None
        Of the slide.
    level : int or None
        CLAM's ``patch_level``.
    downsample : float or None
        Of that level.
    code : str or None
        Hash of STAMP's extractor code.
    created : str or None
        AtlasPatch's date.
    identity : dict
        What made the vectors.
    """

    encoder: str | None = None
    tile_px: float | None = None
    tile_px0: float | None = None
    overlap_px: int | None = None
    mpp_slide: float | None = None
    level0_magnification: float | None = None
    target_magnification: float | None = None
    width_px0: int | None = None
    height_px0: int | None = None
    level: int | None = None
    downsample: float | None = None
    code: str | None = None
    created: str | None = None
    identity: dict[str, Any] = field(default_factory=dict)

    def record(self) -> str:
        """The facts that are known, as JSON."""
        return json.dumps({k: v for k, v in asdict(self).items() if v not in (None, {})}, sort_keys=True)


@dataclass(frozen=True)
class Exchange:
    """A slide on its way from one layout to another.

    Attributes
    ----------
    slide_id : str
    source : Path
    layout : str
        Of the source.
    facts : Facts
    features : ndarray (N, D) or None
        In the type of the source; None: coordinates alone.
    coords : ndarray of int64 (N, 2) or None
        Level-0 pixels of each tile's top left; None: not known.
    coords_um : ndarray of float64 (N, 2) or None
        Micrometres, where the source is STAMP's.
    windows : ndarray of int32 (N, 3) or None
        AtlasPatch: width, height and level that each tile is read with.
    coarser : tuple of str
        um/px of the parents at coarser scales in the source, which are not read.
    """

    slide_id: str
    source: Path
    layout: str
    facts: Facts
    features: np.ndarray | None
    coords: np.ndarray | None
    coords_um: np.ndarray | None = None
    windows: np.ndarray | None = None
    coarser: tuple[str, ...] = ()


def trident_bin(mpp: float) -> int | None:
    """Magnification by which TRIDENT calls a slide of `mpp` um/px; None: it refuses one so coarse."""
    return next((magnification for below, magnification in BINS if mpp < below), None)


def check_magnification(level0: float, mpp: float, where: str | Path, allow: bool = False) -> None:
    """Compare a stated magnification with a slide's um/px.

    A magnification is fine within `EXACT` of 10 / mpp, worth a warning if it is the bin of TRIDENT's that `mpp` falls
    into, and refused if it is neither.

    Raises
    ------
    FeatureError
        If they disagree, unless `allow`.
    """
    if abs(level0 * mpp / 10 - 1) <= EXACT:
        return
    called = trident_bin(mpp)
    if called == level0:
        logger.warning(
            "%s: %gx stands for %g um/px and the slide has %g: its tiles are %.0f percent as wide as %gx says",
            where, level0, 10 / level0, mpp, 10 * mpp * level0, level0,
        )  # fmt: skip
        return
    if not allow:
        name = "too coarse for it" if called is None else f"{called}x to TRIDENT"
        raise FeatureError(
            f"states {level0:g}x at level 0, but {mpp:g} um/px is {name}",
            where=where,
            todo="correct the slide's um/px, or say --allow-mpp-mismatch if the magnification is the wrong one",
        )
    logger.warning("%s: states %gx at level 0; %g um/px is used", where, level0, mpp)


def layout_of(path: str | Path) -> str:
    """Layout of a file of features or of coordinates alone."""
    path = Path(path)
    found = detect(path)
    if found != "plain" or path.suffix not in (".h5", ".hdf5"):
        return found
    with opened(path) as file:
        if "passports" in file or "passport_version" in file.attrs:
            return "atlaspatch"
        attrs = file["coords"].attrs if "coords" in file else {}
        if "patch_level" in attrs or not _foreign(file):
            return "clam" if "patch_level" in attrs else "plain"
        if "feats" in file or "patch_embeddings" in file:
            return "stamp"
        if "target_magnification" in attrs or "patch_size_level0" in attrs:
            return "trident"
    return "clam" if path.parent.name == "h5_files" else "plain"


def _foreign(file: h5py.File) -> bool:
    return "identity" in file.attrs and ours(file.attrs, "identity") is None


def read_exchange(
    path: str | Path,
    layout: str = "auto",
    *,
    encoder: str | None = None,
    mpp: float | None = None,
    allow: bool = False,
) -> Exchange:
    """Read a slide's file of features, or of coordinates alone, with all it states.

    Parameters
    ----------
    path : path
        Of the file.
    layout : str
        One of `histostudy.features.layouts.LAYOUTS`, or ``auto``.
    encoder : str, optional
        Which features, where the file holds several.
    mpp : float, optional
        Of the slide at level 0. What a file states itself must agree.
    allow : bool
        Believe `mpp` where the file's magnification says otherwise.

    Raises
    ------
    FeatureError
        If the file is not of that layout, holds NaN or infinities, or its scale and `mpp` disagree.
    """
    path = Path(path)
    layout = layout_of(path) if layout == "auto" else layout
    slide_id = path.stem.removesuffix("_patches")
    try:
        if path.suffix not in (".h5", ".hdf5"):
            return _tensors(path, layout, slide_id, mpp, allow)
        with opened(path) as file:
            facts = _facts(file, path, layout)
            if not any(name in file for name in ("features", "feats", "patch_embeddings")):
                return _settled(Exchange(slide_id, path, layout, facts, None, _places(file, path)), mpp, allow, file)
        with parts_of(path, layout, encoder) as parts:
            vectors, places, header = np.asarray(parts.vectors[:]), parts.coords, parts.header
            check_finite(vectors, path)
            facts = replace(facts, encoder=str(header.identity.get("encoder") or "") or facts.encoder)
            identity = {**header.identity, **facts.identity}
            facts = replace(facts, identity={k: v for k, v in identity.items() if k != "scales"})  # parents: not read
            facts = facts if facts.tile_px0 or header.positions == "um" else replace(facts, tile_px0=header.tile_px0)
            found = Exchange(slide_id, path, layout, facts, vectors, places if header.positions == "px0" else None)
            found = replace(found, coords_um=np.asarray(places, np.float64) if header.positions == "um" else None)
        with opened(path) as file:
            coarser = sorted(name.removeprefix("features@") for name in file if name.startswith("features@"))
            found = replace(found, coarser=tuple(coarser))
            return _settled(found, mpp, allow, file, header.tile_px0 if header.positions == "um" else None)
    except OSError as bad:
        if bad.errno is not None:
            raise  # of the machine, not of the file
        reason = str(bad).splitlines()[0][:100]
        raise FeatureError(f"cannot be read ({reason})", where=path, todo="extract this slide again") from bad


def _tensors(path: Path, layout: str, slide_id: str, mpp: float | None, allow: bool) -> Exchange:
    """Vectors without places of their own; CLAM and TRIDENT put a file with the places near them."""
    with parts_of(path, layout, None) as parts:
        vectors = np.asarray(parts.vectors)
    check_finite(vectors, path)
    names = {
        path.parent.parent / "h5_files" / f"{slide_id}.h5": "clam",
        path.parent.parent / "patches" / f"{slide_id}_patches.h5": "trident",
    }
    beside = next((p for p in names if p.is_file()), None)
    encoder = path.parent.parent.name if path.parent.name == "pt_files" else path.parent.name.removeprefix("features_")
    if beside is None:
        facts = Facts(encoder=encoder, mpp_slide=mpp, identity={"layout": layout, "encoder": encoder})
        return Exchange(slide_id, path, layout, facts, vectors, None)
    found = read_exchange(beside, names[beside], mpp=mpp, allow=allow)
    if found.coords is not None and len(found.coords) != len(vectors):
        raise FeatureError(f"{len(vectors)} vectors but {len(found.coords)} tiles in {beside}", where=path)
    facts = replace(found.facts, encoder=encoder, identity={**found.facts.identity, "encoder": encoder})
    return replace(found, source=path, layout=layout, features=vectors, facts=facts)


def _places(file: h5py.File, path: Path) -> np.ndarray:
    """Level-0 pixels of a file of coordinates alone."""
    import h5py

    if not isinstance(file.get("coords"), h5py.Dataset):
        raise FeatureError("has neither features nor coords", where=path, todo="set --from to the tool that wrote it")
    found = np.asarray(file["coords"][:])
    if found.size == 0:
        return nowhere(0)
    if found.ndim != 2 or found.shape[1] < 2:
        raise FeatureError(f"coords have shape {found.shape}", where=path, todo="lay the tiles of this slide again")
    return np.rint(found[:, :2]).astype(np.int64)


def _number(value: Any) -> float | None:
    try:
        found = float(np.asarray(value, float).ravel()[0])
    except (TypeError, ValueError, IndexError):  # TRIDENT writes None as text
        return None
    return found if np.isfinite(found) else None


def _whole(value: Any) -> int | None:
    return None if (found := _number(value)) is None else round(found)


def _facts(file: h5py.File, path: Path, layout: str) -> Facts:
    """What the attributes of a file state, in the meaning of its layout."""
    root, coords = dict(file.attrs), dict(file["coords"].attrs) if "coords" in file else {}
    stated = {**root, **coords}
    if layout == "clam":
        facts = _clam_facts(coords, path)
    elif layout == "stamp":
        size, code = _number(root.get("tile_size_px")), root.get("code_hash")
        facts = Facts(tile_px=size, code=None if code is None else str(code))
    else:
        tile, side = _number(stated.get("patch_size")), _number(stated.get("patch_size_level0"))
        level0, target = (_number(stated.get(f"{k}_magnification")) for k in ("level0", "target"))
        if layout == "trident" and side is None and tile and level0 and target:
            side = tile * level0 // target
        facts = Facts(
            tile_px=tile, tile_px0=side, level0_magnification=level0, target_magnification=target,
            overlap_px=_whole(stated.get("overlap")), width_px0=_whole(stated.get("level0_width")),
            height_px0=_whole(stated.get("level0_height")), mpp_slide=_number(stated.get("mpp")),
            created=str(root["creation_date"]) if "creation_date" in root else None,
        )  # fmt: skip
        if layout == "plain":
            facts = _own_facts(root, facts)
    return _with_record(root, facts)


def _clam_facts(coords: Mapping[str, Any], path: Path) -> Facts:
    """CLAM's features say nothing; its patches, beside them, give a size in pixels of a level."""
    for folder in (path.parent.parent, path.parent.parent.parent):
        beside = folder / "patches" / f"{path.stem}.h5"
        if "patch_size" not in coords and beside != path and beside.is_file():
            with opened(beside) as other:
                coords = dict(other["coords"].attrs) if "coords" in other else {}
    size, level = _number(coords.get("patch_size")), _whole(coords.get("patch_level", 0)) or 0
    down, custom = _number(coords.get("downsample")), _number(coords.get("custom_downsample", 1)) or 1.0
    down = 1.0 if down is None and level == 0 else down
    dims = np.asarray(coords.get("level_dim", ()), float).ravel()
    known = level == 0 and dims.size == 2 and dims.min() > 0  # of the level, so the slide's at level 0 alone
    return Facts(
        tile_px=size, tile_px0=size * down * custom if size and down else None, level=level, downsample=down,
        width_px0=int(dims[0]) if known else None, height_px0=int(dims[1]) if known else None,
    )  # fmt: skip


def _own_facts(root: Mapping[str, Any], facts: Facts) -> Facts:
    """Facts of a feature file or a tile file of ours."""
    if "size_px0" in root:  # tiles/store.py
        return replace(
            facts, tile_px0=_number(root["size_px0"]), mpp_slide=_number(root.get("mpp_slide")),
            width_px0=_whole(root.get("width_px0")), height_px0=_whole(root.get("height_px0")),
        )  # fmt: skip
    identity = ours(root, "identity") or {}
    size, wanted, mpp = (_number(identity.get(k)) for k in ("tile_px", "mpp_requested", "mpp_slide"))
    facts = replace(facts, identity=identity, mpp_slide=mpp, tile_px=size or facts.tile_px)
    return replace(facts, tile_px0=size * wanted / mpp) if size and wanted and mpp else facts


def _with_record(root: Mapping[str, Any], facts: Facts) -> Facts:
    """Add what we noted in a file that we wrote, unless its attributes have been changed since."""
    noted = ours(root, RECORD) or {}
    side = _number(noted.get("tile_px0"))
    if side and facts.tile_px0 and abs(side - facts.tile_px0) > 0.5:
        return facts
    # the note wins: CLAM's patch_size is at its level, the note's tile_px at the scale of the note's magnification
    return replace(facts, **{k: v for k, v in noted.items() if k in Facts.__dataclass_fields__})


def _settled(
    found: Exchange, mpp: float | None, allow: bool, file: h5py.File, side_um: float | None = None
) -> Exchange:
    """Settle the slide's um/px, and what follows from it."""
    facts, stated = found.facts, found.facts.mpp_slide
    if mpp is not None and stated is not None and abs(mpp / stated - 1) > 0.01 and not allow:
        raise FeatureError(
            f"states {stated:g} um/px, not {mpp:g}", where=found.source, todo="leave --mpp out, or correct it"
        )
    mpp = mpp if mpp is not None else stated
    if mpp is not None and facts.level0_magnification and found.layout != "plain":  # ours are rounded from um/px
        check_magnification(facts.level0_magnification, mpp, found.source, allow)
    facts = replace(facts, mpp_slide=mpp)
    if found.coords_um is not None and mpp is not None:
        found = replace(found, coords=np.rint(found.coords_um / mpp).astype(np.int64))
    if side_um is not None:
        facts = replace(facts, tile_px0=side_um / mpp if mpp else None, identity={**facts.identity, "tile_um": side_um})
    if found.layout == "atlaspatch" and file["coords"].ndim == 2 and file["coords"].shape[1] >= 5:
        found = replace(found, windows=np.asarray(file["coords"][:, 2:5], np.int32))
    return replace(found, facts=facts)
