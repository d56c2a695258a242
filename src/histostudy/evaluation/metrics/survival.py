"""Metrics of survival; what needs the censoring distribution takes it from the training part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pandas as pd

from histostudy.evaluation.censoring import Step, censoring, life_table, survival_at
from histostudy.evaluation.cox import slope
from histostudy.evaluation.metrics.base import Evaluate, Metric, Run
from histostudy.evaluation.metrics.kernels import Floats, auc, concordance, mean_of, ratio, tie_starts

#: Share of the training part's event times below tau, where Uno's c and the integrated Brier score stop.
TAU_QUANTILE = 0.9
#: Risks closer than this are tied (as scikit-survival's ``tied_tol``).
TIED = 1e-8
#: Predicted S(t) is cut to this and one less this before its complementary log-log is taken.
CLIP = 1e-4


@dataclass(frozen=True)
class Horizon:
    """What survival metrics need beside the frames.

    Attributes
    ----------
    tau_days : float
        Where Uno's c and the integrated Brier score stop: beyond it G(t) rests on few patients.
    grid_days : ndarray, shape (k,)
        Times up to tau at which S(t) is predicted.
    train : mapping of (repeat, fold) to DataFrame
        Outcomes of each run's training part.
    """

    tau_days: float
    grid_days: Floats
    train: Mapping[tuple[int, int], pd.DataFrame] = field(default_factory=dict)


def horizon_of(runs: Sequence[Run]) -> Horizon:
    """Tau: the least over runs of the 90th percentile of the training part's event times; and the grid up to it."""
    times = [run.train.loc[run.train["event"] > 0, "time"] for run in runs]
    tau = min((float(np.quantile(t, TAU_QUANTILE)) for t in times if len(t)), default=float("nan"))
    grid = np.array(predicted_days(runs), float)
    last = max(float(run.frame["time"].max()) for run in runs)
    grid = grid[grid < min(tau, last)] if np.isfinite(tau) else grid[:0]
    return Horizon(tau, grid, {(run.repeat, run.fold): run.train for run in runs})


def horizons_of(runs: Mapping[str, Sequence[Run]]) -> dict[str, Horizon]:
    """What the metrics of each model need; one grid for all models that predict S(t) at many times.

    A model that predicts it at few, such as a file with two horizons, would coarsen the grid of all: it is left out of
    the grid, and has no integrated score.

    Parameters
    ----------
    runs : mapping of model to sequence of Run
        Models may predict S(t) at different times, or not at all.
    """
    each = {model: horizon_of(parts) for model, parts in runs.items()}
    most = max((facts.grid_days.size for facts in each.values()), default=0)
    dense = {model for model, facts in each.items() if facts.grid_days.size and facts.grid_days.size * 2 >= most}
    grids = [set(each[model].grid_days) for model in dense]
    common = np.array(sorted(set.intersection(*grids)), float) if grids else np.zeros(0)
    none = np.zeros(0)
    return {m: Horizon(f.tau_days, common if m in dense else none, f.train) for m, f in each.items()}


def predicted_days(runs: Sequence[Run]) -> list[int]:
    """Days at which every run of a model predicts S(t), rising."""
    return sorted(set.intersection(*(set(surv_days(run.frame.columns)) for run in runs)))


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
    return lambda w: auc(w, risk, case, control, tolerance=TIED)


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
    survival = _predicted(frame, days)
    if days.size < 2 or survival is None:
        return np.full(len(frame), np.nan)
    return _integrated(brier_at(frame, train, days, survival), days)


def run_rows(frame: pd.DataFrame) -> list[tuple[tuple[int, int], np.ndarray]]:
    """The runs in a frame of several: (repeat, fold) and the row numbers of each."""
    groups = frame.groupby(["repeat", "fold"], sort=True).indices
    return [((int(key[0]), int(key[1])), np.asarray(rows)) for key, rows in groups.items()]  # type: ignore[index]


def run_codes(frame: pd.DataFrame) -> np.ndarray:
    """Number of the run of each row."""
    codes = np.zeros(len(frame), int)
    for number, (_, rows) in enumerate(run_rows(frame)):
        codes[rows] = number
    return codes


def rank_within_run(frame: pd.DataFrame) -> Floats:
    """Rank of each risk within its run's test part, from 0 to 1: ``(rank - 1/2) / n``, near-ties sharing theirs."""
    out = np.zeros(len(frame))
    risk = frame["risk"].to_numpy(float)
    for _, rows in run_rows(frame):
        order = np.argsort(risk[rows], kind="stable")
        bounds = np.append(tie_starts(risk[rows][order], TIED), rows.size)
        middle = (bounds[:-1] + bounds[1:]) / 2  # of ranks counted from 1/2
        out[rows[order]] = np.repeat(middle, np.diff(bounds)) / rows.size
    return out


def brier_and_reference(frame: pd.DataFrame, facts: Horizon, days: Floats) -> tuple[Floats, Floats] | None:
    """Contributions to the Brier score of the prediction and of the training part's Kaplan-Meier, (n, k) each.

    Each row is weighed by the censoring of its own run's training part. None where S(t) is not predicted at `days`.
    """
    survival = _predicted(frame, days)
    if survival is None:
        return None
    own, reference = np.zeros_like(survival), np.zeros_like(survival)
    for key, rows in run_rows(frame):
        train, part = facts.train[key], frame.iloc[rows]
        time, event, _ = outcome(train)
        steps = life_table(time, event)
        prior = np.broadcast_to(Step(steps.time, steps.survival)(days), (rows.size, days.size))
        own[rows] = brier_at(part, train, days, survival[rows])
        reference[rows] = brier_at(part, train, days, prior)
    return own, reference


