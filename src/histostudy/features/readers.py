"""What each tool's feature file says, and where it says it. Files are opened, never believed.

Read from the tools' own sources: TRIDENT, CLAM, STAMP 2.5 and older, AtlasPatch; none of their code is here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from histostudy.errors import FeatureError
from histostudy.features.store import tile_side

if TYPE_CHECKING:
    import h5py

#: STAMP's files from before it wrote sizes: 224 px a tile of 256 um.
_OLD_STAMP = (224.0, 256.0)


@dataclass
class Header:
    """What a feature file says of itself, without its vectors.

    Attributes
    ----------
    shape : tuple of int
        Tiles and width.
    identity : dict
        Encoder and what else the file states.
    positions : str
        ``px0``, ``um`` or ``unknown``.
    tile_px0 : float or None
        Side of a tile, in the unit of the positions.
    """

    shape: tuple[int, int]
    identity: dict[str, Any]
    positions: str
    tile_px0: float | None


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    import h5py

    if not path.is_file():
        raise FeatureError("no such feature file", where=path, todo="correct the path, or extract the slide")
    try:
        file = h5py.File(path, "r")
    except OSError as bad:
        reason = str(bad).splitlines()[0][:100]
        raise FeatureError(f"cannot be read as HDF5 ({reason})", where=path, todo="extract this slide again") from bad
    with file:
        yield file


@dataclass
class Parts:
    vectors: Any  # h5py dataset or array, (N, D)
    coords: np.ndarray  # int64, or float64 micrometres, to be rounded once
    header: Header


def read_array(path: Path) -> np.ndarray:
    if not path.is_file():
        raise FeatureError("no such feature file", where=path, todo="correct the path, or extract the slide")
    if path.suffix == ".pt":
        import pickle

        import torch

        try:
            value = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as bad:
            raise FeatureError("not a tensor file", where=path, todo="save the (tiles, width) tensor alone") from bad
        value = value.get("features") if isinstance(value, dict) else value
        array = value.float().numpy() if isinstance(value, torch.Tensor) else np.zeros(0)
    else:
        try:
            loaded = np.load(path, allow_pickle=False)
            array = loaded if isinstance(loaded, np.ndarray) else loaded["features"]
        except (ValueError, KeyError, EOFError) as bad:
            raise FeatureError("not a (tiles, width) array", where=path, todo="save one, named features") from bad
    return _two_axes(array, path)


def _two_axes(array: Any, path: Path) -> Any:
    """Refuse what is not (tiles, width); drop one leading axis of length 1; (0,) is a slide without tiles."""
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 1 and array.shape[0] == 0:
        return np.zeros((0, 0), np.float32)
    if array.ndim != 2:
        raise FeatureError(
            f"features have shape {tuple(array.shape)}, not (tiles, width)", where=path, todo="give tile features"
        )
    return array


def nowhere(n: int) -> np.ndarray:
    return np.full((n, 2), -1, np.int64)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _number(value: Any) -> float | None:
    if value is None:
        return None
    try:
        return float(np.asarray(value, dtype=float).ravel()[0])
    except (TypeError, ValueError, IndexError):
        return None


def _from_hdf5(
    file: h5py.File, path: Path, vectors: Any, layout: str, identity: dict[str, Any], tile: float | None
) -> Parts:
    """Assemble the parts of a file whose ``/coords`` are level-0 pixels in its first two columns."""
    vectors = _two_axes(vectors, path)
    n = vectors.shape[0]
    coords, positions = nowhere(n), "unknown"
    if "coords" in file:
        found = np.asarray(file["coords"][:])
        stated = _text(file["coords"].attrs.get("positions", file.attrs.get("positions", "px0")))
        if found.ndim != 2 or found.shape[1] < 2 or len(found) != n:
            raise FeatureError(f"{n} vectors but coords {found.shape}", where=path, todo="extract this slide again")
        if stated != "unknown" and not (n and (found < 0).all()):
            coords, positions = np.rint(found[:, :2]).astype(np.int64), "px0"
    identity = {"layout": layout, **identity}
    return Parts(vectors, coords, Header((n, vectors.shape[1]), identity, positions, tile))


def ours(attrs: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """A JSON object among attributes; None where there is none, or another tool's text of that name."""
    try:
        found = json.loads(attrs[name])
    except (KeyError, TypeError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _plain(file: h5py.File, path: Path, encoder: str | None) -> Parts:
    identity = ours(file.attrs, "identity") or {}
    if not identity and "encoder" in file.attrs:
        identity["encoder"] = _text(file.attrs["encoder"])
    attrs = file["coords"].attrs if "coords" in file else {}
    tile = tile_side(identity) or _number(attrs.get("patch_size_level0"))
    return _from_hdf5(file, path, _dataset(file, "features"), "plain", identity, tile)


def _trident(file: h5py.File, path: Path, encoder: str | None) -> Parts:
    vectors = _dataset(file, "features")
    attrs = file["coords"].attrs
    name = _text(vectors.attrs.get("encoder", path.parent.name.removeprefix("features_")))
    tile = _number(attrs.get("patch_size_level0"))
    size, level0, target = (
        _number(attrs.get(k)) for k in ("patch_size", "level0_magnification", "target_magnification")
    )
    if tile is None and size and level0 and target:
        tile = size * level0 // target
    identity = {"encoder": name, "tile_px": size and int(size), "magnification": target}
    return _from_hdf5(file, path, vectors, "trident", identity, tile)


def _clam(file: h5py.File, path: Path, encoder: str | None) -> Parts:
    identity = {"encoder": path.parent.parent.name if path.parent.name == "h5_files" else path.parent.name}
    return _from_hdf5(file, path, _dataset(file, "features"), "clam", identity, _clam_tile(file, path))


def _clam_tile(file: h5py.File, path: Path) -> float | None:
    """Side of CLAM's tiles in level-0 pixels: its `patch_size` is in pixels of `patch_level`."""
    attrs = dict(file["coords"].attrs) if "coords" in file else {}
    if "patch_size" not in attrs:
        for parent in (path.parent.parent, path.parent.parent.parent):
            beside = parent / "patches" / f"{path.stem}.h5"
            if beside.is_file() and beside != path:
                with opened(beside) as other:
                    attrs = dict(other["coords"].attrs) if "coords" in other else {}
                break
    size = _number(attrs.get("patch_size"))
    level = _number(attrs.get("patch_level", 0))
    downsample = _number(attrs.get("downsample"))
    if size is None or (downsample is None and level):
        return None
    return size * (downsample or 1.0) * (_number(attrs.get("custom_downsample", 1)) or 1.0)


def _stamp(file: h5py.File, path: Path, encoder: str | None) -> Parts:
    kind = _text(file.attrs.get("feat_type", "tile"))
    if kind != "tile":
        raise FeatureError(f"holds {kind} features", where=path, todo="give the tile features of STAMP")
    vectors = _two_axes(_dataset(file, "feats" if "feats" in file else "patch_embeddings"), path)
    n = vectors.shape[0]
    identity = {
        "layout": "stamp",
        "encoder": _text(file.attrs.get("extractor", path.parent.name)),
        "code": _text(file.attrs["code_hash"]) if "code_hash" in file.attrs else None,
        "tile_px": int(file.attrs["tile_size_px"]) if "tile_size_px" in file.attrs else None,
    }
    if "coords" not in file:
        return Parts(vectors, nowhere(n), Header((n, vectors.shape[1]), identity, "unknown", None))
    places = np.asarray(file["coords"][:], np.float64)
    if places.shape != (n, 2):
        raise FeatureError(f"{n} vectors but coords {places.shape}", where=path, todo="extract this slide again")
    size = _number(file.attrs.get("tile_size_um"))
    if size is None and _text(file.attrs.get("unit", "")) == "um":
        size = _number(file.attrs.get("tile_size"))
    if size is None:
        pixels, size = _OLD_STAMP
        steps = np.diff(np.unique(places[:, 0]))
        if not len(steps) or abs(steps.min() - pixels) > 4:
            raise FeatureError(
                "states no tile size, so its coordinates have no unit",
                where=path,
                todo="extract it with STAMP 2.1 or later",
            )
        places = places / pixels * size
    header = Header((n, vectors.shape[1]), identity, "um", size)
    return Parts(vectors, places, header)


def _atlaspatch(file: h5py.File, path: Path, encoder: str | None) -> Parts:
    group = file["features"]
    names = sorted(k for k in group if not k.startswith("__tmp"))
    if encoder is None and len(names) == 1:
        encoder = names[0]
    if encoder not in names:
        raise FeatureError(
            f"holds features of {', '.join(names) or 'no encoder'}", where=path, todo="export one encoder's features"
        )
    identity = {
        "encoder": encoder,
        "tile_px": int(file.attrs["patch_size"]) if "patch_size" in file.attrs else None,
        "magnification": _number(file.attrs.get("target_magnification")),
    }
    return _from_hdf5(file, path, group[encoder], "atlaspatch", identity, _number(file.attrs.get("patch_size_level0")))


def _dataset(file: h5py.File, name: str) -> Any:
    import h5py

    if not isinstance(file.get(name), h5py.Dataset):
        raise FeatureError(f"has no /{name}", where=file.filename, todo="set features.layout to the tool that wrote it")
    return file[name]


READERS: dict[str, Callable[[h5py.File, Path, str | None], Parts]] = {
    "plain": _plain,
    "trident": _trident,
    "clam": _clam,
    "stamp": _stamp,
    "atlaspatch": _atlaspatch,
}
