"""A slide table from a folder of slides, or of features."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from histostudy.cohort.identifiers import check_id
from histostudy.errors import ConfigError, TableError

if TYPE_CHECKING:
    import pandas as pd

SLIDE_SUFFIXES = frozenset(
    {
        *(".svs", ".tif", ".tiff", ".ome.tif", ".ome.tiff", ".qptiff", ".svslide", ".scn", ".bif"),
        *(".ndpi", ".mrxs", ".vms", ".vmu", ".czi", ".dcm", ".isyntax"),
    }
)
FEATURE_SUFFIXES = frozenset({".h5", ".hdf5", ".pt", ".npy", ".npz"})


def slide_id_of(path: Path) -> str | None:
    """File name without the suffix of a slide or feature file; None for another file.

    Only known suffixes are taken off, as a name may hold dots (``TCGA-...-DX1.F6E9A5DF-....svs``).
    """
    name = path.name
    for suffix in sorted(SLIDE_SUFFIXES | FEATURE_SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)] or None
    return None


def find_files(folder: str | Path) -> dict[str, Path]:
    """Slide or feature files under a folder, by slide id, sorted.

    Raises
    ------
    TableError
        If the folder is not there, holds none, or holds two files of one name.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise TableError("no such folder", where=folder, todo="name the folder that holds the slides or features")
    found: dict[str, Path] = {}
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in sorted(names):
            path = Path(root, name)
            slide_id = None if name.startswith(".") else slide_id_of(path)
            if slide_id is None:
                continue
            if slide_id in found:
                raise TableError(
                    f"two files of slide {slide_id!r}: {found[slide_id]} and {path}",
                    where=folder,
                    todo="move one away, or name the subfolder that is meant",
                )
            found[slide_id] = path
    if not found:
        raise TableError("no slides and no features in this folder", where=folder, todo="check the path")
    return dict(sorted(found.items()))


def slides_of_folder(folder: str | Path, out: str | Path | None = None, patient: str | None = None) -> pd.DataFrame:
    r"""Slide table of a folder: one row a file.

    Parameters
    ----------
    folder : str or Path
        Searched with its subfolders.
    out : str or Path, optional
        Where the table is to lie: paths become relative to its folder.
    patient : str, optional
        Regular expression whose first group in the slide id is the patient, such as ``(P\d+)_``. Default: a TCGA
        barcode's patient, else the slide id (one slide a patient).

    Returns
    -------
    DataFrame
        `slide_id`, `patient_id`, `path`.

    Raises
    ------
    ConfigError
        If `patient` is no regular expression with a group.
    TableError
        As `find_files`, and for a slide id that does not match.
    """
    import pandas as pd

    from histostudy.cohort.barcodes import parse_barcode

    pattern = None
    if patient is not None:
        try:
            pattern = re.compile(patient)
        except re.error as error:
            raise ConfigError(f"{patient!r} is no regular expression: {error}", todo=r"such as '^(P\d+)_'") from None
        if pattern.groups < 1:
            raise ConfigError(f"{patient!r} has no group", todo=r"put the patient in brackets, such as '^(P\d+)_'")
    rows = []
    for i, (slide_id, path) in enumerate(find_files(folder).items()):
        check_id(slide_id, folder, i + 2, "slide_id")
        if pattern is not None:
            match = pattern.search(slide_id)
            if match is None or not match.group(1):
                raise TableError(f"{slide_id!r} does not match {patient!r}", where=path, todo="widen the expression")
            patient_id = match.group(1)
        else:
            barcode = parse_barcode(slide_id)
            patient_id = barcode.patient if barcode else slide_id
        rows.append((slide_id, patient_id, relative(path, out)))
    return pd.DataFrame(rows, columns=["slide_id", "patient_id", "path"])


def relative(path: Path, table: str | Path | None) -> str:
    """`path` as it is written into `table`: relative to the table's folder."""
    return str(path) if table is None else os.path.relpath(path, Path(table).parent)
