"""Paired comparison of a task's models on its main metric."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from histostudy.evaluation.bootstrap import Floats, adjust, interval, p_value

#: The metric models of a task are compared on.
MAIN_METRIC = {"classification": "auroc", "survival": "c_harrell", "regression": "pearson", "expression": "pearson"}
COLUMNS = ["task", "model", "reference", "metric", "difference", "low", "high", "p", "p_adjusted", "n", "correction"]


def compare(
    task: str,
    metric: str,
    estimates: Mapping[str, float],
    resampled: Mapping[str, Floats],
    references: list[str],
    *,
    n: int,
    confidence: float = 0.95,
    correction: str = "holm",
) -> pd.DataFrame:
    """Difference of each model from each reference, on the same resamples of the same patients.

    p-values are corrected over the models compared with one reference. Where the metric of either is
    undefined (a constant prediction has no correlation) the row is empty and not counted as a test.

    Parameters
    ----------
    task, metric : str
    estimates : mapping of model to float
    resampled : mapping of model to ndarray, shape (B,)
        The metric on the same resamples for each model.
    references : list of str
        Each a model; pairs already compared with an earlier reference are not repeated.
    n : int
        Patients.

    Returns
    -------
    DataFrame
        task, model, reference, metric, difference (model minus reference), low, high, p, p_adjusted, n, correction.
    """
    done: set[frozenset[str]] = set()
    tables = []
    for reference in references:
        rows = []
        for model in estimates:
            pair = frozenset((model, reference))
            if model == reference or pair in done:
                continue
            done.add(pair)
            difference = estimates[model] - estimates[reference]
            draws = resampled[model] - resampled[reference]
            if np.isfinite(difference):
                low, high = interval(draws, confidence)
                p = p_value(draws)
            else:
                low = high = p = float("nan")
            row = {"task": task, "model": model, "reference": reference, "metric": metric, "difference": difference}
            rows.append(row | {"low": low, "high": high, "p": p})
        if rows:
            table = pd.DataFrame(rows)
            tables.append(table.assign(p_adjusted=adjust(table["p"], correction), n=n, correction=correction))
    return pd.concat(tables, ignore_index=True)[COLUMNS] if tables else pd.DataFrame(columns=COLUMNS)
