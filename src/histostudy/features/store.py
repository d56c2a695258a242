"""One HDF5 file a slide: vectors, where they are, and what made them.

``/features`` (N, D) float32 or float16, contiguous (a bag is read whole, or some rows of it: 3 to 4 times
faster than the row-wise chunks of other tools); ``/coords`` (N, 2) int64, level-0 pixels of each tile's top
left, with TRIDENT's attributes; root attribute ``identity``, JSON. The same input gives the same bytes.
Parents at a coarser scale (see `histostudy.tiles.coarser`) are beside them as ``/features@<um per pixel>``,
``/coords@...`` and ``/parent@...``, the row of each tile's parent.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from histostudy.errors import FeatureError, at
from histostudy.files import atomic, digest_of

if TYPE_CHECKING:
    from histostudy.tiles.coarser import CoarserTiles

#: What decides the numbers of a vector; the rest of an identity is the slide's own.
ENCODING = (
    "encoder", "weights_sha256", "revision", "variant", "transform", "precision", "runtime", "mpp_requested", "tile_px",
    "overlap_px", "code", "layout", "dtype", "stain",
    "jpeg_scale", "scales",
)  # fmt: skip

Put = Callable[..., None]


@dataclass
class SlideFeatures:
    """Features of one slide.

    Attributes
    ----------
    features : ndarray (N, D)
    coords : ndarray of int64 (N, 2)
        Level-0 pixels (`positions` ``px0``), micrometres (``um``), or -1 (``unknown``).
    identity : dict
        What made them.
    positions : str
        ``px0``, ``um`` or ``unknown``.
    tile_px0 : float or None
        Side of a tile in level-0 pixels, or in micrometres where `positions` is ``um``; None: not stated.
    """

    features: np.ndarray
    coords: np.ndarray
    identity: dict[str, Any] = field(default_factory=dict)
    positions: str = "px0"
    tile_px0: float | None = None


def encoding_of(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Part of an identity that all slides of a study must share."""
    return {k: identity[k] for k in ENCODING if identity.get(k) is not None}


def check_finite(block: np.ndarray, path: str | Path, first_row: int = 0) -> None:
    """Refuse NaN and infinities.

    Raises
    ------
    FeatureError
        Naming the file, the row and the column of the first (both from 0, as in the file).
    """
    if np.isfinite(block.sum(dtype=np.float64)) or np.isfinite(block).all():
        return
    row, column = np.argwhere(~np.isfinite(block))[0]
    value = block[row, column]
    raise FeatureError(
        f"feature is {value} (not a finite number)",
        where=at(path, row=first_row + int(row), column=str(int(column))),
        todo="extract this slide again, or leave it out of slides.csv",
    )


