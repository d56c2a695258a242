"""What choosing the best epoch on the part that is reported adds: every epoch's prediction of it, scored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histostudy.evaluation.bootstrap import Floats, interval
from histostudy.evaluation.comparison import MAIN_METRIC
from histostudy.evaluation.metrics import classification, regression, survival
from histostudy.evaluation.metrics.base import Evaluate
from histostudy.evaluation.metrics.kernels import nanmean
from histostudy.evaluation.runs import classes_of, events_of, resampling
from histostudy.seeds import derive_seed

if TYPE_CHECKING:
    from histostudy.cohort.outcomes import Outcome
    from histostudy.study import Study
    from histostudy.tasks import Task

#: Choices of an epoch, in the order of the table.
LAST, INNER, REPORTED = "last", "inner", "best on the reported fold"


def epoch_tables(study: Study, task: Task, folders: Mapping[str, Path], outcome: Outcome) -> dict[str, pd.DataFrame]:
    """Score every epoch of the traced models of a task.

    The best epoch of a fold is chosen on the fold itself, as some published code does, to show what that adds; in a
    resample it is chosen anew, since the choice would have been made on those patients, and the interval is shifted
    onto the estimate: a maximum over epochs is higher still in a resample.

    Parameters
    ----------
    study : Study
        Its seed, resamples and confidence.
    task : Task
        Survival (Harrell's concordance), two classes (AUROC) or regression (Pearson's r).
    folders : mapping of str to Path
        Folders of the runs of each traced model.
    outcome : Outcome
        Of the task.

    Returns
    -------
    dict
        Empty without a traced model. `epochs`: model, repeat, fold, epoch, metric, estimate. `epoch_choice`: model,
        choice, estimate, low, high, difference_to_last, difference_low, difference_high, n, events.
    """
    scored, choices = [], []
    for model, folder in folders.items():
        runs = {p.parent.name: pd.read_parquet(p) for p in sorted(folder.glob("r*f*/epochs.parquet"))}
        if not runs or task.kind == "expression":
            continue
        kept = {name: int(_best(folder / name)) for name in runs}
        every = pd.concat([frame[frame["epoch"] == frame["epoch"].max()] for frame in runs.values()])
        seed = derive_seed(study.seed, "bootstrap", task.name)  # as in the task's own evaluation
        once, weights = resampling(every, study.compare.resamples, seed)
        place = pd.Index(once["patient_id"])
        points: list[dict[str, object]] = []
        values: dict[str, list[tuple[float, Floats]]] = {LAST: [], INNER: [], REPORTED: []}
        for name, frame in runs.items():
            epochs = sorted(frame["epoch"].unique())
            estimate, draws = _scores(frame, epochs, task, outcome, weights, place)
            about = {"model": model, "repeat": int(frame["repeat"].iloc[0]), "fold": int(frame["fold"].iloc[0])}
            points += [about | {"epoch": int(e), "estimate": float(v)} for e, v in zip(epochs, estimate, strict=True)]
            inner = epochs.index(kept[name])
            values[LAST].append((float(estimate[-1]), draws[-1]))
            values[INNER].append((float(estimate[inner]), draws[inner]))
            values[REPORTED].append((float(np.nanmax(estimate)), _best_of(draws)))
        scored.append(pd.DataFrame(points).assign(metric=MAIN_METRIC[task.kind]))
        events = events_of(task, once, outcome)
        last, last_draws = _mean(values[LAST])
        for choice, parts in values.items():
            value, resampled = _mean(parts)
            low, high = _around(value, resampled, choice, study, (-1.0, 1.0))
            # the best of the epochs, the last among them, is never below the last
            apart = _around(value - last, resampled - last_draws, choice, study, (0.0, 1.0))
            row = {"model": model, "choice": choice, "estimate": value, "low": low, "high": high}
            row |= {"difference_to_last": value - last, "difference_low": apart[0], "difference_high": apart[1]}
            choices.append(row | {"n": len(once), "events": events})
    if not scored:
        return {}
    return {"epochs": pd.concat(scored, ignore_index=True), "epoch_choice": pd.DataFrame(choices)}


def _around(value: float, draws: Floats, choice: str, study: Study, bounds: tuple[float, float]) -> tuple[float, float]:
    """Interval of a choice; where the choice is a maximum, shifted onto the estimate and kept within its bounds."""
    if choice != REPORTED:
        return interval(draws, study.compare.confidence)
    return interval(draws, study.compare.confidence, estimate=value, bounds=bounds)


def _scores(
    frame: pd.DataFrame, epochs: list[int], task: Task, outcome: Outcome, weights: Floats, place: pd.Index
) -> tuple[Floats, Floats]:
    """The metric after each epoch, (E,), and on each resample, (E, B)."""
    estimates, draws = [], []
    for epoch in epochs:
        mine = frame[frame["epoch"] == epoch]
        take = _evaluate(mine, task, outcome)
        estimates.append(take(np.ones((1, len(mine))))[0])
        draws.append(take(weights[:, place.get_indexer(pd.Index(mine["patient_id"]))]))
    return np.array(estimates), np.stack(draws)


def _evaluate(frame: pd.DataFrame, task: Task, outcome: Outcome) -> Evaluate:
    if task.kind == "survival":
        return survival.c_harrell(frame, frame, survival.Horizon(float("nan"), np.empty(0)))
    if task.kind == "classification":
        return classification.auroc(frame, frame, classes_of(task, outcome))
    return regression.pearson(frame, frame, None)


def _best(run: Path) -> int:
    """Epoch that the inner part chose, of those a traced training went through."""
    history = pd.read_csv(run / "history.csv")
    return history.loc[history["best"], "epoch"].iloc[0]


def _best_of(draws: Floats) -> Floats:
    """Largest over the epochs of each resample; NaN where no epoch is defined."""
    return np.where(np.isfinite(draws).any(0), np.nanmax(np.where(np.isfinite(draws), draws, -np.inf), axis=0), np.nan)


def _mean(parts: list[tuple[float, Floats]]) -> tuple[float, Floats]:
    """Mean over the runs, and on each resample."""
    return float(nanmean(np.array([v for v, _ in parts]), 0)), nanmean(np.stack([d for _, d in parts]), 0)
