"""What a task predicts, patient by patient: checked, as arrays."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from histostudy.cohort.columns import Columns, Found, missing, permuted, somebody
from histostudy.cohort.expression import expression_of, expression_of_spots
from histostudy.errors import TableError

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from histostudy.tasks import Classification, Expression, Regression, Survival, Task

logger = logging.getLogger(__name__)

EVENT = frozenset({"1", "1.0", "true", "yes", "dead", "deceased", "1:deceased", "event", "1:progression"})
NO_EVENT = frozenset({"0", "0.0", "false", "no", "alive", "living", "0:living", "censored", "0:censored"})
#: More levels than this in a class column is taken for a mistake (ids, a number).
MAX_CLASSES = 50


@dataclass(frozen=True)
class Outcome:
    """The outcome of one task, for the n patients who have it.

    Attributes
    ----------
    task : Task
        The study's task.
    patient_ids : ndarray of str, (n,)
        Sorted.
    y : ndarray of float64
        (n,) class number or value; (n, genes) expression; (n,) the time for survival.
    time, event : ndarray of float64 and bool, (n,), or None
        Survival only; days, and whether the event was seen.
    classes : list of str
        Classification only, in the order of `y`; of two classes the positive one is last.
    genes : list of str
        Expression only.
    adjust : DataFrame, n rows indexed by patient_id
        The covariates of the clinical model: float where every cell is a number, text otherwise; NaN is missing.
    excluded : dict
        Patient id to the reason why he is not in `patient_ids`.
    patient_of : dict
        Of a task at the level of spots, whose ids `patient_ids` then holds: the patient each is of. Else empty.
    """

    task: Task
    patient_ids: np.ndarray
    y: np.ndarray
    adjust: pd.DataFrame
    time: np.ndarray | None = None
    event: np.ndarray | None = None
    classes: list[str] = field(default_factory=list)
    genes: list[str] = field(default_factory=list)
    excluded: dict[str, str] = field(default_factory=dict)
    patient_of: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the task."""
        return self.task.name

    @property
    def kind(self) -> str:
        """Kind of the task."""
        return self.task.kind

    def __len__(self) -> int:
        return len(self.patient_ids)

    @property
    def prediction_columns(self) -> list[str]:
        """Columns that a prediction of it must have."""
        if self.kind == "survival":
            return ["risk"]
        if self.kind == "classification":
            return [f"prob_{name}" for name in self.classes]
        return ["prediction"] if self.kind == "regression" else [f"pred_{gene}" for gene in self.genes]

    def rows(self, patient_ids: Any) -> np.ndarray:
        """Row numbers (int64) of patients who all have the outcome.

        Raises
        ------
        KeyError
            For a patient without it.
        """
        wanted = np.asarray(patient_ids, dtype=object)
        if len(self.patient_ids) == 0 and len(wanted):
            raise KeyError(wanted[0])
        rows = np.searchsorted(self.patient_ids, wanted)
        found = self.patient_ids[np.minimum(rows, len(self.patient_ids) - 1)] == wanted
        if not found.all():
            raise KeyError(wanted[~found][0])
        return rows.astype(np.int64)


def outcome_of(task: Task, patients: pd.DataFrame, source: str | Path = "patients.csv") -> Outcome:
    """Take a task's outcome from the patient table.

    Patients without it are left out with a reason; a cell that cannot be what the task says is an error.

    Parameters
    ----------
    task : Task
        One of the study's tasks.
    patients : DataFrame
        As `histostudy.cohort.tables.read_patients` returns it; other columns that are numbers are fine.
    source : str or Path
        The table's name, for messages.

    Raises
    ------
    TableError
        Naming file, row and column: a column that is not there, a time that is no number or negative, an event
        that is neither 0 nor 1, one class only, no event, one value only, nobody with the outcome.
    """
    patients = patients.sort_values("patient_id", ignore_index=True)
    others = outside(task, patients, source)
    patients = patients[~patients["patient_id"].isin(others)].reset_index(drop=True)
    find = {
        "classification": _classification, "survival": _survival, "regression": _regression,
        "expression": expression_of,
    }[task.kind]  # fmt: skip
    columns = Columns(patients, source)
    values, excluded = find(task, columns)  # type: ignore[operator]
    if task.permute is not None:
        values = permuted(values, task.permute)
    ids = patients["patient_id"].to_numpy(dtype=object)
    kept = np.array([patient not in excluded for patient in ids], dtype=bool)
    adjust = columns.covariates(task.adjust)[kept]
    return Outcome(task=task, patient_ids=ids[kept], adjust=adjust, excluded=others | excluded, **values)


def spot_outcome(task: Expression, spots: pd.DataFrame, patient_of_slide: dict[str, str]) -> Outcome:
    """Expression of the spots of a cohort's sections.

    Parameters
    ----------
    task : Expression
        At the level of spots.
    spots : DataFrame
        `spot_id`, `slide_id` (see `histostudy.cohort.spots.read_spots`).
    patient_of_slide : dict
        Slides of the cohort; spots of others are left out.
    """
    import pandas as pd

    spots = spots[spots["slide_id"].isin(patient_of_slide)].sort_values("spot_id", ignore_index=True)
    complete, values = expression_of_spots(task, spots["spot_id"].astype(str).tolist())
    if task.permute is not None:
        values = permuted(values, task.permute)
    spots = spots[complete]
    ids = spots["spot_id"].astype(str).to_numpy(dtype=object)
    patients = [patient_of_slide[slide] for slide in spots["slide_id"]]
    nothing = pd.DataFrame(index=pd.Index(ids.astype(str), name="patient_id"))
    of = dict(zip(ids.tolist(), patients, strict=True))
    return Outcome(task=task, patient_ids=ids, adjust=nothing, patient_of=of, **values)


