"""Curves of survival as tidy tables: Kaplan-Meier by predicted risk or by group, calibration at the horizons."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from histostudy.evaluation.censoring import life_table, log_rank
from histostudy.evaluation.cox import hazard_ratio
from histostudy.evaluation.metrics.base import Run
from histostudy.evaluation.metrics.kernels import Floats
from histostudy.evaluation.metrics.survival import outcome
from histostudy.evaluation.pooling import TRAINING, Pooled, pooled_strata
from histostudy.evaluation.runs import pool_predictions

STRATA = ("low risk", "high risk")
CALIBRATION_GROUPS = 3


def kaplan_meier(model: str, runs: Sequence[Run], confidence: float) -> pd.DataFrame:
    """Kaplan-Meier curves of the patients called low and high risk without a look at another fold's test part.

    Cut at the median risk of each run's training part where every run tells it, else by rank within the fold (see
    `pooling.pooled_strata`). Raw risks of several runs are never pooled: their offsets alone separate curves.

    Returns
    -------
    DataFrame
        model, stratum, time_days, survival, low, high, at_risk, events: a row each distinct time, from day 0;
        and of the whole comparison p (log-rank stratified by fold), hr, hr_low, hr_high (Cox, see
        `cox.hazard_ratio`), rule. Empty where one stratum is.
    """
    return _two_curves(model, pooled_strata(runs)[0], confidence)


def km_pooled(model: str, runs: Sequence[Run], confidence: float) -> pd.DataFrame:
    """Kaplan-Meier curves cut by rank within the fold and at the median of the pooled raw risk, side by side.

    Returns
    -------
    DataFrame
        As `kaplan_meier`, with a column `pooling` (see `pooling.pooled_strata`); the log-rank test of the raw pooled
        risk ignores the fold, as it is often published.
    """
    parts = [part for part in pooled_strata(runs) if part.pooling != TRAINING]
    out = [_two_curves(model, part, confidence).assign(pooling=part.pooling) for part in parts]
    out = [table for table in out if len(table)]
    return pd.concat(out, ignore_index=True) if out else pd.DataFrame()


def _two_curves(model: str, part: Pooled, confidence: float) -> pd.DataFrame:
    """Curves of low and high risk with the hazard ratio of the two; empty where all are called alike."""
    if part.high.all() or not part.high.any():
        return pd.DataFrame()
    names = np.array(STRATA)[part.high.astype(int)]
    curves = km_of_groups(part.time, part.event, names, part.strata, confidence, STRATA)
    ratio, low, high = hazard_ratio(part.time, part.event, part.high, part.strata, confidence)
    curves.insert(0, "model", model)
    return curves.assign(hr=ratio, hr_low=low, hr_high=high, rule=part.pooling)


def km_of_groups(
    time: Floats,
    event: np.ndarray,
    group: np.ndarray,
    strata: np.ndarray,
    confidence: float,
    order: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Kaplan-Meier curves of two or more groups, with their stratified log-rank p.

    Parameters
    ----------
    time, event : ndarray, shape (n,)
        Follow-up in days, and whether it ended in the event.
    group : ndarray of str, shape (n,)
        Such as the predicted subtype.
    strata : ndarray, shape (n,)
        The run that tested each patient.
    confidence : float
    order : sequence of str, optional
        The groups in the order of the table; else by name.

    Returns
    -------
    DataFrame
        stratum (the group), time_days, survival, low, high, at_risk, events: a row each distinct time, from day 0;
        and p of the whole comparison, the same in each row.
    """
    tables = []
    for name in order or np.unique(group):
        mine = group == name
        life = life_table(time[mine], event[mine], confidence)
        steps = {"time_days": life.time, "survival": life.survival, "low": life.low, "high": life.high}
        counts = {"at_risk": life.at_risk.astype(int), "events": life.events.astype(int)}
        table = pd.DataFrame({"stratum": name} | steps | counts)
        start = {"stratum": name, "time_days": 0.0, "survival": 1.0, "low": 1.0, "high": 1.0}
        start |= {"at_risk": int(mine.sum()), "events": 0}
        tables += [pd.DataFrame([start]), table[table["time_days"] > 0]]
    return pd.concat(tables, ignore_index=True).assign(p=log_rank(time, event, group, strata))


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
