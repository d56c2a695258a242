"""Table 1: who the patients are, by the first task's class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from histostudy.cohort.identifiers import is_missing
from histostudy.cohort.tables import ROW

if TYPE_CHECKING:
    import pandas as pd

    from histostudy.cohort.outcomes import Outcome

#: Shown where the patients have them, before what the tasks name.
USUAL = ("age", "sex", "race", "project", "stage", "grade", "histology", "site")
MAX_LEVELS = 8
#: A column of numbers with fewer different values than this is shown as categories (0/1, ...).
MIN_VALUES = 6


def columns_of(patients: pd.DataFrame, outcomes: Sequence[Outcome]) -> list[str]:
    """Columns a reader expects: the usual ones, covariates and outcomes of the tasks, in that order."""
    wanted = [*USUAL]
    for outcome in outcomes:
        wanted.extend(outcome.task.adjust)
    for outcome in outcomes:
        wanted.extend(getattr(outcome.task, key) for key in ("target", "time", "event") if hasattr(outcome.task, key))
    found = [c for c in dict.fromkeys(wanted) if c in patients]
    if not found:
        found = [str(c) for c in patients.columns if c not in ("patient_id", ROW)][:12]
    return [c for c in found if patients[c].notna().any()]


def table_one(
    patients: pd.DataFrame, outcomes: Sequence[Outcome] = (), columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """Describe the patients, overall and by the classes of the first classification task.

    Numbers as median [quartiles], categories as n (%) of those known, rare levels of a long list as "other". No p
    values: the groups are not drawn at random. With two classes the standardised mean difference is given.

    Parameters
    ----------
    patients : DataFrame
        One row a patient.
    outcomes : sequence of Outcome
        The study's tasks.
    columns : sequence of str, optional
        What to show (default: `columns_of`).

    Returns
    -------
    DataFrame
        Text: `variable`, `level`, `missing`, `overall`, one column a class, and `smd` for two classes.
    """
    import pandas as pd
    from tableone import TableOne

    first = next((o for o in outcomes if o.kind == "classification"), None)
    strata = None if first is None else str(getattr(first.task, "target", ""))
    shown = [c for c in (columns_of(patients, outcomes) if columns is None else columns) if c != strata]
    frame = pd.DataFrame({c: _values(patients[c]) for c in shown}, index=patients.index)
    numeric = [c for c in shown if frame[c].dtype.kind == "f"]
    if first is not None:
        label_of = dict(zip(first.patient_ids, np.asarray(first.classes)[first.y.astype(int)], strict=True))
        frame["_group"] = [label_of.get(p, "no label") for p in patients["patient_id"]]
    if not shown:
        groups = frame["_group"].value_counts() if first is not None else pd.Series(dtype=int)
        ordered = _ordered(groups.index, first)
        counts = {"overall": str(len(frame))} | {g: str(groups[g]) for g in ordered}
        return pd.DataFrame([{"variable": "n", "level": "", "missing": "", **counts}])
    groups_shown = [] if first is None else _ordered(frame["_group"].unique(), first)
    two = len([g for g in groups_shown if g != "no label"]) == 2 and "no label" not in groups_shown
    made = TableOne(
        frame,
        columns=shown,
        categorical=[c for c in shown if c not in numeric],
        continuous=numeric,
        nonnormal=numeric,
        groupby="_group" if first is not None else None,
        pval=False,
        smd=two,
        missing=True,
        include_null=False,
        overall=True,
    ).tableone
    made.columns = [str(c[-1] if isinstance(c, tuple) else c) for c in made.columns]
    made = made.reset_index()
    made.columns = ["variable", "level", *[_name(c) for c in made.columns[2:]]]
    made["variable"] = made["variable"].str.replace(r", (median \[Q1,Q3\]|n \(%\))$", "", regex=True)
    made = made[["variable", "level", "missing", "overall", *groups_shown, *(["smd"] if two else [])]]
    return made.fillna("").astype("str").replace("nan", "").reset_index(drop=True)


def _ordered(groups: object, first: Outcome | None) -> list[str]:
    """Classes in the order of the task, those without a label last."""
    found = set(groups)  # type: ignore[call-overload]
    classes = [] if first is None else first.classes
    return [g for g in [*classes, "no label"] if g in found]


def _name(column: str) -> str:
    return {"Missing": "missing", "Overall": "overall"}.get(column, "smd" if column.startswith("SMD") else column)


def _values(column: pd.Series) -> pd.Series:
    """Numbers as float, everything else as text with the rare levels of a long list put together."""
    import pandas as pd

    text = column.astype("string")
    text = text.where(~text.fillna("").map(lambda c: is_missing(c.strip())))
    numbers = pd.to_numeric(text, errors="coerce").astype("float64")
    if numbers.notna().sum() == text.notna().sum() and numbers.nunique() >= MIN_VALUES:
        return numbers
    if numbers.notna().sum() == text.notna().sum() and (numbers.dropna() % 1 == 0).all():
        text = numbers.astype("Int64").astype("string")
    counts = text.value_counts()
    if len(counts) > MAX_LEVELS:
        rare = sorted(counts.index, key=lambda level: (-counts[level], level))[MAX_LEVELS - 1 :]
        text = text.where(~text.isin(rare), f"other ({len(rare)})")
    return text.astype(object).where(text.notna(), None)
