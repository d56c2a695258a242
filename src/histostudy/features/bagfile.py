"""Bags on disk: plain arrays that every job of a study maps into memory, written once.

A folder of ``features.npy`` (T, D), ``offsets.npy``, ``coords.npy``, ``slide_index.npy`` and the record ``bags.json``,
which comes last and says what the arrays are: sizes, checksums, patients, slides, and each feature file that went in.
Parents of the tiles at coarser scales are bags of their own in the folder ``coarser``, with ``scales.npy``.
Jobs of one machine share the pages; a bag that is not asked for is not read. Features are stored as float16 where each
of them is one exactly, which halves the file and loses nothing.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from histostudy.errors import FeatureError
from histostudy.features.bags import Bags
from histostudy.files import atomic, fingerprint, read_json, sha256, write_json

RECORD = "bags.json"
ARRAYS = ("features", "offsets", "coords", "slide_index")
FILES = (RECORD, *(f"{name}.npy" for name in ARRAYS))
#: Folder of the bags of the parents.
COARSER = "coarser"
COARSER_FILES = tuple(f"{COARSER}/{name}" for name in (*FILES, "scales.npy"))
FORMAT = 1
#: Bytes of features held at a time while they are written.
BLOCK_BYTES = 1 << 26
#: What of the record says what the bags are; their digest is of these and of the arrays' checksums.
FACTS = ("patient_ids", "slide_ids", "identity", "positions", "tile_px0")


def unnamed_file(folder: str | Path) -> Callable[[tuple[int, int]], np.ndarray]:
    """Something that allocates float32 arrays in a file without a name, for bags that memory does not hold.

    Parameters
    ----------
    folder : path
        Where the file takes its room; it is gone with the array.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)

    def allocate(shape: tuple[int, int]) -> np.ndarray:
        with tempfile.TemporaryFile(dir=folder) as file:
            return np.memmap(file, np.float32, "w+", shape=shape)  # type: ignore[call-overload]

    return allocate


