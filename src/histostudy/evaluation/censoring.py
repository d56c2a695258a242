"""Kaplan-Meier of the event and of censoring, the log-rank test and the hazard ratio of two groups."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Step:
    """A right-continuous step function that starts at one.

    Attributes
    ----------
    time : ndarray, shape (k,)
        Rising times of the steps.
    value : ndarray, shape (k,)
        Value from each time on.
    """

    time: Floats
    value: Floats

    def __call__(self, at: Floats) -> Floats:
        """Values at times `at`; beyond the last step the last value holds."""
        place = np.searchsorted(self.time, at, side="right")
        return np.concatenate([[1.0], self.value])[place]


@dataclass(frozen=True)
class LifeTable:
    """Kaplan-Meier estimate at each distinct time, with its pointwise interval.

    Attributes
    ----------
    time, survival, low, high : ndarray, shape (k,)
    at_risk, events : ndarray, shape (k,)
        Patients at risk just before each time, and events at it.
    """

    time: Floats
    survival: Floats
    low: Floats
    high: Floats
    at_risk: Floats
    events: Floats


def _counts(time: Floats, event: NDArray[np.bool_]) -> tuple[Floats, Floats, Floats, Floats]:
    distinct, group = np.unique(time, return_inverse=True)
    events: Floats = np.bincount(group, weights=event, minlength=distinct.size).astype(float)
    leaving: Floats = np.bincount(group, minlength=distinct.size).astype(float)
    at_risk: Floats = time.size - np.concatenate([[0.0], np.cumsum(leaving)[:-1]])
    return distinct.astype(float), events, leaving - events, at_risk


def life_table(time: Floats, event: NDArray[np.bool_], confidence: float = 0.95) -> LifeTable:
    """Kaplan-Meier with Greenwood's variance on the log-log scale, as scikit-survival and R's ``log-log``.

    Parameters
    ----------
    time : ndarray, shape (n,)
        Follow-up, days.
    event : ndarray of bool, shape (n,)
        Whether it ended in the event.
    confidence : float
        Of the pointwise interval.
    """
    from scipy.stats import norm

    distinct, events, _, at_risk = _counts(time, event)
    survival = np.cumprod(1 - events / at_risk)
    left = at_risk - events
    green = np.cumsum(np.where(left > 0, events / np.where(left > 0, at_risk * left, 1), 0))
    inside = (survival > 0) & (survival < 1)
    log = np.log(np.where(inside, survival, 0.5))
    wide = norm.ppf(0.5 + confidence / 2) * np.sqrt(green) / np.abs(log)
    low = np.where(inside, np.exp(log * np.exp(wide)), survival)
    high = np.where(inside, np.exp(log * np.exp(-wide)), survival)
    return LifeTable(distinct, survival, low, high, at_risk, events)


def censoring(time: Floats, event: NDArray[np.bool_]) -> Step:
    """Probability of being uncensored beyond a time, G(t); at one time events come before censorings."""
    distinct, events, censored, at_risk = _counts(time, event)
    left = at_risk - events
    factor: Floats = np.where(left > 0, 1 - censored / np.where(left > 0, left, 1), 1.0)
    return Step(distinct, np.cumprod(factor, dtype=float))


def survival_at(w: Floats, time: Floats, event: NDArray[np.bool_], days: float) -> Floats:
    """Kaplan-Meier estimate of S(days) on each resample.

    Parameters
    ----------
    w : ndarray, shape (B, n)
        How often each patient occurs.
    time, event : ndarray, shape (n,)
    days : float

    Returns
    -------
    ndarray, shape (B,)
        NaN where nobody is followed past `days`.
    """
    moments = np.unique(time[event & (time <= days)])
    at_risk = w @ (time[:, None] >= moments).astype(float)
    events = w @ ((time[:, None] == moments) & event[:, None]).astype(float)
    left = 1 - np.where(at_risk > 0, events / np.where(at_risk > 0, at_risk, 1), 0)
    return np.where(w @ (time > days).astype(float) > 0, left.prod(1), np.nan)


def log_rank(time: Floats, event: NDArray[np.bool_], high: NDArray[np.bool_], strata: NDArray) -> float:
    """P-value of the two-group log-rank test, stratified: expected events are summed within strata.

    Parameters
    ----------
    time, event : ndarray, shape (n,)
    high : ndarray of bool, shape (n,)
        The group.
    strata : ndarray, shape (n,)
        The fold that tested each patient; one constant gives the plain test.

    Returns
    -------
    float
        NaN where the variance is zero (one group, or no event).
    """
    from scipy.stats import chi2

    excess = variance = 0.0
    for stratum in np.unique(strata):
        part = strata == stratum
        t, e, g = time[part], event[part], high[part]
        for moment in np.unique(t[e]):
            risk = t >= moment
            n, n1 = risk.sum(), (risk & g).sum()
            now = (t == moment) & e
            d = now.sum()
            excess += (now & g).sum() - d * n1 / n
            if n > 1:
                variance += d * (n1 / n) * (1 - n1 / n) * (n - d) / (n - 1)
    return float(chi2.sf(excess**2 / variance, 1)) if variance > 0 else float("nan")


def hazard_ratio(
    time: Floats, event: NDArray[np.bool_], high: NDArray[np.bool_], strata: NDArray, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Hazard ratio of the group with its interval, from a Cox model with one baseline a stratum (Breslow ties).

    Returns
    -------
    ratio, low, high : float
        NaN where it is not finite: a group without an event, or one group only.
    """
    from scipy.stats import norm

    sets = []  # of each event: share of the risk set in the group's terms, solved by Newton below
    for stratum in np.unique(strata):
        part = strata == stratum
        t, e, g = time[part], event[part], high[part]
        sets += [((t >= m) & g, (t >= m) & ~g, (t == m) & e, g) for m in np.unique(t[e])]
    if not sets:
        return float("nan"), float("nan"), float("nan")
    n1 = np.array([s[0].sum() for s in sets], float)
    n0 = np.array([s[1].sum() for s in sets], float)
    d = np.array([s[2].sum() for s in sets], float)
    d1 = np.array([(s[2] & s[3]).sum() for s in sets], float)
    mixed = (n1 > 0) & (n0 > 0)
    n1, n0, d, d1 = n1[mixed], n0[mixed], d[mixed], d1[mixed]
    if d1.sum() in (0, d.sum()):
        return float("nan"), float("nan"), float("nan")
    beta = 0.0
    for _ in range(50):
        share = n1 * np.exp(beta) / (n1 * np.exp(beta) + n0)
        information = (d * share * (1 - share)).sum()
        move = float(np.clip((d1 - d * share).sum() / information, -1, 1))
        beta += move
        if abs(move) < 1e-10:
            break
    share = n1 * np.exp(beta) / (n1 * np.exp(beta) + n0)
    wide = norm.ppf(0.5 + confidence / 2) / np.sqrt((d * share * (1 - share)).sum())
    return float(np.exp(beta)), float(np.exp(beta - wide)), float(np.exp(beta + wide))
