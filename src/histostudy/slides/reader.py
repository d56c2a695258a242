"""Open a slide with the best backend for its format and settle its scale."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from histostudy.errors import BadSlideError, StudyError
from histostudy.files import fingerprint
from histostudy.slides.base import Slide
from histostudy.slides.scale import resolve_mpp

__all__ = ["Backend", "Slide", "open_indexed", "open_raw", "open_slide"]

Backend = Literal["auto", "native", "openslide", "fastslide"]


def open_slide(path: str | Path, *, mpp: float | None = None, backend: Backend = "auto") -> Slide:
    """Open a slide that has a scale.

    Parameters
    ----------
    path : str or Path
    mpp : float, optional
        From the slide table, um per pixel at level 0; goes before what the file says.
    backend : {'auto', 'native', 'openslide', 'fastslide'}
        ``auto``: stored JPEG tiles where the file is of a known kind, else OpenSlide, else fastslide.

    Raises
    ------
    BadSlideError
        ``unreadable``, ``no_mpp`` or ``implausible_mpp``.
    StudyError
        If there is no such file.
    """
    slide = open_raw(path, backend=backend)
    try:
        slide.mpp, slide.mpp_source = resolve_mpp(mpp, slide.mpp_xy, slide.objective_power)
    except (BadSlideError, StudyError):
        slide.close()
        raise
    return slide


def open_indexed(row: Mapping[str, Any]) -> Slide:
    """Open the slide that an index is of, wherever it lies on this machine.

    Parameters
    ----------
    row : mapping
        `path` (on this machine), `mpp` and `fingerprint` of the slide, as the slides stage settled them.

    Raises
    ------
    BadSlideError
        As `open_slide`.
    StudyError
        If there is no such file, or it is of another content than the one that was indexed.
    """
    path = Path(row["path"])
    if path.is_file() and fingerprint(path) != row["fingerprint"]:
        todo = "mount the disk with the one that was, or plan again where this one is seen"
        raise StudyError("not the slide that was indexed", where=path, todo=todo)
    return open_slide(path, mpp=float(row["mpp"]))


def open_raw(path: str | Path, *, backend: Backend = "auto") -> Slide:
    """Open a slide without asking for its scale: `mpp` is NaN, only `read_level` and `shrunk` work."""
    path = Path(path)
    if not path.exists():
        raise StudyError("no such slide", where=path, todo="check the path, or that the disk is mounted")
    if backend == "fastslide":
        return _fastslide(path)
    from histostudy.slides.openslide_backend import OpenSlideSlide

    try:
        oracle = OpenSlideSlide(path)
    except BadSlideError:
        from histostudy.slides.fastslide_backend import SUFFIXES

        if backend == "auto" and path.name.lower().endswith(SUFFIXES):
            return _fastslide(path)
        raise
    if backend == "openslide":
        return oracle
    from histostudy.slides.native_backend import open_native

    try:
        native = open_native(oracle)
    except BadSlideError:
        oracle.close()
        raise
    if native is None and backend == "native":
        oracle.close()
        raise StudyError("not a tiled JPEG TIFF of a known kind", where=path, todo="use backend 'auto'")
    return native or oracle


def _fastslide(path: Path) -> Slide:
    from histostudy.slides.fastslide_backend import FastSlideSlide

    return FastSlideSlide(path)
