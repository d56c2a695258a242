"""Metrics of regression."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histostudy.evaluation.metrics import kernels
from histostudy.evaluation.metrics.base import Evaluate, Metric
from histostudy.evaluation.metrics.kernels import Floats


def _both(frame: pd.DataFrame) -> tuple[Floats, Floats]:
    return frame["truth"].to_numpy(float), frame["prediction"].to_numpy(float)


def pearson(frame: pd.DataFrame, train: pd.DataFrame, facts: object) -> Evaluate:
    """Pearson correlation; undefined for a constant prediction."""
    truth, prediction = _both(frame)
    return lambda w: kernels.pearson(w, truth[:, None], prediction[:, None])[:, 0]


def spearman(frame: pd.DataFrame, train: pd.DataFrame, facts: object) -> Evaluate:
    """Spearman correlation; undefined for a constant prediction."""
    truth, prediction = _both(frame)
    return lambda w: kernels.spearman(w, truth, prediction)


def r2(frame: pd.DataFrame, train: pd.DataFrame, facts: object) -> Evaluate:
    """Coefficient of determination: skill against the test patients' own mean; negative is worse than it."""
    truth, prediction = _both(frame)
    return lambda w: kernels.r2(w, truth[:, None], prediction[:, None])[:, 0]


def mae(frame: pd.DataFrame, train: pd.DataFrame, facts: object) -> Floats:
    """Absolute error, in the unit of the target."""
    truth, prediction = _both(frame)
    return np.abs(truth - prediction)


def high(truth: Floats, cutoff: float) -> NDArray[np.bool_]:
    """Whether a patient's number is at or above the clinical cut-off."""
    return truth >= cutoff


def at_cutoff(cutoff: float) -> Metric:
    """``auroc@<cutoff>``: area under the ROC curve of the prediction, for patients at or above the cut-off or below.

    The prediction itself is not cut. Undefined in a fold whose patients are all on one side.
    """

    def prepare(frame: pd.DataFrame, train: pd.DataFrame, facts: object) -> Evaluate:
        truth, prediction = _both(frame)
        case = high(truth, cutoff).astype(float)
        return lambda w: kernels.auc(w, prediction, case, 1 - case)

    return Metric(f"auroc@{cutoff:.12g}", "fold mean", prepare)


METRICS = (
    Metric("r2", "pooled", r2),
    Metric("mae", "pooled", contribution=mae),
    Metric("pearson", "fold mean", pearson),
    Metric("spearman", "fold mean", spearman),
)


def metrics(cutoff: float | None = None) -> tuple[Metric, ...]:
    """The metrics of a task, with the one at its clinical cut-off where it has one."""
    return METRICS if cutoff is None else (*METRICS, at_cutoff(cutoff))
