"""Discrimination and error over time as tidy tables: time-dependent AUROC, Brier score beside its reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from histostudy.evaluation.bootstrap import BAND_RESAMPLES
from histostudy.evaluation.metrics.base import Run
from histostudy.evaluation.metrics.kernels import Floats, mean_of, nanmean
from histostudy.evaluation.metrics.survival import (
    auroc_td,
    brier_and_reference,
    horizon_of,
    outcome,
    predicted_days,
)

#: Most points of a curve.
POINTS = 40
YEAR_DAYS = 365.25
MONTH_DAYS = YEAR_DAYS / 12
#: The grid's steps, months: the finest that needs no more than `POINTS`.
STEPS_MONTHS = (1, 2, 3, 6, 12, 24, 60)
#: A curve ends where this share of the test patients is still followed: beyond it rests on few.
STILL_FOLLOWED = 0.1
TD_AUC_COLUMNS = ["model", "days", "estimate", "low", "high", "n", "events"]
BRIER_COLUMNS = [*TD_AUC_COLUMNS, "reference"]


def last_day(runs: Sequence[Run]) -> float:
    """End of the curves: every training part is followed past it, and a tenth of the test patients."""
    tested = np.concatenate([run.frame["time"].to_numpy(float) for run in runs])
    trained = [float(run.train["time"].max()) for run in runs if len(run.train)]
    return min([float(np.quantile(tested, 1 - STILL_FOLLOWED)), *trained])


def grid(runs: Sequence[Run]) -> list[int]:
    """Days of a time-dependent AUROC: about monthly, or as much coarser as keeps within `POINTS`."""
    end = last_day(runs)
    for months in STEPS_MONTHS:
        days = [round(MONTH_DAYS * months * k) for k in range(1, POINTS + 2)]
        inside = [d for d in days if d < end]
        if len(inside) <= POINTS:
            return inside
    return inside[:POINTS]


def td_auc(model: str, runs: Sequence[Run], weights: Floats, confidence: float) -> pd.DataFrame:
    """Cumulative/dynamic AUROC over time, averaged over the runs where it is defined, with pointwise bands.

    Parameters
    ----------
    model : str
    runs : sequence of Run
    weights : ndarray, shape (B, P)
        Resampling weights of the task's patients; the first `BAND_RESAMPLES` are used.
    confidence : float

    Returns
    -------
    DataFrame
        model, days, estimate, low, high, n (patients), events (by then). Days without a case are left out.
    """
    facts = horizon_of(runs)
    drawn = [weights[:BAND_RESAMPLES, run.rows] for run in runs]
    days, lines, draws = grid(runs), [], []
    for day in days:
        each, sampled = np.full(len(runs), np.nan), np.full((len(runs), drawn[0].shape[0]), np.nan)
        for number, run in enumerate(runs):
            take = auroc_td(run.frame, run.train, facts, day)
            each[number] = take(np.ones((1, run.rows.size)))[0]
            if np.isfinite(each[number]):
                sampled[number] = take(drawn[number])
        lines.append(float(nanmean(each, 0)))
        draws.append(nanmean(sampled, 0))
    table = _curve(model, runs, days, np.array(lines), np.array(draws).reshape(len(days), -1), confidence)
    return table[np.isfinite(table["estimate"])].reset_index(drop=True)[TD_AUC_COLUMNS]


def brier_curve(model: str, runs: Sequence[Run], weights: Floats, confidence: float) -> pd.DataFrame:
    """Brier score over time, over all test patients, beside that of the training part's Kaplan-Meier.

    Parameters
    ----------
    model : str
    runs : sequence of Run
    weights : ndarray, shape (B, P)
        Resampling weights of the task's patients; the first `BAND_RESAMPLES` are used.
    confidence : float

    Returns
    -------
    DataFrame
        model, days, estimate, low, high, n, events (by then), reference. Empty where S(t) is not predicted.
    """
    end = last_day(runs)
    days = [d for d in predicted_days(runs) if 0 < d < end]
    if len(days) > POINTS:
        days = [days[k] for k in np.unique(np.linspace(0, len(days) - 1, POINTS).round().astype(int))]
    frame = pd.concat([run.frame for run in runs], ignore_index=True)
    both = brier_and_reference(frame, horizon_of(runs), np.array(days, float)) if days else None
    if both is None:
        return pd.DataFrame(columns=BRIER_COLUMNS)
    rows = np.concatenate([run.rows for run in runs])
    draws = mean_of(weights[:BAND_RESAMPLES, rows], both[0])
    table = _curve(model, runs, days, both[0].mean(0), draws.T, confidence)
    return table.assign(reference=both[1].mean(0))[BRIER_COLUMNS]


def _curve(
    model: str, runs: Sequence[Run], days: Sequence[int], line: Floats, draws: Floats, confidence: float
) -> pd.DataFrame:
    """Estimate and band at each day; `draws` of shape (days, B)."""
    patients = pd.concat([run.frame for run in runs]).drop_duplicates("patient_id")
    time, event, _ = outcome(patients)
    tail = 50 * (1 - confidence)
    low, high = np.full(len(days), np.nan), np.full(len(days), np.nan)
    known = np.isfinite(draws).any(1) if draws.size else np.zeros(len(days), bool)
    if known.any():
        low[known], high[known] = np.nanpercentile(draws[known], [tail, 100 - tail], axis=1)
    events = [int((event & (time <= d)).sum()) for d in days]
    columns = {"days": list(days), "estimate": line, "low": low, "high": high, "events": events}
    return pd.DataFrame(columns).assign(model=model, n=len(patients))
