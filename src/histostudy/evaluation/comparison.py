"""Paired comparison of a task's models on its main metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from histostudy.evaluation.bootstrap import Floats, adjust, interval, p_value
from histostudy.evaluation.delong import Difference
from histostudy.evaluation.metrics.base import Values
from histostudy.evaluation.metrics.kernels import nanmean

#: The metric models of a task are compared on.
MAIN_METRIC = {
    "classification": "auroc", "survival": "c_harrell", "regression": "pearson", "expression": "pearson",
    "segmentation": "dice", "tile_classification": "auroc",
}  # fmt: skip
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
    each : ndarray, shape (runs,), optional
        The difference in each run; NaN where it is undefined.
    """

    difference: float
    draws: Floats
    runs: int
    each: Floats | None = None


def pair_runs(one: Values, other: Values) -> Pair:
    """Pair two fold means run by run: a run left out for one model is left out for both, in a resample too."""
    assert one.each is not None and one.draws is not None and other.each is not None and other.draws is not None
    apart = one.each - other.each
    return Pair(float(nanmean(apart, 0)), nanmean(one.draws - other.draws, 0), int(np.isfinite(apart).sum()), apart)


def resampling_ratio(splits: pd.DataFrame) -> float | None:
    """Mean over runs of patients tested to patients trained on, where patients are tested in several runs.

    What `compare` needs for the corrected resampled t test: of repeated cross-validation, and of published folds
    that overlap. None where each patient is tested once: differences of the folds of one cross-validation are
    too few for it.

    Parameters
    ----------
    splits : DataFrame
        repeat, fold, patient_id, part. The inner validation part is not trained on.
    """
    tested = splits[splits["part"] == "test"]
    parts = {frozenset(run["patient_id"]) for _, run in tested.groupby(["repeat", "fold"])}
    # the same folds trained again with other seeds are one cross-validation
    if sum(map(len, parts)) == tested["patient_id"].nunique():
        return None
    sizes = splits.groupby(["repeat", "fold"])["part"].value_counts().unstack(fill_value=0)
    return float((sizes["test"] / sizes["train"]).mean())


def corrected_t(each: Floats, ratio: float) -> tuple[float, float]:
    """t and two-sided p of the corrected resampled t test: ``mean(d) / sqrt((1 / J + ratio) var(d))``, df ``J - 1``.

    Runs share training patients, so that their differences vary too little; `ratio` makes up for it. Source: Nadeau
    and Bengio, Machine Learning 2003 (52:239), for folds x repeats Bouckaert and Frank, PAKDD 2004.

    Parameters
    ----------
    each : ndarray, shape (J,)
        Difference of two models in each run; undefined ones are left out.
    ratio : float
        Patients tested to patients trained on, in a run.

    Returns
    -------
    t, p : float
        0 and 1 where the models never differ; NaN with fewer than two runs, or where all differ by the same.
    """
    from scipy.stats import t as student

    d = each[np.isfinite(each)]
    if d.size >= 2 and np.abs(d).max() < 1e-12:
        return 0.0, 1.0
    if d.size < 2 or d.std(ddof=1) < 1e-12:
        return math.nan, math.nan
    t = float(d.mean() / np.sqrt((1 / d.size + ratio) * d.var(ddof=1)))
    return t, float(2 * student.sf(abs(t), d.size - 1))


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
    delong: Callable[[str, str], Difference] | None = None,
    ratio: float | None = None,
) -> pd.DataFrame:
    """Difference of each model from each reference, on the same runs and the same resamples of the same patients.

    p-values are corrected over all the models compared with one reference. A run where the metric of either is
    undefined (a constant prediction has no correlation) is left out for both; where no run is left the row
    is empty and not counted as a test. So a difference need not be that of the two estimates in the metrics.

    Parameters
    ----------
    task, metric : str
    models : sequence of str
    pair : callable
        Takes a model and a reference, returns their `Pair`.
    references : sequence of str
        Each a model; a pair already compared with an earlier reference gets no second row, but counts as a test
        of the later one too.
    n : int
        Patients of the task.
    delong : callable, optional
        See `delong.delong_test`; for the AUROC of two classes.
    ratio : float, optional
        See `resampling_ratio`; where patients are tested in several runs.

    Returns
    -------
    DataFrame
        task, model, reference, metric, difference (model minus reference), low, high, p, p_adjusted, n, runs (that
        the pair was compared on), correction; with `delong` also delong_se (of the difference) and delong_p, with
        `ratio` corrected_t_p. Those two p are a check on the bootstrap's and are not corrected.
    """
    columns = COLUMNS + ["delong_se", "delong_p"] * (delong is not None) + ["corrected_t_p"] * (ratio is not None)
    done: set[frozenset[str]] = set()
    tables = []
    for reference in references:
        rows = []
        for model in models:
            if model == reference:
                continue
            difference, draws, shared, each = pair(model, reference)
            low, high = interval(draws, confidence) if np.isfinite(difference) else (math.nan, math.nan)
            row = {"task": task, "model": model, "reference": reference, "metric": metric, "difference": difference}
            row |= {"low": low, "high": high, "p": p_value(draws) if np.isfinite(difference) else math.nan}
            row |= {"runs": shared, "again": frozenset((model, reference)) in done}
            if delong is not None:
                row |= dict(zip(("delong_se", "delong_p"), delong(model, reference)[1::2], strict=True))
            if ratio is not None:
                row["corrected_t_p"] = math.nan if each is None else corrected_t(each, ratio)[1]
            rows.append(row)
        done |= {frozenset((model, reference)) for model in models}
        if rows:
            table = pd.DataFrame(rows)
            table = table.assign(p_adjusted=adjust(table["p"], correction), n=n, correction=correction)
            tables.append(table[~table["again"]])
    tables = [table for table in tables if len(table)]
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)
