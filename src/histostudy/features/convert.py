"""Convert a folder of another tool's features or coordinates; a bad file is one line, and the rest go on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from histostudy.errors import FeatureError
from histostudy.features.export import WRITERS, Loss, write_exchange
from histostudy.features.interchange import read_exchange
from histostudy.features.layouts import LAYOUTS, SUFFIXES, open_precomputed
from histostudy.log import progress


@dataclass(frozen=True)
class Converted:
    """What became of one slide.

    Attributes
    ----------
    slide_id : str
    source : Path
    layout : str
        Found in the source; empty where it could not be read.
    files : list of Path
        Written; empty where it failed.
    losses : list of Loss
    error : str
        One line; empty where it went well.
    """

    slide_id: str
    source: Path
    layout: str = ""
    files: list[Path] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    error: str = ""


def sources_of(path: str | Path, layout: str = "auto", encoder: str | None = None) -> dict[str, Path]:
    """Files to convert by slide: a file, one set of features of a folder, else its coordinates.

    Raises
    ------
    FeatureError
        If there is nothing, or more than one set of features.
    """
    path = Path(path)
    if path.is_file():
        return {path.stem.removesuffix("_patches"): path}
    try:
        return open_precomputed(path, layout, encoder)
    except FeatureError as bad:
        patches = sorted(path.rglob("*_patches.h5")) if bad.what == "no feature files" else []
        if not patches:
            raise FeatureError(bad.what, where=bad.where, todo=bad.todo.replace("features.precomputed", "SRC")) from bad
    found: dict[str, Path] = {}
    for file in patches:
        slide = file.stem.removesuffix("_patches")
        if slide in found:
            raise FeatureError(
                f"two files for slide {slide}: {found[slide]} and {file}", where=path, todo="name one set"
            )
        found[slide] = file
    return found


def convert_folder(
    source: str | Path,
    target: str | Path,
    to: str,
    *,
    layout: str = "auto",
    encoder: str | None = None,
    mpp: float | Mapping[str, float] | None = None,
    allow: bool = False,
) -> list[Converted]:
    """Convert each slide of a folder.

    Parameters
    ----------
    source : path
        A file, or any level of a tool's tree that leads to one set of features (or of coordinates).
    target : path
        Root of the new tree; files of the same name there are replaced.
    to : str
        Layout to write, one of `histostudy.features.export.WRITERS`.
    layout : str
        Layout to read, or ``auto``.
    encoder : str, optional
        Which features, where the source holds several.
    mpp : float or mapping, optional
        um/px at level 0, of all slides or by slide id.
    allow : bool
        Believe `mpp` where a file's magnification says otherwise.

    Returns
    -------
    list of Converted
        One a slide, by slide id; those that failed hold their line and have written nothing.

    Raises
    ------
    FeatureError
        If there is no such layout, no source, or the target lies in the source.
    """
    for name, known in ((to, tuple(WRITERS)), (layout, ("auto", *LAYOUTS))):
        if name not in known:
            raise FeatureError(f"no layout {name!r}", todo=f"one of {', '.join(known)}")
    source, target = Path(source), Path(target)
    if source.is_dir() and target.resolve().is_relative_to(source.resolve()):
        raise FeatureError("the target lies in the source", where=target, todo="name a folder beside it")
    if target.suffix in SUFFIXES or target.is_file():
        raise FeatureError("is no folder", where=target, todo="name the folder that gets the tool's tree")
    found = sources_of(source, layout, encoder)
    done = []
    for slide, path in progress(found.items(), "convert", total=len(found)):
        scale = mpp.get(slide) if isinstance(mpp, Mapping) else mpp
        try:
            read = read_exchange(path, layout, encoder=encoder, mpp=scale, allow=allow)
            files, losses = write_exchange(read, target, to)
        except FeatureError as bad:
            done.append(Converted(slide, path, error=str(bad)))
            continue
        done.append(Converted(slide, path, read.layout, files, losses))
    return done


def summary(done: list[Converted]) -> list[str]:
    """Lines for a reader: how many were converted, each loss once with its slides, each failure.

    Parameters
    ----------
    done : list of Converted
        Of `convert_folder`.
    """
    good, bad = [c for c in done if not c.error], [c for c in done if c.error]
    lines = [f"{len(good)} of {len(done)} slides converted"]
    counts: dict[str, list[str]] = {}
    for converted in good:
        for loss in converted.losses:
            counts.setdefault(loss.what, []).append(loss.detail)
    for what, details in counts.items():
        told = sorted({d for d in details if d})
        more = f" (such as {told[0]})" if len(told) > 1 else f" ({told[0]})" if told else ""
        lines.append(f"lost, {len(details)} slides: {what}{more}")
    if good and not counts:
        lines.append("nothing is lost")
    if bad:
        lines.append(f"failed, {len(bad)} slides:")
        width = max(len(c.slide_id) for c in bad)
        lines += [f"  {c.slide_id:<{width}}  {c.error}" for c in bad]
    return lines
