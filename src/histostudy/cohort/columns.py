"""Columns of a patient table as checked cells, and what is said of patients who lack them."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np

from histostudy.cohort.identifiers import is_missing
from histostudy.cohort.tables import ROW, number
from histostudy.errors import TableError, at
from histostudy.seeds import derive_seed

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from histostudy.tasks import Task


#: Fields of an `Outcome`, and the patients left out with reasons.
Found = tuple[dict[str, Any], dict[str, str]]


class Columns:
    """Columns of the patient table as checked cells."""

    def __init__(self, table: pd.DataFrame, source: str | Path) -> None:
        self.table, self.source = table, source
        self.ids = [str(p) for p in table["patient_id"]]
        self.rows = [int(r) for r in table[ROW]] if ROW in table else list(range(2, len(table) + 2))

    def cells(self, column: str) -> list[str | None]:
        """Stripped text of a column, None where missing."""
        if column not in self.table:
            names = [str(c) for c in self.table.columns if c not in ("patient_id", ROW)]
            close = get_close_matches(column, names, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}?" if close else f"its columns are {', '.join(names[:8]) or 'none'}"
            raise TableError(f"no column {column!r}", where=self.source, todo=hint)
        text = (None if c is None or c != c else str(c).strip() for c in self.table[column])
        return [None if c is None or is_missing(c) else c for c in text]

    def numbers(self, column: str, what: str = "a number") -> np.ndarray:
        """A column as float64, NaN where missing."""
        cells = self.cells(column)
        values = [
            np.nan if c is None else number(c, self.source, r, column, what)
            for c, r in zip(cells, self.rows, strict=True)
        ]
        return np.array(values, dtype=np.float64)

    def block(self, columns: list[str]) -> np.ndarray:
        """Columns as float64 (n, columns); thousands of genes at once where every cell is plainly a number."""
        if not set(columns) - set(self.table.columns):
            try:
                values = self.table[columns].to_numpy(dtype=object).astype(np.float64)
            except (TypeError, ValueError):  # a word: the slow way says which, or knows it for missing
                values = np.full((len(self.ids), len(columns)), np.inf)
            if not np.isinf(values).any():
                return values
        return np.column_stack([self.numbers(column) for column in columns])

    def where(self, column: str, i: int | None = None) -> str:
        """Name a cell or a column."""
        return at(self.source, row=None if i is None else self.rows[i], column=column)

    def covariates(self, columns: list[str]) -> pd.DataFrame:
        """Columns as float64 where every cell is a number, as text otherwise."""
        import pandas as pd

        out: dict[str, Any] = {}
        for column in columns:
            cells = self.cells(column)
            try:
                out[column] = pd.array([np.nan if c is None else float(c) for c in cells], dtype="float64")
            except ValueError:
                out[column] = pd.array(cells, dtype="str")
            if all(c is None for c in cells):
                raise TableError("every cell is missing", where=self.where(column), todo="take it out of `adjust`")
        return pd.DataFrame(out, index=pd.Index(self.ids, name="patient_id", dtype="str"))


def somebody(present: np.ndarray, columns: Columns, column: str, task: Task) -> None:
    """Refuse a task whose outcome nobody has."""
    if not present.any():
        raise TableError(
            f"no patient of this cohort has the outcome of task {task.name!r}",
            where=columns.where(column),
            todo="check the column, and that the ids of both tables are written alike",
        )


def permuted(values: dict[str, Any], seed: int) -> dict[str, Any]:
    """Outcomes shuffled among their units; what belongs together (time and event, genes) stays together."""
    order = np.random.default_rng(derive_seed(seed, "permute")).permutation(len(values["y"]))
    return {k: v[order] if isinstance(v, np.ndarray) else v for k, v in values.items()}


def missing(columns: Columns, present: np.ndarray, reason: str) -> dict[str, str]:
    """The patients who are not `present`, with the reason."""
    return {p: reason for p, ok in zip(columns.ids, present, strict=True) if not ok}
