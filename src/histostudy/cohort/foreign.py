"""Predictions made elsewhere, published or another program's, as a model of a study: taken as they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from histostudy.cohort.tables import ROW, number, read_table
from histostudy.errors import TableError

if TYPE_CHECKING:
    import pandas as pd

    from histostudy.cohort.outcomes import Outcome


class ForeignPredictions:
    """Out-of-fold predictions from a file.

    Parameters
    ----------
    path : path
        CSV: `patient_id`, optionally `task`, `repeat` and `fold`, and the columns of the task's kind: `risk` [and
        ``surv_<days>``], ``prob_<class>``, `prediction`, or ``pred_<gene>``.
    outcome : Outcome
        Of the task.

    Raises
    ------
    TableError
        Naming the file and what it lacks, or the cell of a repeat or fold that is no number.
    """

    def __init__(self, path: str | Path, outcome: Outcome) -> None:
        self.path, self.outcome = path, outcome
        table = read_table(path, required=("patient_id",))
        if "task" in table:
            table = table[table["task"] == outcome.name]
            if table.empty:
                raise TableError(f"no row of task {outcome.name!r}", where=path, todo="check its column task")
        self.columns = self._columns(table)
        for key in ("repeat", "fold"):
            if key in table:
                cells = zip(table[key].fillna("").astype(str), table[ROW], strict=True)
                table = table.assign(**{key: [number(cell, path, int(row), key) for cell, row in cells]})
        self.table = table

    def check(self, splits: pd.DataFrame) -> None:
        """Refuse what `values` would refuse of the test patients of these folds."""
        known = set(self.outcome.patient_ids)
        tested = splits[(splits["part"] == "test") & splits["patient_id"].isin(known)]
        for (repeat, fold), rows in tested.groupby(["repeat", "fold"], sort=True):
            self.values(int(repeat), int(fold), sorted(rows["patient_id"]))  # type: ignore[call-overload]

    def values(self, repeat: int, fold: int, patient_ids: list[str]) -> dict[str, np.ndarray]:
        """Columns (n,) of a run's test patients, in their order.

        Raises
        ------
        TableError
            If one is not in the file, is there twice, or was predicted in another fold: his prediction would not be
            out-of-fold here.
        """
        import pandas as pd

        rows = self._of_run(repeat, fold)
        missing = sorted(set(patient_ids) - set(rows["patient_id"]))
        if missing:
            raise TableError(
                f"{len(missing)} of {len(patient_ids)} patients of fold {fold} are not in it, as {missing[0]}",
                where=self.path,
                todo="give the study these folds and patients (splits.column, where)",
            )
        rows = rows[rows["patient_id"].isin(set(patient_ids))]
        twice = rows["patient_id"][rows["patient_id"].duplicated()]
        if len(twice):
            raise TableError(f"patient {twice.iloc[0]!r} is there twice", where=self.path, todo="keep one row a fold")
        rows = rows.set_index("patient_id").loc[patient_ids]
        values = {}
        for column in self.columns:
            numbers = pd.to_numeric(rows[column], errors="coerce").to_numpy(float)
            if not np.isfinite(numbers).all():
                patient = rows.index[~np.isfinite(numbers)][0]
                raise TableError(f"{column} of patient {patient} is no number", where=self.path, todo="mend the file")
            values[column] = numbers
        return values

    def _columns(self, table: pd.DataFrame) -> list[str]:
        kind, wanted = self.outcome.kind, self.outcome.prediction_columns
        if lacking := [c for c in wanted if c not in table]:
            raise TableError(
                f"no column {lacking[0]!r}", where=self.path, todo=f"a {kind} task needs {', '.join(wanted[:4])}"
            )
        curves = [c for c in table if str(c).startswith("surv_")] if kind == "survival" else []
        return [*wanted, *curves, *(c for c in ("risk_median_train",) if c in table and kind == "survival")]

    def _of_run(self, repeat: int, fold: int) -> pd.DataFrame:
        """Rows of a run; a file without folds is one prediction a patient, whichever fold tests him."""
        rows = self.table
        for key, run in (("repeat", repeat), ("fold", fold)):
            if key in rows:
                rows = rows[rows[key] == run]
        return rows