def write_bags(bags: Bags, folder: str | Path, sources: Mapping[str, Any] | None = None) -> str:
    """Write bags; a folder without its record holds none.

    Parameters
    ----------
    bags : Bags
        In memory, or in a file (see `unnamed_file`): no more than `BLOCK_BYTES` of the features is held at a time.
    folder : path
        Whatever bags it holds are replaced; a job that has them mapped keeps the old ones.
    sources : mapping, optional
        What each slide's rows were read from: JSON-like, by slide.

    Returns
    -------
    str
        SHA-256 of all that the bags are: 64 hex digits. The same bags give the same, whatever they were read from.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).unlink(missing_ok=True)
    arrays = {}
    names = ARRAYS if bags.scales is None else (*ARRAYS, "scales")
    shutil.rmtree(folder / COARSER, ignore_errors=True)
    coarser = None if bags.coarser is None else write_bags(bags.coarser, folder / COARSER)
    for name in names:
        path, array = folder / f"{name}.npy", np.asarray(getattr(bags, name))
        dtype = np.dtype(np.float16) if name == "features" and _halves(array) else array.dtype
        with atomic(path) as temporary:
            _write_array(temporary, array, dtype)
        arrays[name] = {
            "dtype": dtype.str, "shape": list(array.shape), "bytes": path.stat().st_size, "sha256": sha256(path),
            "fingerprint": fingerprint(path),
        }  # fmt: skip
    record = {name: getattr(bags, name) for name in FACTS} | {"arrays": arrays, "format": FORMAT}
    record["sources"] = dict(sources or {})
    if coarser is not None:
        record["coarser"] = coarser
    record["digest"] = _digest(record)
    write_json(folder / RECORD, record)
    return record["digest"]


def open_bags(folder: str | Path, sources: Mapping[str, Any] | None = None) -> Bags:
    """Map the bags of a folder into memory, read-only.

    Each file's size, type, shape and fingerprint (see `histostudy.files.fingerprint`) must be those of the record.

    Parameters
    ----------
    folder : path
        As `write_bags` left it.
    sources : mapping, optional
        What the slides' rows must have been read from.

    Raises
    ------
    FeatureError
        If the folder holds no bags, a file is not as it was written, or they were made from other files.
    """
    folder = Path(folder)
    path = folder / RECORD
    again = "make them again: histostudy bags --study FILE"
    if not path.is_file():
        raise FeatureError("no bags have been made", where=folder, todo=again)
    try:
        record = read_json(path)
        if record["format"] != FORMAT or record["digest"] != _digest(record):
            raise FeatureError("the record of the bags is not as it was written", where=path, todo=again)
        made_from, facts = record["sources"], {name: record[name] for name in FACTS}
        arrays = {name: record["arrays"][name] for name in record["arrays"]}
        if missing := set(ARRAYS) - set(arrays):
            raise KeyError(sorted(missing)[0])
    except (ValueError, KeyError, TypeError) as bad:
        raise FeatureError("is no record of bags", where=path, todo=again) from bad
    if sources is not None and made_from != json.loads(json.dumps(sources)):
        slide = next(s for s in sorted({*made_from, *sources}) if made_from.get(s) != _plain(sources.get(s)))
        raise FeatureError(f"the bags were made from other features (slide {slide})", where=path, todo=again)
    mapped: dict[str, Any] = {name: _map(folder / f"{name}.npy", facts_of, again) for name, facts_of in arrays.items()}
    coarser = open_bags(folder / COARSER) if "coarser" in record else None
    if coarser is not None and coarser.digest != record["coarser"]:
        raise FeatureError("its parents at coarser scales are those of other bags", where=path, todo=again)
    return Bags(**mapped, **facts, digest=record["digest"], coarser=coarser)


def _plain(value: Any) -> Any:
    """A JSON-like value as JSON gives it back."""
    return json.loads(json.dumps(value))


def _digest(record: Mapping[str, Any]) -> str:
    """SHA-256 of what the bags are, not of where they came from."""
    import hashlib

    sums = [[name, facts["sha256"]] for name, facts in sorted(record["arrays"].items(), key=_place_of)]
    own: list[Any] = [{name: record[name] for name in FACTS}, sums]
    text = json.dumps(own + ([record["coarser"]] if "coarser" in record else []), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _place_of(item: tuple[str, Any]) -> int:
    """Place of an array among `ARRAYS`; scales come after them."""
    return ARRAYS.index(item[0]) if item[0] in ARRAYS else len(ARRAYS)


def _blocks(array: np.ndarray) -> Iterator[slice]:
    """Rows of an array, about `BLOCK_BYTES` at a time."""
    rows = max(1, BLOCK_BYTES // max(1, array[:1].nbytes))
    for first in range(0, len(array), rows):
        yield slice(first, min(first + rows, len(array)))


def _halves(array: np.ndarray) -> bool:
    """Whether each number is a float16 exactly."""
    for rows in _blocks(array):
        block = array[rows]
        with np.errstate(over="ignore"):
            if not np.array_equal(block.astype(np.float16).astype(block.dtype), block):
                return False
    return True


def _write_array(path: Path, array: np.ndarray, dtype: np.dtype) -> None:
    """Write a ``.npy`` block by block."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": array.shape}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for rows in _blocks(array):
            file.write(np.ascontiguousarray(array[rows], dtype).data)


def _map(path: Path, facts: Mapping[str, Any], again: str) -> np.ndarray:
    """An array of the folder, read-only; pages come from the disk as they are touched."""
    if not path.is_file() or path.stat().st_size != facts["bytes"] or fingerprint(path) != facts["fingerprint"]:
        raise FeatureError("is gone, or not as it was written", where=path, todo=again)
    array = np.load(path, mmap_mode="r") if np.prod(facts["shape"]) else np.load(path)
    if array.dtype.str != facts["dtype"] or list(array.shape) != facts["shape"]:
        raise FeatureError("is not the array that the record names", where=path, todo=again)
    return np.asarray(array)
