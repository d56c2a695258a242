"""Curves of survival as tidy tables: Kaplan-Meier by predicted risk, calibration at the horizons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from histostudy.evaluation.censoring import hazard_ratio, life_table, log_rank
from histostudy.evaluation.metrics.base import Run
from histostudy.evaluation.metrics.kernels import Floats
from histostudy.evaluation.metrics.survival import outcome
from histostudy.evaluation.pooling import TRAINING, pooled_strata
from histostudy.evaluation.runs import CUTOFF, pool_predictions

STRATA = ("low risk", "high risk")
CALIBRATION_GROUPS = 3


def strata(runs: Sequence[Run]) -> tuple[pd.DataFrame, str]:
    """Patients called high or low risk without looking at another fold's test part.

    The cut is the median risk of each run's training part where the run tells it; else the median within
    the fold's test part. Raw risks of several runs are never pooled: their offsets alone separate curves.

    Returns
    -------
    table : DataFrame
        patient_id, time, event, high (bool), fold; the first repeat of each patient.
    rule : str
        Which cut it was, for the caption.
    """
    known = all(CUTOFF in run.frame and run.frame[CUTOFF].notna().all() for run in runs)
    parts = []
    for run in runs:
        time, event, risk = outcome(run.frame)
        if known:
            high = risk > run.frame[CUTOFF].to_numpy(float)
        else:
            high = risk > np.median(risk)
        columns = {"patient_id": run.frame["patient_id"], "time": time, "event": event, "high": high}
        parts.append(pd.DataFrame(columns).assign(fold=f"r{run.repeat}f{run.fold}"))
    table = pd.concat(parts, ignore_index=True).drop_duplicates("patient_id", ignore_index=True)
    return table, "median risk of the training part" if known else "median risk within the fold"


def kaplan_meier(model: str, runs: Sequence[Run], confidence: float) -> pd.DataFrame:
    """Kaplan-Meier curves of the patients called low and high risk.

    Returns
    -------
    DataFrame
        model, stratum, time_days, survival, low, high, at_risk, events: a row each distinct time, from day 0;
        and of the whole comparison p (log-rank stratified by fold), hr, hr_low, hr_high, rule. Empty where
        one stratum is.
    """
    table, rule = strata(runs)
    high = table["high"].to_numpy(bool)
    if high.all() or not high.any():
        return pd.DataFrame()
    time, event, fold = table["time"].to_numpy(float), table["event"].to_numpy(bool), table["fold"].to_numpy(str)
    return _two_curves(model, time, event, high, fold, rule, confidence)


def km_pooled(model: str, runs: Sequence[Run], confidence: float) -> pd.DataFrame:
    """Kaplan-Meier curves cut by rank within the fold and at the median of the pooled raw risk, side by side.

    Returns
    -------
    DataFrame
        As `kaplan_meier`, with a column `pooling` (see `pooling.pooled_strata`); the log-rank test of the raw pooled
        risk ignores the fold, as it is often published.
    """
    out = []
    for part in pooled_strata(runs):
        if part.pooling != TRAINING and part.high.any() and not part.high.all():
            curves = _two_curves(model, part.time, part.event, part.high, part.strata, part.pooling, confidence)
            out.append(curves.assign(pooling=part.pooling))
    return pd.concat(out, ignore_index=True) if out else pd.DataFrame()


def _two_curves(
    model: str,
    time: Floats,
    event: np.ndarray,
    high: np.ndarray,
    strata: np.ndarray,
    rule: str,
    confidence: float,
) -> pd.DataFrame:
    ratio, low_end, high_end = hazard_ratio(time, event, high, strata, confidence)
    about: dict[str, Any] = {
        "p": log_rank(time, event, high, strata),
        "hr": ratio,
        "hr_low": low_end,
        "hr_high": high_end,
        "rule": rule,
    }
    out = []
    for name, part in zip(STRATA, (~high, high), strict=True):
        steps = life_table(time[part], event[part], confidence)
        body = pd.DataFrame(
            {"time_days": steps.time, "survival": steps.survival, "low": steps.low, "high": steps.high}
            | {"at_risk": steps.at_risk.astype(int), "events": steps.events.astype(int)}
        )
        start = {"time_days": 0.0, "survival": 1.0, "low": 1.0, "high": 1.0, "at_risk": int(part.sum()), "events": 0}
        body = pd.concat([pd.DataFrame([start]), body[body["time_days"] > 0]], ignore_index=True)
        out.append(body.assign(model=model, stratum=name, **about))
    first = ["model", "stratum"]
    tables = pd.concat(out, ignore_index=True)
    return tables[first + [c for c in tables.columns if c not in first]]


def calibration(model: str, runs: Sequence[Run], horizons: Sequence[int], confidence: float) -> pd.DataFrame:
    """Predicted against Kaplan-Meier survival at each horizon, in thirds of the prediction.

    A patient tested by several runs is one patient, with the mean of his predictions: a life table of his
    copies would narrow the interval without another patient.

    Returns
    -------
    DataFrame
        model, horizon_days, bin, predicted, observed, low, high, n (patients), events.
    """
    frame = pool_predictions([run.frame for run in runs])
    time, event, _ = outcome(frame)
    out = []
    for days in horizons:
        if f"surv_{days}" not in frame or time.max() <= days:
            continue
        said = frame[f"surv_{days}"].to_numpy(float)
        edges = np.unique(np.quantile(said, np.arange(1, CALIBRATION_GROUPS) / CALIBRATION_GROUPS))
        bins = np.searchsorted(edges, said, side="left")
        for number in np.unique(bins):
            part = bins == number
            steps = life_table(time[part], event[part], confidence)
            at = int(np.searchsorted(steps.time, days, side="right")) - 1
            observed, low, high = (float(x[at]) if at >= 0 else 1.0 for x in (steps.survival, steps.low, steps.high))
            row = {"model": model, "horizon_days": int(days), "bin": int(number), "predicted": float(said[part].mean())}
            row |= {"observed": observed, "low": low, "high": high, "n": int(part.sum())}
            out.append(row | {"events": int((event[part] & (time[part] <= days)).sum())})
    return pd.DataFrame(out)
