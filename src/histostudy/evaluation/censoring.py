"""Kaplan-Meier of the event and of censoring, and the log-rank test."""

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


def log_rank(time: Floats, event: NDArray[np.bool_], group: NDArray, strata: NDArray) -> float:
    """P-value of the log-rank test of two or more groups, stratified.

    Observed minus expected events and their covariance (hypergeometric, so that ties are allowed for) are summed
    over strata; chi-square with one degree of freedom fewer than there are groups that are ever at risk beside
    another.

    Parameters
    ----------
    time, event : ndarray, shape (n,)
    group : ndarray, shape (n,)
        Whatever tells the groups apart: high or low risk, the name of a subtype.
    strata : ndarray, shape (n,)
        The fold that tested each patient; one constant gives the plain test.

    Returns
    -------
    float
        NaN where nothing is compared (one group, or no event).
    """
    from scipy.stats import chi2

    names, codes = np.unique(group, return_inverse=True)
    hot = np.eye(names.size)[codes]
    excess, covariance = np.zeros(names.size), np.zeros((names.size, names.size))
    for stratum in np.unique(strata):
        rows = np.flatnonzero(strata == stratum)
        rows = rows[np.argsort(time[rows], kind="stable")]
        t, e, g = time[rows], event[rows], hot[rows]
        moments, which = np.unique(t[e], return_inverse=True)
        at_risk = np.cumsum(g[::-1], axis=0)[::-1][np.searchsorted(t, moments)]
        now = np.zeros_like(at_risk)
        np.add.at(now, which, g[e])
        n, d = at_risk.sum(1), now.sum(1)
        share = at_risk / n[:, None]
        excess += (now - d[:, None] * share).sum(0)
        spread = d * (n - d) / np.maximum(n - 1, 1)
        covariance += np.diag(spread @ share) - (spread[:, None] * share).T @ share
    values, vectors = np.linalg.eigh(covariance)
    inside = values > 1e-10 * values.max()  # the groups' excesses sum to nought: one direction at least has no variance
    if not inside.any():
        return float("nan")
    statistic = ((excess @ vectors[:, inside]) ** 2 / values[inside]).sum()
    return float(chi2.sf(statistic, int(inside.sum())))
