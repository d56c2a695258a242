"""The folder of a run: its files, whether what lies there still holds, and what identities are made of."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from histostudy.errors import StudyError
from histostudy.files import read_json, sha256, write_json, write_table

if TYPE_CHECKING:
    import pandas as pd

FILES = ("weights.safetensors", "predictions.parquet", "history.csv")
RESTORE = "get it back with dvc checkout; or delete the run's folder and runs.parquet beside it, and run again"
#: The rows of all runs of a model, beside their folders.
INDEX = "runs.parquet"
#: Predictions after every epoch, of a traced training.
EPOCHS = "epochs.parquet"
#: Classes called from few tiles a class, of prototypes.
SHOTS = "few_shot.parquet"


def forget(out_dir: Path, runs: set[str]) -> None:
    """Delete runs of folds that the study no longer has: nothing may pool them with today's."""
    for folder in out_dir.glob("r*f*"):
        if folder.is_dir() and folder.name not in runs:
            shutil.rmtree(folder)


def digest_of_arrays(*parts: Any) -> str:
    """SHA-256 of arrays, by their bytes, and of lists of names."""
    digest = hashlib.sha256()
    for part in parts:
        array = np.asarray([] if part is None else part)
        if array.dtype.kind not in "fiub":
            array = np.frombuffer("\x1f".join(map(str, array)).encode(), dtype="uint8")
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def kept(folder: Path, identity: str) -> dict[str, Any] | None:
    """The row of a run that still holds, or None."""
    record = folder / "run.json"
    if not record.is_file():
        return None
    try:
        run = read_json(record)
    except ValueError:  # half-written by a killed job of an older version
        return None
    files = run.pop("files", {})
    if run.get("identity") != identity or set(files) - {EPOCHS, SHOTS} != set(FILES):
        return None
    for name, checksum in files.items():
        if not (folder / name).is_file() or sha256(folder / name) != checksum:
            return None
    return {**run, "status": "kept"}


def write_record(folder: Path, run: dict[str, Any], names: Iterable[str]) -> None:
    """Write what a later call knows a run by: its row and the checksums of its files, not the time it took."""
    row = {key: value for key, value in run.items() if key != "seconds"}
    write_json(folder / "run.json", {**row, "files": {name: sha256(folder / name) for name in names}})


def as_trained(folder: Path, name: str) -> Path:
    """The path of a file of a run that still has the checksum of its record ``run.json``.

    Raises
    ------
    StudyError
        If the file or the record is gone, or one of them was changed.
    """
    try:
        recorded = read_json(folder / "run.json")["files"].get(name)
    except (OSError, ValueError, KeyError):
        raise StudyError("is gone, or cannot be read", where=folder / "run.json", todo=RESTORE) from None
    return unchanged(folder / name, recorded)


def unchanged(path: Path, recorded: str | None) -> Path:
    """The path of a file of a run that has the checksum that was recorded.

    Raises
    ------
    StudyError
        If the file is gone or another.
    """
    if not path.is_file() or sha256(path) != recorded:
        raise StudyError("is gone, or not as training wrote it", where=path, todo=RESTORE)
    return path


def write_index(folder: Path, index: pd.DataFrame, timings: bool) -> None:
    """Write the rows of a model's runs: the same bytes whether they were trained now or kept.

    Parameters
    ----------
    folder : Path
        Gets ``runs.parquet``.
    index : DataFrame
        One row a run.
    timings : bool
        Whether to keep the seconds that those trained now took, which no other run will take again.
    """
    passing = ["status", *([] if timings else ["seconds"])]
    index = index.drop(columns=passing, errors="ignore")
    # a row that was kept comes from JSON, with its keys in their order
    first = [column for column in ("repeat", "fold") if column in index]
    write_table(folder / INDEX, index[first + sorted(set(index.columns) - set(first))])
