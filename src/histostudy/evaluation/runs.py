"""Predictions of a model's runs: gather them from their folders, check them, pool them to one row a patient."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histostudy.errors import StudyError
from histostudy.evaluation.bootstrap import Floats, bootstrap_weights
from histostudy.evaluation.metrics.base import Run
from histostudy.evaluation.metrics.classification import Classes
from histostudy.training.runfolder import INDEX, unchanged

if TYPE_CHECKING:
    from histostudy.cohort.outcomes import Outcome
    from histostudy.tasks import Task

KEYS = ("patient_id", "repeat", "fold", "task", "model")
#: Column with the median risk of the patients a run was trained on; strata of Kaplan-Meier are cut there.
CUTOFF = "risk_median_train"
REDO = "rerun training for this model"


def gather(folder: str | Path) -> pd.DataFrame:
    """Predictions of all runs under ``runs/<task>/<model>/``, in the order of repeat, fold and patient.

    Raises
    ------
    StudyError
        If there is no run, one is there that ``runs.parquet`` does not name or the reverse, or predictions have
        another checksum than it says.
    """
    folder = Path(folder)
    if not (folder / INDEX).is_file():
        raise StudyError("no predictions", where=folder, todo="train the model first")
    index = pd.read_parquet(folder / INDEX, columns=["repeat", "fold", "sha256"])
    recorded = {f"r{repeat}f{fold}": digest for repeat, fold, digest in index.itertuples(index=False)}
    if len(recorded) != len(index):
        raise StudyError("names a run twice", where=folder / INDEX, todo="delete it, and run again")
    if stray := sorted({path.parent.name for path in folder.glob("r*f*/predictions.parquet")} - recorded.keys()):
        raise StudyError(f"is no run that {INDEX} names", where=folder / stray[0], todo="delete this folder")
    frames = []
    for name, digest in recorded.items():
        frames.append(pd.read_parquet(unchanged(folder / name / "predictions.parquet", digest)))
        inside = set(frames[-1][["repeat", "fold"]].itertuples(index=False, name=None))
        if {f"r{repeat}f{fold}" for repeat, fold in inside} != {name}:
            where = folder / name / "predictions.parquet"
            raise StudyError(
                "holds predictions of another run", where=where, todo="delete the run's folder, and run again"
            )
    if not frames:
        raise StudyError("no predictions", where=folder, todo="train the model first")
    return pd.concat(frames, ignore_index=True).sort_values(["repeat", "fold", "patient_id"], ignore_index=True)


def pool_predictions(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Out-of-fold predictions, one row a patient.

    A patient tested by several runs (repeats, published folds that overlap) gets the mean of the numbers and
    the first run's names; `runs` counts them. Risks of two runs need not share a scale: `risk_rank`, the rank
    within the run's test part from 0 to 1, does.

    Parameters
    ----------
    frames : sequence of DataFrame
        Predictions of the runs of one model.
    """
    table = pd.concat(frames, ignore_index=True)
    if "risk" in table:
        by_run = table.groupby(["repeat", "fold"])["risk"]
        table["risk_rank"] = (by_run.rank() - 0.5) / by_run.transform("size")
    table = table.sort_values(["patient_id", "repeat", "fold"], ignore_index=True)
    grouped = table.groupby("patient_id", sort=True)
    pooled = grouped.first()
    numbers = [c for c in table.columns if c not in KEYS and pd.api.types.is_float_dtype(table[c])]
    counts = grouped.size()
    if (counts > 1).any():
        pooled[numbers] = grouped[numbers].mean()
    pooled["runs"] = counts
    return pooled.reset_index()


def runs_of(
    predictions: pd.DataFrame,
    patients: Sequence[str],
    train: Mapping[tuple[int, int], pd.DataFrame],
    blocks: np.ndarray | None = None,
) -> list[Run]:
    """Cut a model's predictions into its runs.

    Parameters
    ----------
    predictions : DataFrame
        All runs of one model.
    patients : sequence of str
        The task's test patients, in the order of the weights.
    train : mapping
        Outcomes of the patients outside the test part, by (repeat, fold).
    blocks : ndarray, optional
        Of spots, in the order of `patients`: the block of neighbours each is in.
    """
    place = pd.Index(patients)
    out = []
    for (repeat, fold), frame in predictions.groupby(["repeat", "fold"], sort=True):
        frame = frame.sort_values("patient_id", ignore_index=True)
        key = (int(repeat), int(fold))  # type: ignore[call-overload]
        rows = place.get_indexer(pd.Index(frame["patient_id"]))
        own = None if blocks is None else blocks[rows]
        out.append(Run(*key, frame, train.get(key, pd.DataFrame()), rows, own))
    return out


