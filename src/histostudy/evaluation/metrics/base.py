"""What a metric is, and how it is taken over folds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from histostudy.evaluation.metrics.kernels import Floats, mean_of, nanmean

#: Takes the resampling weights of the rows a metric was prepared for, (B, n), returns its values, (B,).
Evaluate = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Run:
    """The test part of one run, and the outcomes of the patients it was trained on.

    Attributes
    ----------
    repeat, fold : int
        Which run.
    frame : DataFrame
        One row a test patient, as the training stage writes it.
    train : DataFrame
        Outcomes (`time`, `event` for survival) of the patients outside the test part.
    rows : ndarray of int
        Place of each row's patient in the weights.
    blocks : ndarray, optional
        Of spots: the block of neighbours each row is in.
    """

    repeat: int
    fold: int
    frame: pd.DataFrame
    train: pd.DataFrame
    rows: np.ndarray
    blocks: np.ndarray | None = None

    @property
    def independent(self) -> int:
        """Number of rows that can be taken for independent: patients, or blocks of spots."""
        return int(self.rows.size if self.blocks is None else np.unique(self.blocks).size)


@dataclass(frozen=True)
class Metric:
    """A metric: how it is prepared for a frame, and how folds are taken together.

    Attributes
    ----------
    name : str
        As in the tables: ``auroc``.
    pooling : {'fold mean', 'pooled'}
        Ranking metrics are averaged over runs, since scores of two runs need not share a scale; the others
        are taken over all test patients at once.
    prepare : callable
        Takes a frame of test rows, a frame of training outcomes and the task's facts; returns an `Evaluate`.
    contribution : callable, optional
        For a pooled metric that is a mean over patients of something that depends on the run: takes the same
        as `prepare`, returns the (n,) contributions of one run.
    centred : bool
        Shift the interval onto the estimate (see `bootstrap.interval`).
    bounds : (float, float)
        Range of the metric.
    """

    name: str
    pooling: str
    prepare: Callable[[pd.DataFrame, pd.DataFrame, Any], Evaluate] | None = None
    contribution: Callable[[pd.DataFrame, pd.DataFrame, Any], Floats] | None = None
    centred: bool = False
    bounds: tuple[float, float] | None = None


@dataclass(frozen=True)
class Values:
    """A metric on the cohort and on each resample, and the number of runs it is defined in.

    Attributes
    ----------
    estimate : float
    resampled : ndarray, shape (B,)
    runs, undefined : int
        Runs it is defined in, and the others.
    each, draws : ndarray, shape (runs,) and (runs, B), optional
        Of a fold mean: its value in each run, and on each resample there; NaN where undefined.
    """

    estimate: float
    resampled: Floats
    runs: int
    undefined: int
    each: Floats | None = None
    draws: Floats | None = None


def evaluate(metric: Metric, runs: Sequence[Run], weights: Floats, facts: Any) -> Values:
    """Take a metric over the runs of a model.

    A run in which the metric is undefined (one class only, no comparable pair) is left out and counted; so is
    it in a resample where it becomes undefined.

    Parameters
    ----------
    metric : Metric
    runs : sequence of Run
    weights : ndarray, shape (B, P)
        Resampling weights of the task's patients.
    facts : object
        What the metrics of this kind of task need beside the frames.
    """
    if metric.contribution is not None:
        parts = np.concatenate([metric.contribution(run.frame, run.train, facts) for run in runs])
        rows = np.concatenate([run.rows for run in runs])
        return Values(float(parts.mean()), mean_of(weights[:, rows], parts), len(runs), 0)
    assert metric.prepare is not None, metric.name
    if metric.pooling == "pooled":
        frame = pd.concat([run.frame for run in runs], ignore_index=True)
        rows = np.concatenate([run.rows for run in runs])
        take = metric.prepare(frame, pd.concat([run.train for run in runs], ignore_index=True), facts)
        estimate = float(take(np.ones((1, rows.size)))[0])
        return Values(estimate, take(weights[:, rows]), len(runs), 0)
    each, draws = np.full(len(runs), np.nan), np.full((len(runs), weights.shape[0]), np.nan)
    for number, run in enumerate(runs):
        take = metric.prepare(run.frame, run.train, facts)
        each[number] = take(np.ones((1, run.rows.size)))[0]
        if np.isfinite(each[number]):
            draws[number] = take(weights[:, run.rows])
    defined = int(np.isfinite(each).sum())
    return Values(float(nanmean(each, 0)), nanmean(draws, 0), defined, len(runs) - defined, each, draws)
