"""Tasks learned in sequence: the accuracy matrix, what was kept of it, and how models differ, with intervals.

R[t, j] is the accuracy on the test patients of task j after task t was learned. Two readings of the same predictions:
**task** (task-incremental: the task of a patient is known, the prediction is the likeliest of its own classes) and
**class** (class-incremental: the likeliest of the classes of all tasks learned so far). Where patients have several
tasks, there is no one right class of all, and only the first is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from histostudy.errors import StudyError
from histostudy.evaluation.bootstrap import Floats, adjust, bootstrap_weights, interval, p_value
from histostudy.evaluation.runs import REDO

if TYPE_CHECKING:
    from histostudy.cohort.outcomes import Outcome

READINGS = ("task", "class")
#: Each of the accuracy matrix; of these, `forgetting` is better when it is lower.
METRICS = ("average_accuracy", "forgetting", "backward_transfer", "learning_accuracy")
KEYS = ["repeat", "fold", "task", "patient_id"]


@dataclass(frozen=True)
class TaskClasses:
    """A task of the sequence and its classes."""

    name: str
    classes: tuple[str, ...]

    @property
    def columns(self) -> list[str]:
        """Columns of its probabilities."""
        return [f"prob_{self.name}/{one}" for one in self.classes]


class ContinualEvaluation(NamedTuple):
    """Tables of a sequence.

    Attributes
    ----------
    metrics : DataFrame
        model, reading, metric, estimate, low, high, n (patients tested), runs, resamples.
    matrix : DataFrame
        model, reading, learned, task, estimate, low, high, n (patients of the task); tasks not learned yet too, in the
        reading `task` only.
    course : DataFrame
        model, reading, learned, steps, estimate, low, high, n: the mean accuracy over the tasks learned so far.
    comparison : DataFrame
        model, reference, reading, metric, difference (model minus reference), low, high, p, p_adjusted, n, correction.
    """

    metrics: pd.DataFrame
    matrix: pd.DataFrame
    course: pd.DataFrame
    comparison: pd.DataFrame


def average_accuracy(matrix: Floats) -> Floats:
    """Mean over tasks of the accuracy after the last: mean_j R[T, j].

    Parameters
    ----------
    matrix : ndarray, shape (..., T, T)
        R, tasks learned in the last axis but one.
    """
    return matrix[..., -1, :].mean(-1)


def forgetting(matrix: Floats) -> Floats:
    """Mean over all tasks but the last of what was lost: mean_j (max_{j <= t < T} R[t, j] - R[T, j]).

    Source: Chaudhry et al., ECCV 2018, equation 3. Below zero where later tasks helped. The best of several noisy
    accuracies is too good on average, so that it is a little above zero where nothing is forgotten.
    """
    steps = matrix.shape[-1]
    lost = [matrix[..., j:-1, j].max(-1) - matrix[..., -1, j] for j in range(steps - 1)]
    return np.mean(lost, 0)


def backward_transfer(matrix: Floats) -> Floats:
    """Mean over all tasks but the last of what later ones changed: mean_j (R[T, j] - R[j, j]).

    Source: Lopez-Paz and Ranzato, NeurIPS 2017.
    """
    learned = np.diagonal(matrix, axis1=-2, axis2=-1)
    return (matrix[..., -1, :-1] - learned[..., :-1]).mean(-1)


def learning_accuracy(matrix: Floats) -> Floats:
    """Mean accuracy on each task when it was just learned: a method that protects too much cannot learn."""
    return np.diagonal(matrix, axis1=-2, axis2=-1).mean(-1)


FUNCTIONS = {f.__name__: f for f in (average_accuracy, forgetting, backward_transfer, learning_accuracy)}


def evaluate_sequence(
    predictions: Mapping[str, pd.DataFrame],
    sequence: Sequence[TaskClasses],
    *,
    seed: int,
    resamples: int = 2000,
    confidence: float = 0.95,
    reference: str | None = None,
    correction: str = "holm",
) -> ContinualEvaluation:
    """Evaluate all models of a sequence on the same resamples of its patients.

    An accuracy is that over the test patients of all folds (a patient tested in several repeats counts with his mean);
    patients are resampled within fold and task, or within task where there are repeats.

    Parameters
    ----------
    predictions : mapping of model to DataFrame
        All runs of each model: see `histostudy.training.continual.sequence.train_sequence`.
    sequence : sequence of TaskClasses
        In the order in which they are learned.
    seed, resamples : int
        Of the bootstrap.
    confidence : float
        Of intervals.
    reference : str, optional
        Model that the others are compared with.
    correction : str
        Of the p-values, over the models compared, for each reading and metric.

    Raises
    ------
    StudyError
        If models do not have the same patients in the same runs, or a pair of tasks is missing.
    """
    if not predictions:
        raise StudyError("no predictions of the sequence", todo="train its models first")
    units = _units(predictions, sequence)
    patients, weights = _resampled(units, resamples, seed)
    apart = not units.drop_duplicates(["patient_id", "task"])["patient_id"].duplicated().any()
    readings = READINGS if apart else READINGS[:1]
    draws: dict[tuple[str, str], Floats] = {}
    tables: list[pd.DataFrame] = []
    shown: list[pd.DataFrame] = []
    courses: list[pd.DataFrame] = []
    runs = len(units.drop_duplicates(["repeat", "fold"]))
    counts = units.drop_duplicates(["patient_id", "task"]).groupby("task").size()
    for model, frame in predictions.items():
        for reading in readings:
            matrices = _matrices(frame, sequence, reading, patients, weights)
            draws[model, reading] = matrices
            about = {"model": model, "reading": reading}
            tables.append(_metric_rows(matrices, confidence).assign(**about))
            shown.append(_matrix_rows(matrices, sequence, reading, counts, confidence).assign(**about))
            courses.append(_course_rows(matrices, sequence, counts, confidence).assign(**about))
    metrics = pd.concat(tables, ignore_index=True).assign(n=len(patients), runs=runs, resamples=resamples)
    compared = _compared(draws, reference, readings, confidence, correction).assign(n=len(patients))
    return ContinualEvaluation(
        metrics[["model", "reading", "metric", "estimate", "low", "high", "n", "runs", "resamples"]],
        _in_front(pd.concat(shown, ignore_index=True)),
        _in_front(pd.concat(courses, ignore_index=True)),
        compared,
    )


def _in_front(table: pd.DataFrame) -> pd.DataFrame:
    first = ["model", "reading"]
    return table[[*first, *(c for c in table if c not in first)]]


def _units(predictions: Mapping[str, pd.DataFrame], sequence: Sequence[TaskClasses]) -> pd.DataFrame:
    """One row a repeat, fold, task and test patient, the same for all models."""
    names = [task.name for task in sequence]
    first: tuple[str, pd.DataFrame] | None = None
    for model, frame in predictions.items():
        where = f"predictions of the sequence, {model}"
        keys = frame[["task_learned", *KEYS]]
        if keys.duplicated().any():
            patient = keys.loc[keys.duplicated(), "patient_id"].iloc[0]
            raise StudyError(f"patient {patient} twice for one pair of tasks", where=where, todo=REDO)
        for learned in names:
            for task in names:
                if not ((frame["task_learned"] == learned) & (frame["task"] == task)).any():
                    raise StudyError(f"nobody of {task} was predicted after {learned}", where=where, todo=REDO)
        units = [part[KEYS].sort_values(KEYS, ignore_index=True) for _, part in frame.groupby("task_learned")]
        if first is None:
            first = model, units[0]
        if any(not part.equals(first[1]) for part in units):
            raise StudyError(f"not the same patients as {first[0]}", where=where, todo=REDO)
    assert first is not None
    return first[1]


def _resampled(units: pd.DataFrame, resamples: int, seed: int) -> tuple[list[str], Floats]:
    """Patients and the weights (1 + B, P) of their resamples; the first row is of ones.

    A patient of several tasks is drawn with all of them.
    """
    tasks = units.drop_duplicates(["patient_id", "task"]).groupby("patient_id")["task"]
    strata = tasks.agg(lambda names: "\x1f".join(sorted(names))).rename("stratum").to_frame()
    places = units.drop_duplicates(["patient_id", "repeat", "fold"])
    if not places["patient_id"].duplicated().any():
        strata["stratum"] += "\x1e" + places.set_index("patient_id")["fold"].loc[strata.index].astype(str)
    weights = bootstrap_weights(strata["stratum"].to_numpy(), resamples, seed)
    return strata.index.tolist(), np.concatenate([np.ones((1, weights.shape[1])), weights])


def _matrices(
    frame: pd.DataFrame, sequence: Sequence[TaskClasses], reading: str, patients: Sequence[str], weights: Floats
) -> Floats:
    """R on the patients and on each resample, (1 + B, T, T); NaN in the reading `class` for tasks not learned."""
    place = pd.Index(patients)
    out = np.full((len(weights), len(sequence), len(sequence)), np.nan)
    for t, learned in enumerate(sequence):
        after = frame[frame["task_learned"] == learned.name]
        for j, task in enumerate(sequence):
            if reading == "class" and j > t:
                continue
            mine = after[after["task"] == task.name]
            rivals = [task] if reading == "task" else sequence[: t + 1]
            columns = [column for one in rivals for column in one.columns]
            said = np.array(columns)[mine[columns].to_numpy(float).argmax(1)]
            right = said == (f"prob_{task.name}/" + mine["truth"].astype(str)).to_numpy()
            at = place.get_indexer(pd.Index(mine["patient_id"]))
            tested = np.bincount(at, minlength=len(place))
            share = np.bincount(at, weights=right, minlength=len(place)) / np.maximum(tested, 1)
            counted = weights * (tested > 0)
            with np.errstate(invalid="ignore"):
                out[:, t, j] = (counted @ share) / counted.sum(1)
    return out


def _row(values: Floats, confidence: float, centred: bool = False) -> dict[str, float]:
    estimate = float(values[0])
    if not np.isfinite(estimate):
        return {"estimate": estimate, "low": float("nan"), "high": float("nan")}
    low, high = interval(values[1:], confidence, estimate=estimate if centred else None)
    return {"estimate": estimate, "low": low, "high": high}


def _metric_rows(matrices: Floats, confidence: float) -> pd.DataFrame:
    # a maximum rises with the noise of resampling: its interval is shifted onto the estimate
    rows = [
        {"metric": name, **_row(FUNCTIONS[name](matrices), confidence, centred=name == "forgetting")}
        for name in METRICS
    ]
    return pd.DataFrame(rows)


def _matrix_rows(
    matrices: Floats, sequence: Sequence[TaskClasses], reading: str, counts: pd.Series, confidence: float
) -> pd.DataFrame:
    rows = [
        {"learned": learned.name, "task": task.name, **_row(matrices[:, t, j], confidence), "n": int(counts[task.name])}
        for t, learned in enumerate(sequence)
        for j, task in enumerate(sequence)
        if reading == "task" or j <= t
    ]
    return pd.DataFrame(rows)


def _course_rows(
    matrices: Floats, sequence: Sequence[TaskClasses], counts: pd.Series, confidence: float
) -> pd.DataFrame:
    rows = []
    for t, learned in enumerate(sequence):
        n = int(sum(counts[task.name] for task in sequence[: t + 1]))
        values = matrices[:, t, : t + 1].mean(1)
        rows.append({"learned": learned.name, "steps": t + 1, **_row(values, confidence), "n": n})
    return pd.DataFrame(rows)


COMPARED = [
    "model", "reference", "reading", "metric", "difference", "low", "high", "p", "p_adjusted", "correction",
]  # fmt: skip


def _compared(
    draws: Mapping[tuple[str, str], Floats], reference: str | None, readings: Sequence[str], confidence: float,
    correction: str,
) -> pd.DataFrame:  # fmt: skip
    """Paired differences of every metric from the reference's, on the same resamples."""
    others = [model for model in dict.fromkeys(model for model, _ in draws) if model != reference]
    tables = []
    for reading in readings if reference is not None and (reference, readings[0]) in draws else ():
        for metric in METRICS:
            base = FUNCTIONS[metric](draws[str(reference), reading])
            rows = []
            for model in others:
                apart = FUNCTIONS[metric](draws[model, reading]) - base
                if metric == "forgetting":  # as in the metrics: shifted onto the estimate
                    apart = np.concatenate([apart[:1], apart[1:] - apart[1:].mean() + apart[0]])
                row = _row(apart, confidence)
                rows.append({"model": model, "difference": row["estimate"], "low": row["low"], "high": row["high"],
                             "p": p_value(apart[1:])})  # fmt: skip
            if rows:
                table = pd.DataFrame(rows).assign(reference=reference, reading=reading, metric=metric)
                tables.append(table.assign(p_adjusted=adjust(table["p"], correction), correction=correction))
    return pd.concat(tables, ignore_index=True)[COMPARED] if tables else pd.DataFrame(columns=COMPARED)