def brier(frame: pd.DataFrame, train: pd.DataFrame, facts: Horizon, days: int) -> Evaluate:
    """Censoring-weighted Brier score of S(t) at `days`, over all test patients (Graf et al. 1999).

    Undefined where some training part, or no test patient, is followed past `days`.
    """
    both = brier_and_reference(frame, facts, np.array([days], float))
    followed = [float(facts.train[key]["time"].max()) for key, _ in run_rows(frame) if len(facts.train[key])]
    if both is None or not followed or min(followed) <= days or float(frame["time"].max()) <= days:
        return _undefined
    return lambda w: mean_of(w, both[0][:, 0])


def ibs_skill(frame: pd.DataFrame, train: pd.DataFrame, facts: Horizon) -> Evaluate:
    """One less the integrated Brier score over that of the training part's Kaplan-Meier: 0 is the trivial prediction.

    Both are taken over all test patients, on the same grid and with the same censoring weights.
    """
    days = facts.grid_days
    both = brier_and_reference(frame, facts, days) if days.size > 1 else None
    if both is None:
        return _undefined
    own, reference = (_integrated(x, days) for x in both)
    return lambda w: 1 - ratio(w @ own, w @ reference)


def calibration_slope(frame: pd.DataFrame, train: pd.DataFrame, facts: Horizon, days: int) -> Evaluate:
    """Slope of the predicted log cumulative hazard in a Cox model of the test patients; 1 is ideal.

    The only covariate is ``log(-log S(days))``, with S cut to [`CLIP`, 1 - `CLIP`]; one baseline a run, Breslow
    ties. For a model with proportional hazards that covariate is the log hazard up to a constant, so that the slope
    is the usual one (van Houwelingen 2000); for others it is our reading. Below 1 the predictions are too extreme.
    Undefined where the prediction is constant within every run.
    """
    predicted = _predicted(frame, np.array([days], float))
    if predicted is None:
        return _undefined
    time, event, _ = outcome(frame)
    log_hazard = np.log(-np.log(np.clip(predicted[:, 0], CLIP, 1 - CLIP)))
    codes = run_codes(frame)
    return lambda w: slope(w, time, event, log_hazard, codes)


def observed_expected(frame: pd.DataFrame, train: pd.DataFrame, facts: Horizon, days: int) -> Evaluate:
    """Events by `days`: ``1 - S(days)`` of the test patients' Kaplan-Meier over the mean prediction; 1 is ideal.

    Undefined where no test patient is followed past `days`.
    """
    predicted = _predicted(frame, np.array([days], float))
    if predicted is None:
        return _undefined
    time, event, _ = outcome(frame)
    return lambda w: ratio(1 - survival_at(w, time, event, days), mean_of(w, 1 - predicted[:, 0]))


def c_harrell_rank(frame: pd.DataFrame, train: pd.DataFrame, facts: Horizon) -> Evaluate:
    """Harrell's concordance over all test patients of the ranks within each run, which are not taken anew."""
    time, event, _ = outcome(frame)
    rank = rank_within_run(frame)
    return lambda w: concordance(w, time, event, rank)


def metrics(horizons: Sequence[int], runs: Sequence[Run] | None = None) -> tuple[Metric, ...]:
    """The metrics of a survival task with its horizons, days.

    ``c_harrell_pooled`` mixes the scales of several runs' risks; it is there to be seen beside ``c_harrell_rank``.

    Parameters
    ----------
    horizons : sequence of int
    runs : sequence of Run, optional
        Of the model: metrics of S(t) at days it does not predict are left out (predictions made elsewhere often
        hold a risk only). Without it every metric is there.
    """
    known = None if runs is None else set(predicted_days(runs))
    there = [days for days in horizons if known is None or days in known]
    curves = known is None or len(known) > 1
    middle = sorted(there)[(len(there) - 1) // 2 :][:1]  # the lower of two
    return (
        Metric("c_harrell", "fold mean", c_harrell),
        Metric("c_uno", "fold mean", c_uno),
        *(Metric(f"auroc_td@{days}", "fold mean", partial(auroc_td, days=days)) for days in horizons),
        *((Metric("ibs", "pooled", contribution=ibs), Metric("ibs_skill", "pooled", ibs_skill)) if curves else ()),
        *(Metric(f"brier@{days}", "pooled", partial(brier, days=days)) for days in there),
        *(Metric("calibration_slope", "pooled", partial(calibration_slope, days=days)) for days in middle),
        *(Metric(f"observed_expected@{days}", "pooled", partial(observed_expected, days=days)) for days in there),
        Metric("c_harrell_pooled", "pooled", c_harrell),
        Metric("c_harrell_rank", "pooled", c_harrell_rank),
    )


def _undefined(w: Floats) -> Floats:
    return np.full(w.shape[0], np.nan)


def _predicted(frame: pd.DataFrame, days: Floats) -> Floats | None:
    """Predicted S(t), (n, k); None where a column is missing or a row lacks it."""
    names = [f"surv_{int(d)}" for d in days]
    if any(name not in frame for name in names):
        return None
    values = frame[names].to_numpy(float)
    return values if np.isfinite(values).all() else None


def _integrated(contributions: Floats, days: Floats) -> Floats:
    return np.trapezoid(contributions, days, axis=1) / (days[-1] - days[0])
