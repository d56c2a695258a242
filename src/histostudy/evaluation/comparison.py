"""Paired comparison of a task's models on its main metric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from histostudy.evaluation.bootstrap import Floats, adjust, interval, p_value
from histostudy.evaluation.metrics.base import Values
from histostudy.evaluation.metrics.kernels import nanmean

#: The metric models of a task are compared on.
MAIN_METRIC = {"classification": "auroc", "survival": "c_harrell", "regression": "pearson", "expression": "pearson"}
COLUMNS = [
    "task", "model", "reference", "metric", "difference", "low", "high", "p", "p_adjusted", "n", "runs", "correction",
]  # fmt: skip


class Pair(NamedTuple):
    """Two models on the runs where the metric of both is defined.

    Attributes
    ----------
    difference : float
        The first less the second; NaN where they share no run.
    draws : ndarray, shape (B,)
        The same on each resample.
    runs : int
        Runs they share.
    """

    difference: float
    draws: Floats
    runs: int


def pair_runs(one: Values, other: Values) -> Pair:
    """Pair two fold means run by run: a run left out for one model is left out for both, in a resample too."""
    assert one.each is not None and one.draws is not None and other.each is not None and other.draws is not None
    apart = one.each - other.each
    return Pair(float(nanmean(apart, 0)), nanmean(one.draws - other.draws, 0), int(np.isfinite(apart).sum()))


def compare(
    task: str,
    metric: str,
    models: Sequence[str],
    pair: Callable[[str, str], Pair],
    references: Sequence[str],
    *,
    n: int,
    confidence: float = 0.95,
    correction: str = "holm",
) -> pd.DataFrame:
    """Difference of each model from each reference, on the same runs and the same resamples of the same patients.

    p-values are corrected over the models compared with one reference. A run where the metric of either is
    undefined (a constant prediction has no correlation) is left out for both; where no run is left the row
    is empty and not counted as a test. So a difference need not be that of the two estimates in the metrics.

    Parameters
    ----------
    task, metric : str
    models : sequence of str
    pair : callable
        Takes a model and a reference, returns their `Pair`.
    references : sequence of str
        Each a model; pairs already compared with an earlier reference are not repeated.
    n : int
        Patients of the task.

    Returns
    -------
    DataFrame
        task, model, reference, metric, difference (model minus reference), low, high, p, p_adjusted, n, runs (that
        the pair was compared on), correction.
    """
    done: set[frozenset[str]] = set()
    tables = []
    for reference in references:
        rows = []
        for model in models:
            both = frozenset((model, reference))
            if model == reference or both in done:
                continue
            done.add(both)
            difference, draws, shared = pair(model, reference)
            if np.isfinite(difference):
                low, high = interval(draws, confidence)
                p = p_value(draws)
            else:
                low = high = p = float("nan")
            row = {"task": task, "model": model, "reference": reference, "metric": metric, "difference": difference}
            rows.append(row | {"low": low, "high": high, "p": p, "runs": shared})
        if rows:
            table = pd.DataFrame(rows)
            tables.append(table.assign(p_adjusted=adjust(table["p"], correction), n=n, correction=correction))
    return pd.concat(tables, ignore_index=True)[COLUMNS] if tables else pd.DataFrame(columns=COLUMNS)