def resampling(
    predictions: pd.DataFrame,
    resamples: int,
    seed: int,
    groups: Callable[[pd.DataFrame], np.ndarray | None] | None = None,
) -> tuple[pd.DataFrame, Floats]:
    """One row a tested patient, in the order of the weights, and the weights (B, P) of their resamples.

    Patients are resampled within the fold that tests them where each is tested once, else over all patients.

    Parameters
    ----------
    predictions : DataFrame
        All runs of one model.
    resamples, seed : int
        See `bootstrap.bootstrap_weights`.
    groups : callable, optional
        Takes the rows, returns what is resampled as a whole.
    """
    tested = predictions.sort_values(["patient_id", "repeat", "fold"])
    once = tested.drop_duplicates("patient_id")
    strata = once["fold"].to_numpy() if len(once) == len(tested) else np.zeros(len(once), int)
    return once, bootstrap_weights(strata, resamples, seed, None if groups is None else groups(once))


def classes_of(task: Task, outcome: Outcome) -> Classes:
    """Classes of a classification task; of two, the positive one is the study's or the last in order."""
    names = tuple(str(c) for c in outcome.classes)
    positive = getattr(task, "positive", None)
    return Classes(names, str(positive) if positive is not None else names[-1])


def cutoff_of(task: Task) -> float | None:
    """Clinical cut-off of a regression task, where it has one."""
    return getattr(task, "cutoff", None)


def events_of(task: Task, rows: pd.DataFrame, outcome: Outcome) -> int | None:
    """Events among some predictions, positives of two classes; None where the word has no meaning."""
    if task.kind == "survival":
        return int((rows["event"] > 0).sum())
    if task.kind == "classification" and len(outcome.classes) == 2:
        return int((rows["truth"].astype(str) == classes_of(task, outcome).positive).sum())
    return None


def check(predictions: Mapping[str, pd.DataFrame], task: str) -> None:
    """Refuse predictions that cannot be compared.

    Raises
    ------
    StudyError
        If a patient occurs twice in a run, a prediction is not finite, or two models did not predict the
        same patients in the same runs: paired comparison would be of other patients.
    """
    first: tuple[str, pd.MultiIndex] | None = None
    for model, frame in predictions.items():
        where = f"predictions of {task}, {model}"
        keys = pd.MultiIndex.from_frame(frame[["repeat", "fold", "patient_id"]])
        if keys.has_duplicates:
            repeat, fold, patient = keys[keys.duplicated()][0]
            raise StudyError(f"patient {patient} twice in repeat {repeat} fold {fold}", where=where, todo=REDO)
        numbers = [c for c in frame.columns if c == "risk" or c.startswith(("prob_", "pred", "surv_"))]
        bad = ~np.isfinite(frame[numbers].to_numpy(float))
        if bad.any():
            row, column = np.argwhere(bad)[0]
            patient = frame["patient_id"].iloc[row]
            raise StudyError(f"{numbers[column]} of patient {patient} is not finite", where=where, todo=REDO)
        if first is None:
            first = model, keys
        elif len(odd := keys.symmetric_difference(first[1])):
            raise StudyError(
                f"not the same patients as {first[0]}: {len(odd)} differ, such as {odd[0][2]}", where=where, todo=REDO
            )


def training_outcomes(outcome: Outcome, splits: pd.DataFrame) -> dict[tuple[int, int], pd.DataFrame]:
    """Outcomes of the patients outside the test part (training and inner validation), by (repeat, fold).

    Parameters
    ----------
    outcome : Outcome
        Of the task: patients, and their time and event for survival.
    splits : DataFrame
        repeat, fold, patient_id, part.
    """
    table = pd.DataFrame({"patient_id": [str(p) for p in outcome.patient_ids]})
    if getattr(outcome, "time", None) is not None and getattr(outcome, "event", None) is not None:
        table["time"], table["event"] = np.asarray(outcome.time, float), np.asarray(outcome.event, float)
    outside = splits[splits["part"] != "test"].astype({"patient_id": str})
    out = {}
    for (repeat, fold), part in outside.groupby(["repeat", "fold"], sort=True):
        mine = table["patient_id"].isin(set(part["patient_id"]))
        out[int(repeat), int(fold)] = table[mine]  # type: ignore[call-overload]
    return out
