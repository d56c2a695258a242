"""Metrics of survival; what needs the censoring distribution takes it from the training part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from histostudy.evaluation.censoring import Step, censoring
from histostudy.evaluation.metrics.base import Evaluate, Metric, Run
from histostudy.evaluation.metrics.kernels import Floats, auc, concordance

#: Share of the training part's event times below tau, where Uno's c and the integrated Brier score stop.
TAU_QUANTILE = 0.9


@dataclass(frozen=True)
class Horizon:
    """What survival metrics need beside the frames.

    Attributes
    ----------
    tau_days : float
        Where Uno's c and the integrated Brier score stop: beyond it G(t) rests on few patients.
    grid_days : ndarray, shape (k,)
        Times up to tau at which S(t) is predicted.
    """

    tau_days: float
    grid_days: Floats


def horizon_of(runs: Sequence[Run]) -> Horizon:
    """Tau: the least over runs of the 90th percentile of the training part's event times; and the grid up to it."""
    times = [run.train.loc[run.train["event"] > 0, "time"] for run in runs]
    tau = min((float(np.quantile(t, TAU_QUANTILE)) for t in times if len(t)), default=float("nan"))
    columns = runs[0].frame.columns
    grid = np.array(sorted(surv_days(columns)), float)
    last = max(float(run.frame["time"].max()) for run in runs)
    return Horizon(tau, grid[grid < min(tau, last)] if np.isfinite(tau) else grid[:0])


def surv_days(columns: Sequence[str] | pd.Index) -> list[int]:
    """Days of the columns ``surv_<days>``."""
    return [int(c.removeprefix("surv_")) for c in columns if c.startswith("surv_")]


def outcome(frame: pd.DataFrame) -> tuple[Floats, np.ndarray, Floats]:
    """Time, event and risk of the rows (risk: NaN where the frame has none)."""
    risk = frame["risk"].to_numpy(float) if "risk" in frame else np.full(len(frame), np.nan)
    return frame["time"].to_numpy(float), frame["event"].to_numpy() > 0, risk


def uncensored(train: pd.DataFrame) -> Step:
    """Censoring distribution G of the training part."""
    time, event, _ = outcome(train)
    return censoring(time, event)


def c_harrell(frame: pd.DataFrame, train: pd.DataFrame, facts: Horizon) -> Evaluate:
    """Harrell's concordance (Harrell, Lee and Mark 1996)."""
    time, event, risk = outcome(frame)
    return lambda w: concordance(w, time, event, risk)


def c_uno(frame: pd.DataFrame, train: pd.DataFrame, facts: Horizon) -> Evaluate:
    """Uno's concordance up to tau: pairs weighted by ``1 / G(t)^2`` of the earlier time (Uno et al. 2011)."""
    time, event, risk = outcome(frame)
    still = uncensored(train)(time)
    pair = np.where((time < facts.tau_days) & (still > 0), 1 / np.maximum(still, 1e-12) ** 2, 0.0)
    return lambda w: concordance(w, time, event, risk, pair)


def auroc_td(frame: pd.DataFrame, train: pd.DataFrame, facts: Horizon, days: int) -> Evaluate:
    """Cumulative/dynamic AUROC: event by `days` against still followed after it (Uno et al. 2007).

    Undefined where nobody of the training part, or no test patient, is followed past `days`.
    """
    time, event, risk = outcome(frame)
    if not len(train) or float(train["time"].max()) <= days:
        return lambda w: np.full(w.shape[0], np.nan)
    still = uncensored(train)(time)
    case = np.where(event & (time <= days) & (still > 0), 1 / np.maximum(still, 1e-12), 0.0)
    control = (time > days).astype(float)
    return lambda w: auc(w, risk, case, control, tolerance=1e-8)


def brier_at(frame: pd.DataFrame, train: pd.DataFrame, days: Floats, survival: Floats) -> Floats:
    """Contribution of each patient to the censoring-weighted Brier score at each time (Graf et al. 1999).

    Parameters
    ----------
    frame, train : DataFrame
        Test rows; outcomes that give the censoring distribution.
    days : ndarray, shape (k,)
    survival : ndarray, shape (n, k)
        Predicted S(t).

    Returns
    -------
    ndarray, shape (n, k)
    """
    time, event, _ = outcome(frame)
    still = uncensored(train)
    own, then = np.maximum(still(time), 1e-12)[:, None], np.maximum(still(days), 1e-12)[None]
    died = (time[:, None] <= days) & event[:, None]
    lives = time[:, None] > days
    return np.where(died, survival**2 / own, 0.0) + np.where(lives, (1 - survival) ** 2 / then, 0.0)


def ibs(frame: pd.DataFrame, train: pd.DataFrame, facts: Horizon) -> Floats:
    """Contribution of each patient to the Brier score integrated over the grid (trapezoid over its span)."""
    days = facts.grid_days
    if days.size < 2:
        return np.full(len(frame), np.nan)
    survival = frame[[f"surv_{int(d)}" for d in days]].to_numpy(float)
    return np.trapezoid(brier_at(frame, train, days, survival), days, axis=1) / (days[-1] - days[0])


def metrics(horizons: Sequence[int]) -> tuple[Metric, ...]:
    """The metrics of a survival task with its horizons, days."""
    return (
        Metric("c_harrell", "fold mean", c_harrell),
        Metric("c_uno", "fold mean", c_uno),
        *(Metric(f"auroc_td@{days}", "fold mean", partial(auroc_td, days=days)) for days in horizons),
        Metric("ibs", "pooled", contribution=ibs),
    )
