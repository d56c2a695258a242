"""Folds that a column of the patient table names: the number of the fold that tests each patient, or train and test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from histostudy.cohort.identifiers import is_missing
from histostudy.cohort.tables import ROW
from histostudy.errors import SplitError, at
from histostudy.seeds import derive_seed
from histostudy.splits.folds import TEST, as_frame, inner_parts
from histostudy.splits.strata import strata_of

if TYPE_CHECKING:
    import pandas as pd

    from histostudy.cohort.outcomes import Outcome
    from histostudy.study import Splits


def folds_of_column(
    patients: pd.DataFrame, outcomes: Sequence[Outcome], splits: Splits, seed: int, source: str = "patients.csv"
) -> pd.DataFrame:
    """Take the test folds from `splits.column`; inner parts are drawn, anew in each repeat.

    A patient without a number takes part in no fold. A column of the words ``train`` and ``test`` is one fold, in which
    those who train are never tested.

    Raises
    ------
    SplitError
        If there is no such column, a cell is no whole number, or there is one fold only, or one of the words.
    """
    column = str(splits.column)
    if column not in patients:
        raise SplitError(f"no column {column!r}", where=source, todo="splits.column names a column of patients")
    table = patients.sort_values("patient_id", ignore_index=True)
    known = np.array([not is_missing(str(c)) and c == c for c in table[column]])
    table = table[known].reset_index(drop=True)
    ids, fold_of = table["patient_id"].to_numpy(dtype=object), np.zeros(len(table), int)
    words = [str(cell).strip().lower() for cell in table[column]]
    published = set(words) == {"train", "test"}
    for i, cell in enumerate(table[column] if not published else ()):
        try:
            fold_of[i] = int(float(cell))
            if fold_of[i] != float(cell):
                raise ValueError
        except (ValueError, OverflowError):
            row = int(table[ROW].iloc[i]) if ROW in table else None
            raise SplitError(
                f"{cell!r} is no fold",
                where=at(source, row=row, column=column),
                todo="write whole numbers, or train and test",
            ) from None
    if published:
        fold_of = np.where(np.array(words) == "test", 0, -1)
    folds = [0] if published else sorted(set(fold_of.tolist()))
    if len(folds) < 2 and not published:
        raise SplitError(f"{len(folds)} fold only", where=at(source, column=column), todo="two at least")
    labels, _ = strata_of(ids, outcomes if splits.stratify else (), len(folds))
    rows: list[tuple[int, int, str, str]] = []
    for repeat in range(splits.repeats):
        for fold in folds:
            rng = np.random.default_rng(derive_seed(seed, "splits", "column", repeat, fold))
            part = np.full(len(ids), TEST, dtype=object)
            training = np.flatnonzero(fold_of != fold)
            part[training] = inner_parts(labels[training], splits.inner, rng)
            rows.extend((repeat, fold, p, q) for p, q in zip(ids, part, strict=True))
    return as_frame(rows)