def prior_predictions(
    sequence: Sequence[Outcome], splits: pd.DataFrame, patients: Sequence[str] | None = None
) -> pd.DataFrame:
    """The trivial control: each class with its share among the training and inner patients of the tasks learned so far.

    Classes not learned yet have none. Its reading `task` is the majority class of each task once it is learned.

    Parameters
    ----------
    sequence : sequence of Outcome
    splits : DataFrame
        repeat, fold, patient_id, part.
    patients : sequence of str, optional
        Those with features; others are left out.
    """
    known = None if patients is None else set(patients)
    columns = [f"prob_{outcome.name}/{one}" for outcome in sequence for one in outcome.classes]
    frames = []
    for (repeat, fold), rows in splits.groupby(["repeat", "fold"], sort=True):
        side = dict(zip(rows["patient_id"].astype(str), rows["part"], strict=True))
        seen = pd.Series(0.0, index=columns)
        for learned in sequence:
            for patient, code in zip(learned.patient_ids, learned.y.astype(int), strict=True):
                if side.get(patient) in ("train", "val") and (known is None or patient in known):
                    seen[f"prob_{learned.name}/{learned.classes[code]}"] += 1
            for outcome in sequence:
                tested = [
                    (p, outcome.classes[int(code)])
                    for p, code in zip(outcome.patient_ids, outcome.y, strict=True)
                    if side.get(p) == "test" and (known is None or p in known)
                ]
                frame = pd.DataFrame(tested, columns=["patient_id", "truth"])
                frame[columns] = np.tile((seen / max(seen.sum(), 1)).to_numpy(), (len(frame), 1))
                frames.append(
                    frame.assign(repeat=repeat, fold=fold, task_learned=learned.name, task=outcome.name, model="prior")
                )
    return pd.concat(frames, ignore_index=True)
