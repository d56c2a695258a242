"""Read features that other tools wrote: TRIDENT, CLAM, STAMP, AtlasPatch, and plain files.

Each tool states places in its own way, and a reader that takes one for another puts a heat map at the wrong
scale without an error. Coordinates are level-0 pixels in all but STAMP, whose are micrometres.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from histostudy.errors import FeatureError
from histostudy.features.readers import READERS, Header, Parts, nowhere, opened, read_array
from histostudy.features.store import SlideFeatures, check_finite

logger = logging.getLogger(__name__)

LAYOUTS = ("trident", "clam", "stamp", "atlaspatch", "plain")
SUFFIXES = (".h5", ".hdf5", ".pt", ".npy", ".npz")


def open_precomputed(folder: str | Path, layout: str = "auto", encoder: str | None = None) -> dict[str, Path]:
    """Feature file of each slide of a folder, by slide id (the file's name without its suffix).

    Parameters
    ----------
    folder : path
        Any level of the tool's own tree that leads to one set of features.
    layout : str
        One of `LAYOUTS`, or ``auto``.
    encoder : str, optional
        Which features to take where the tree holds those of several encoders.

    Raises
    ------
    FeatureError
        If there is no such folder, no feature file, several sets of features, or two files for one slide.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FeatureError("no such folder of features", where=folder, todo="correct features.precomputed")
    root = _features_root(folder, layout, encoder)
    found: dict[str, Path] = {}
    for suffix in SUFFIXES:  # HDF5 before tensors: it has coordinates
        for path in sorted(root.rglob(f"*{suffix}")):
            if path.name.startswith(".") or path.stem.endswith("_patches"):
                continue
            other = found.get(path.stem)
            if other is None:
                found[path.stem] = path
            elif other.suffix == path.suffix:
                raise FeatureError(
                    f"two feature files for slide {path.stem}: {other} and {path}",
                    where=folder,
                    todo="name the folder of one set of features in features.precomputed",
                )
    if not found:
        raise FeatureError("no feature files", where=root, todo=f"expected <slide>{' | '.join(SUFFIXES)}")
    return dict(sorted(found.items()))


def _features_root(folder: Path, layout: str, encoder: str | None) -> Path:
    """The folder below `folder` that holds exactly one set of features."""
    if layout in ("auto", "trident"):
        sets = sorted(p for pattern in ("features_*", "*/features_*") for p in folder.glob(pattern) if p.is_dir())
        if encoder is not None:
            sets = [p for p in sets if p.name == f"features_{encoder}"] or sets
        if len(sets) > 1:
            names = ", ".join(str(p.relative_to(folder)) for p in sets[:6])
            raise FeatureError(
                f"{len(sets)} sets of features ({names})", where=folder, todo="name one in features.precomputed"
            )
        if sets:
            return sets[0]
    if layout in ("auto", "clam"):
        for name in ("h5_files", "pt_files"):
            if (folder / name).is_dir():
                return folder / name
    if layout in ("auto", "atlaspatch") and (folder / "patches").is_dir() and not any(folder.glob("*.h5")):
        return folder / "patches"
    return folder


def detect(path: str | Path) -> str:
    """Layout of one feature file, from what it holds."""
    path = Path(path)
    if path.suffix not in (".h5", ".hdf5"):
        return "clam" if path.suffix == ".pt" and path.parent.name == "pt_files" else "plain"
    import h5py

    with opened(path) as file:
        if "identity" in file.attrs:
            return "plain"
        if "feats" in file or "patch_embeddings" in file:
            return "stamp"
        if isinstance(file.get("features"), h5py.Group):
            return "atlaspatch"
        attrs = file["coords"].attrs if "coords" in file else {}
        if "target_magnification" in attrs or "patch_size_level0" in attrs:
            return "trident"
    return "clam" if path.parent.name == "h5_files" else "plain"


@contextmanager
def parts_of(path: Path, layout: str, encoder: str | None) -> Iterator[Parts]:
    """A feature file, open: its vectors (not yet read), its coordinates as they are stated, its header."""
    layout = detect(path) if layout == "auto" else layout
    if path.suffix not in (".h5", ".hdf5"):
        array = read_array(path)
        header = Header((array.shape[0], array.shape[1]), {"layout": layout}, "unknown", None)
        yield Parts(array, nowhere(len(array)), header)
        return
    with opened(path) as file:
        try:
            yield READERS[layout](file, path, encoder)
        except KeyError as bad:
            if not str(bad).strip("'\"").startswith(("Unable to", "no ")):
                raise
            raise FeatureError(
                f"not a {layout} feature file ({str(bad)[:80]})", where=path, todo="set features.layout to its tool"
            ) from bad


def read_header(path: str | Path, layout: str = "auto", encoder: str | None = None) -> Header:
    """Shape, identity and kind of positions of a feature file, without reading its vectors."""
    with parts_of(Path(path), layout, encoder) as parts:
        return parts.header


def read_slide(
    path: str | Path,
    layout: str = "auto",
    *,
    encoder: str | None = None,
    mpp: float | None = None,
    into: np.ndarray | None = None,
) -> SlideFeatures:
    """Read the features of one slide.

    Parameters
    ----------
    path : path
        Of the file.
    layout : str
        One of `LAYOUTS`, or ``auto``.
    encoder : str, optional
        Which features, where the file holds several.
    mpp : float, optional
        Of the slide at level 0; turns micrometres (STAMP) into level-0 pixels.
    into : ndarray of float32 (N, D), optional
        Where to put the vectors.

    Raises
    ------
    FeatureError
        If the file is not of that layout, or holds NaN or infinities.
    """
    path = Path(path)
    with parts_of(path, layout, encoder) as parts:
        header, coords = parts.header, parts.coords
        if into is None:
            features = np.asarray(parts.vectors[:])
        elif hasattr(parts.vectors, "read_direct") and into.size:
            parts.vectors.read_direct(into)
            features = into
        else:
            into[:] = parts.vectors[:]
            features = into
    check_finite(features, path)
    positions, tile = header.positions, header.tile_px0
    if positions == "um" and mpp is not None:
        coords = coords / mpp
        positions, tile = "px0", None if tile is None else tile / mpp
    coords = np.rint(coords).astype(np.int64)
    return SlideFeatures(features, coords, header.identity, positions, tile)
