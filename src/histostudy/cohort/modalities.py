"""Tables beside the slides: omics, mutations, clinical covariates, one row a patient."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from histostudy.cohort.columns import Columns
from histostudy.cohort.tables import ROW, read_table
from histostudy.errors import TableError, at

if TYPE_CHECKING:
    import pandas as pd

    from histostudy.study import Modality

logger = logging.getLogger(__name__)

#: Columns of the patient table that are never a modality by themselves.
NOT_A_VALUE = ("patient_id", ROW)


@dataclass(frozen=True)
class ModalityTable:
    """A modality as its table has it; nothing is fitted yet.

    Attributes
    ----------
    name : str
    columns : list of str
        (P,) names; a column of text is one column a level, ``sex=male``.
    values : ndarray of float64, (n, P)
        NaN where a cell is missing.
    patient_ids : list of str
        (n,) patients who have the modality: those with a row that is not empty.
    groups : dict of str to list of str
        Functional groups of columns; empty where the study names none.
    """

    name: str
    columns: list[str]
    values: np.ndarray
    patient_ids: list[str]
    groups: dict[str, list[str]]


def read_modality(
    name: str, settings: Modality, patients: pd.DataFrame, source: str | Path, outcomes: Collection[str] = ()
) -> ModalityTable:
    """Read one modality for the patients of a cohort.

    Parameters
    ----------
    name : str
        As the study names it.
    settings : Modality
        Of the study.
    patients : DataFrame
        The cohort's patients; where `settings` names no table, the modality is columns of this one.
    source : str or Path
        Its name, for messages.
    outcomes : collection of str
        Columns of patients that a task predicts: never a modality.

    Raises
    ------
    TableError
        Naming file and column: a column that is not there, a patient listed twice, an infinite number, nobody with
        the modality, a group of unknown columns only.
    """
    path = settings.table or source
    table = patients if settings.table is None else read_table(settings.table)
    key = "patient_id" if "patient_id" in table else str(table.columns[0])
    table = table.rename(columns={key: "patient_id"})
    twice = table["patient_id"][table["patient_id"].duplicated()]
    if len(twice):
        raise TableError(f"patient {twice.iloc[0]!r} is there twice", where=path, todo="keep one row a patient")
    table = table[table["patient_id"].isin(set(patients["patient_id"]))].reset_index(drop=True)
    if table.empty:
        raise TableError(
            f"modality {name!r}: no patient of this cohort is in it", where=path, todo="compare the patients' ids"
        )
    chosen = _chosen(name, settings, table, path)
    if settings.table is None and (told := [c for c in chosen if c in outcomes]):
        raise TableError(f"modality {name!r}: {told[0]!r} is an outcome of this study", where=path, todo="leave it out")
    values = _numbers(table, chosen, path, every=settings.columns is not None)
    there = np.isfinite(values.to_numpy()).any(axis=1)
    if not there.any():
        raise TableError(f"modality {name!r}: every cell is missing", where=path, todo="check its columns")
    numbers = values.to_numpy()[there]
    if settings.log:
        if (numbers < 0).any():
            raise TableError(
                f"modality {name!r}: negative values cannot be logged", where=path, todo="set `log: false`"
            )
        numbers = np.log2(1 + numbers)
    columns = [str(c) for c in values.columns]
    ids = table.loc[there, "patient_id"].astype(str).tolist()
    groups = {} if settings.groups is None else _groups(settings.groups, columns)
    return ModalityTable(name, columns, numbers, ids, groups)


def read_modalities(
    settings: Mapping[str, Modality], patients: pd.DataFrame, source: str | Path, outcomes: Collection[str] = ()
) -> dict[str, ModalityTable]:
    """Read every modality of a study (see `read_modality`)."""
    return {name: read_modality(name, one, patients, source, outcomes) for name, one in settings.items()}


def _chosen(name: str, settings: Modality, table: pd.DataFrame, path: str | Path) -> list[str]:
    """Columns that the study asks for, patterns spelled out, in the order of the table."""
    known = [str(c) for c in table.columns if c not in NOT_A_VALUE]
    if settings.columns is None:
        return known
    picked: set[str] = set()
    for pattern in settings.columns:
        found = [c for c in known if fnmatchcase(c, pattern)]
        if not found:
            raise TableError(
                f"modality {name!r}: no column {pattern!r}", where=path, todo=f"it has {', '.join(known[:8])}"
            )
        picked.update(found)
    return [c for c in known if c in picked]


def _numbers(table: pd.DataFrame, names: list[str], path: str | Path, *, every: bool) -> pd.DataFrame:
    """Columns as numbers; text becomes one column a level where it was asked for by name, else is left out."""
    import pandas as pd

    out: dict[str, np.ndarray] = {}
    text: dict[str, pd.Series] = {}
    for column in names:
        found = pd.to_numeric(table[column], errors="coerce")
        for i in np.flatnonzero(np.isinf(found.to_numpy(float)))[:1]:
            row = int(table[ROW].iloc[i]) if ROW in table else None
            raise TableError(
                f"{table[column].iloc[i]!r} is not a number",
                where=at(path, row=row, column=column),
                todo="mend the cell",
            )
        if found.isna().sum() == table[column].isna().sum():
            out[column] = found.to_numpy(float)
        else:
            text[column] = table[column]
    if text and not every and out:
        logger.info("%s: %d columns are text and are left out (%s)", path, len(text), next(iter(text)))
        text = {}
    if text:
        cells = Columns(table, path).covariates(list(text))  # the words for "missing" are known there
        for column in text:
            mine = cells[column]
            if mine.dtype.kind == "f":
                out[column] = mine.to_numpy(float)
                continue
            known = mine.notna().to_numpy()
            for level in sorted(set(mine[known])):
                out[f"{column}={level}"] = np.where(known, (mine == level).to_numpy(float), np.nan)
    return pd.DataFrame(out)


def _groups(path: Path, columns: list[str]) -> dict[str, list[str]]:
    """Groups of the columns that are there, in the order of the file."""
    table = read_table(path, required=("group", "column"))
    known = set(columns)
    out: dict[str, list[str]] = {}
    for group, column in zip(table["group"].astype(str), table["column"].astype(str), strict=True):
        if column in known:
            out.setdefault(group, []).append(column)
    if not out:
        raise TableError(
            "no column of the modality is in any group", where=path, todo=f"the modality has {', '.join(columns[:4])}"
        )
    return out