def outside(task: Task, patients: pd.DataFrame, source: str | Path) -> dict[str, str]:
    """Patients whom the task's `where` leaves out, with the reason."""
    columns = Columns(patients, source)
    out: dict[str, str] = {}
    for column, wanted in task.where.items():
        values = {str(v) for v in (wanted if isinstance(wanted, list) else [wanted])}
        cells = columns.cells(column)
        if not values & set(cells):
            known = sorted({c for c in cells if c is not None})
            raise TableError(
                f"no patient of task {task.name!r} is {' or '.join(sorted(values))}",
                where=columns.where(column),
                todo=f"it has {', '.join(known[:8])}",
            )
        reason = f"not {column} {' or '.join(sorted(values))}"
        out = {p: reason for p, c in zip(columns.ids, cells, strict=True) if c not in values} | out
    return out


def _classification(task: Classification, columns: Columns) -> Found:
    cells = columns.cells(task.target)
    present = np.array([c is not None for c in cells], dtype=bool)
    somebody(present, columns, task.target, task)
    labels = _tidy([c for c in cells if c is not None])
    classes = sorted(set(labels))
    where = columns.where(task.target)
    if len(classes) == 1:
        raise TableError(
            f"all {len(labels)} patients are {classes[0]!r}, the only class of task {task.name!r}",
            where=where,
            todo="a classification needs two classes: add the patients of the other, or drop the task",
        )
    if len(classes) > MAX_CLASSES:
        raise TableError(
            f"{len(classes)} classes in {len(labels)} patients",
            where=where,
            todo="is this a number? then the task's kind is regression",
        )
    if task.positive is not None:
        if task.positive not in classes:
            raise TableError(
                f"positive class {task.positive!r} of task {task.name!r} does not occur",
                where=where,
                todo=f"its classes are {', '.join(classes)}",
            )
        if len(classes) > 2:
            raise TableError(
                f"task {task.name!r} names a positive class but has {len(classes)}: {', '.join(classes)}",
                where=where,
                todo="leave out `positive`, or add a column with two classes",
            )
        classes = [c for c in classes if c != task.positive] + [task.positive]
    number_of = {c: float(k) for k, c in enumerate(classes)}
    y = np.array([number_of[c] for c in labels], dtype=np.float64)
    return {"y": y, "classes": classes}, missing(columns, present, f"no {task.target}")


def _tidy(labels: list[str]) -> list[str]:
    """Write 1.0 as 1 where every label is a whole number (as spreadsheets and pandas mix them)."""
    try:
        numbers = [float(c) for c in labels]
    except ValueError:
        return labels
    if all(v.is_integer() for v in numbers) and any("." in c for c in labels):
        return [str(int(v)) for v in numbers]
    return labels


def _survival(task: Survival, columns: Columns) -> Found:
    time = columns.numbers(task.time, "a time in days")
    for i in np.flatnonzero(time < 0)[:1]:
        raise TableError(
            f"a time of {time[i]:g} days", where=columns.where(task.time, i), todo="a time cannot be negative"
        )
    cells = columns.cells(task.event)
    event = np.zeros(len(cells), dtype=bool)
    known = np.zeros(len(cells), dtype=bool)
    for i, cell in enumerate(cells):
        if cell is None:
            continue
        known[i] = True
        if cell.lower() in EVENT:
            event[i] = True
        elif cell.lower() not in NO_EVENT:
            raise TableError(
                f"{cell!r} is no event", where=columns.where(task.event, i), todo="write 1 (event) or 0 (censored)"
            )
    excluded = missing(columns, known, f"no {task.event}")
    excluded |= missing(columns, np.isfinite(time), f"no {task.time}")
    # censored on day 0: never at risk, compared with nobody
    excluded |= missing(columns, ~((time == 0) & known & ~event), "no follow-up (censored on day 0)")
    kept = np.array([p not in excluded for p in columns.ids], dtype=bool)
    somebody(kept, columns, task.time, task)
    time, event = time[kept], event[kept]
    if not event.any():
        raise TableError(
            f"none of {len(event)} patients has an event",
            where=columns.where(task.event),
            todo="survival needs events: check whether 1 means censored in this column",
        )
    if time.max() < task.horizons[0]:
        raise TableError(
            f"the longest time is {time.max():g} and the first horizon {task.horizons[0]} days",
            where=columns.where(task.time),
            todo="are these months or years? multiply them into days, or set nearer `horizons`",
        )
    return {"y": time, "time": time, "event": event}, excluded


def _regression(task: Regression, columns: Columns) -> Found:
    values = columns.numbers(task.target)
    present = np.isfinite(values)
    somebody(present, columns, task.target, task)
    if len(set(values[present])) == 1:
        raise TableError(
            f"every patient has {values[present][0]:g}", where=columns.where(task.target), todo="drop the task"
        )
    return {"y": values[present]}, missing(columns, present, f"no {task.target}")