@contextmanager
def writing(
    path: str | Path,
    *,
    coords: np.ndarray,
    dim: int,
    identity: Mapping[str, Any],
    dtype: str = "float32",
    coords_attrs: Mapping[str, Any] | None = None,
    positions: str = "px0",
    coarser: Sequence[CoarserTiles] = (),
) -> Iterator[Put]:
    """Write a feature file block by block: ``put(first row, vectors)``. It appears whole or not at all.

    Vectors of parents at a coarser scale: ``put(first row, vectors, um per pixel)``.

    Parameters
    ----------
    path : path
        ``<slide>.h5``.
    coords : ndarray (N, 2)
        Level-0 pixels.
    dim : int
        Width of a vector.
    identity : mapping
        What made the vectors.
    dtype : str
        ``float32`` or ``float16``.
    coords_attrs : mapping, optional
        Attributes of ``/coords`` (TRIDENT's).
    positions : str
        ``px0`` or ``unknown``.
    coarser : sequence of CoarserTiles
        The parents of the tiles.

    Raises
    ------
    FeatureError
        If a vector is not finite (in `dtype`), or rows are missing at the end.
    """
    import h5py

    path = Path(path)
    coords = np.asarray(coords, np.int64).reshape(-1, 2)
    done: dict[float | None, int] = {None: 0}
    with atomic(path) as temporary, h5py.File(temporary, "w") as file:
        features = file.create_dataset("features", (len(coords), dim), dtype, track_times=False)
        where = file.create_dataset("coords", data=coords, track_times=False)
        for key, value in sorted((coords_attrs or {}).items()):
            where.attrs[key] = value
        where.attrs["positions"] = positions
        file.attrs["encoder"] = str(identity.get("encoder", ""))
        file.attrs["identity"] = json.dumps(identity, sort_keys=True)
        file.attrs["positions"] = positions

        vectors: dict[float | None, Any] = {None: features}
        for one in coarser:
            vectors[one.mpp] = file.create_dataset(f"features@{one.mpp:g}", (len(one), dim), dtype, track_times=False)
            vectors[one.mpp].attrs["mpp"] = one.mpp
            file.create_dataset(f"coords@{one.mpp:g}", data=one.coords, track_times=False)
            file.create_dataset(f"parent@{one.mpp:g}", data=one.parent, track_times=False)
            done[one.mpp] = 0

        def put(first: int, block: np.ndarray, mpp: float | None = None) -> None:
            with np.errstate(over="ignore"):
                block = np.ascontiguousarray(block, dtype)
            check_finite(block, path, first)
            vectors[mpp][first : first + len(block)] = block
            done[mpp] += len(block)

        yield put
        wanted, written = sum(map(len, vectors.values())), sum(done.values())
        if written != wanted:
            raise FeatureError(f"{written} of {wanted} vectors written", where=path, todo="report this as a bug")


def write_features(
    path: str | Path,
    features: np.ndarray,
    coords: np.ndarray,
    identity: Mapping[str, Any],
    **options: Any,
) -> None:
    """Write a feature file from arrays in memory; see `writing` for the options."""
    dtype = options.pop("dtype", "float16" if features.dtype == np.float16 else "float32")
    with writing(path, coords=coords, dim=features.shape[1], identity=identity, dtype=dtype, **options) as put:
        if len(features):
            put(0, features)


def read_coarser(path: str | Path, mpp: float) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (M, D) and level-0 places (M, 2) of a slide's parents at a coarser scale.

    Raises
    ------
    FeatureError
        If the file has none at this scale, or holds NaN or infinities.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            features, coords = file[f"features@{mpp:g}"][:], file[f"coords@{mpp:g}"][:]
    except (OSError, KeyError) as bad:
        raise FeatureError(f"holds no tiles at {mpp:g} um/px", where=path, todo="run the embed stage again") from bad
    check_finite(features, path)
    return features, coords


def read_features(path: str | Path) -> SlideFeatures:
    """Read a feature file of our own.

    Raises
    ------
    FeatureError
        If it is not one, or holds NaN or infinities.
    """
    import h5py

    path = Path(path)
    try:
        with h5py.File(path, "r") as file:
            features, coords = np.asarray(file["features"][:]), np.asarray(file["coords"][:])
            identity = json.loads(file.attrs["identity"])
            positions = str(file.attrs["positions"])
    except (OSError, KeyError) as bad:
        reason = str(bad).splitlines()[0][:100]
        raise FeatureError(f"not a feature file of histostudy ({reason})", where=path, todo="extract it again") from bad
    check_finite(features, path)
    return SlideFeatures(features, coords, identity, positions, tile_side(identity))


def tile_side(identity: Mapping[str, Any]) -> float | None:
    """Side of a tile in level-0 pixels, not rounded; None where the identity does not say."""
    if not all(identity.get(k) for k in ("tile_px", "mpp_requested", "mpp_slide")):
        return None
    return float(identity["tile_px"] * identity["mpp_requested"] / identity["mpp_slide"])


def identity_digest(identity: Mapping[str, Any]) -> str:
    """Short digest of the part of an identity that slides share."""
    return digest_of(encoding_of(identity))
