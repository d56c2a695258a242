"""The maths of survival models: discrete-time likelihood, Cox partial likelihood, survival curves."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn.functional import logsigmoid

DAYS_PER_MONTH = 30.4375


def time_bins(time: ArrayLike, event: ArrayLike, bins: int = 4) -> NDArray[np.float64]:
    """Edges of `bins` intervals at the quantiles of the uncensored times of the training part.

    The first edge is 0 and the last infinite; edges that coincide are merged, so there may be fewer intervals.

    Parameters
    ----------
    time, event : array_like
        (n,) days and (n,) whether the event was seen.
    """
    time, seen = np.asarray(time, float), np.asarray(event, bool)
    inner = np.quantile(time[seen], np.linspace(0, 1, bins + 1)[1:-1]) if seen.any() else np.empty(0)
    inner = np.unique(inner[inner > 0])
    return np.concatenate([[0.0], inner, [np.inf]])


def bin_of(time: Tensor, edges: Tensor) -> Tensor:
    """Index of the left-closed interval each time falls into."""
    return torch.bucketize(time, edges[1:-1].contiguous(), right=True)


def nll_loss(logits: Tensor, interval: Tensor, event: Tensor, alpha: float = 0.0) -> Tensor:
    """Negative log-likelihood of discrete-time survival, the mean over patients.

    With hazards h_k = sigmoid(logits_k) and S_k = prod_{j <= k} (1 - h_j), a patient with an event in interval y
    adds -log S_{y-1} - log h_y and a censored one -(1 - alpha) log S_y (Zadeh and Schmid, IEEE TPAMI 2021).
    Computed by log-sigmoids, so it needs no clamping.

    Parameters
    ----------
    logits : Tensor
        (B, K).
    interval, event : Tensor
        (B,) interval of the time and (B,) 1 event, 0 censored.
    alpha : float
        Share by which censored patients count less.
    """
    log_hazard, log_survive = logsigmoid(logits), logsigmoid(-logits)
    through = log_survive.cumsum(1).gather(1, interval[:, None])[:, 0]
    own_hazard = log_hazard.gather(1, interval[:, None])[:, 0]
    own_survive = log_survive.gather(1, interval[:, None])[:, 0]
    seen = event.to(logits.dtype)
    weight = 1 - alpha * (1 - seen)
    return -(weight * (through + seen * (own_hazard - own_survive))).mean()


def hazard_shift(logits: Tensor, interval: Tensor, event: Tensor, steps: int = 60) -> Tensor:
    """What to add to the logits (n, K) of each interval so that predicted and observed events agree: (K,) float64.

    Over the patients at risk in an interval, those censored in it among them, sum sigmoid(z + shift) is the number of
    events; found by bisection between -20 and 20.
    """
    intervals = torch.arange(logits.shape[1])
    at_risk = (interval[:, None] >= intervals).double()
    seen = ((interval[:, None] == intervals) & (event[:, None] > 0)).double().sum(0)
    low, high = torch.full((2, logits.shape[1]), 20.0, dtype=torch.float64) * torch.tensor([[-1.0], [1.0]])
    for _ in range(steps):
        middle = (low + high) / 2
        many = (at_risk * torch.sigmoid(logits.double() + middle)).sum(0) > seen
        low, high = torch.where(many, low, middle), torch.where(many, middle, high)
    return (low + high) / 2


def ranking_loss(risk: Tensor, time: Tensor, event: Tensor) -> Tensor:
    """Mean of sigmoid(risk_j - risk_i) over comparable pairs: t_i < t_j and i with an event.

    One minus a smooth concordance (Luck et al., 2018); zero, with a zero gradient, where no pair is comparable.

    Parameters
    ----------
    risk, time, event : Tensor
        (B,) each.
    """
    pair = ((time[:, None] < time[None, :]) & (event[:, None] > 0)).to(risk.dtype)
    wrong = torch.sigmoid(risk[None, :] - risk[:, None])
    return (pair * wrong).sum() / pair.sum().clamp(min=1)


def cox_slope(risk: Tensor, time: Tensor, event: Tensor, steps: int = 50) -> float:
    """Slope of a Cox model with `risk` as its only covariate (Efron ties), by Newton's method.

    A ranking has no scale: this gives it the one on which differences are log-hazard ratios. Bounded to +-20 over the
    standard deviation of the risk, where a perfect separation would run to infinity.
    """
    spread = float(risk.double().std(correction=0))
    if spread < 1e-12 or not bool((event > 0).any()):
        return 0.0
    x, most = risk.double() / spread, 20.0
    slope = torch.zeros((), dtype=torch.float64)
    for _ in range(steps):
        with torch.enable_grad():
            at = slope.detach().requires_grad_()
            loss = cox_loss(at * x, time.double(), event.double())
            first = torch.autograd.grad(loss, at, create_graph=True)[0]
            second = torch.autograd.grad(first, at)[0]
        move = (first / second.clamp(min=1e-8)).detach().clamp(-2, 2)
        slope = (slope - move).clamp(-most, most)
        if abs(float(move)) < 1e-9:
            break
    return float(slope) / spread


def nll_survival(logits: ArrayLike, edges: ArrayLike, last: float, days: ArrayLike) -> NDArray[np.float64]:
    """S(t) of a discrete-time model, with a constant hazard inside each interval.

    Parameters
    ----------
    logits : array_like
        (n, K).
    edges : array_like
        (K + 1,) of `time_bins`; the open last interval ends at `last` for this purpose.
    last : float
        Longest follow-up of the training part, days; S stays constant after it.
    days : array_like
        (G,) when to evaluate.

    Returns
    -------
    ndarray
        (n, G), falling along each row.
    """
    logits = np.asarray(logits, float)
    ends = np.asarray(edges, float).copy()
    ends[-1] = max(last, ends[-2] + 1.0)
    log_s = np.concatenate([np.zeros((len(logits), 1)), np.cumsum(-np.logaddexp(0, logits), axis=1)], axis=1)
    at = np.clip(np.asarray(days, float), ends[0], ends[-1])
    k = np.clip(np.searchsorted(ends, at, side="right") - 1, 0, len(ends) - 2)
    share = (at - ends[k]) / (ends[k + 1] - ends[k])
    return np.exp(log_s[:, k] + share * (log_s[:, k + 1] - log_s[:, k]))


def life_table_logits(interval: Tensor, event: Tensor, bins: int) -> Tensor:
    """Logits of the hazards events / at risk in each interval, with half an event added against log 0."""
    k = torch.arange(bins)
    at_risk = (interval[:, None] >= k).sum(0).double()
    events = ((interval[:, None] == k) & (event[:, None] > 0)).sum(0).double()
    return torch.logit((events + 0.5) / (at_risk + 1.0)).float()


def cox_log_likelihood(risk: Tensor, time: Tensor, event: Tensor) -> Tensor:
    """Cox's partial log-likelihood with Efron's handling of ties (Efron, JASA 1977), in float64.

    Parameters
    ----------
    risk, time, event : Tensor
        (n,) log-hazard ratio, days, 1 event 0 censored.

    Returns
    -------
    Tensor
        A scalar; 0 without events.
    """
    order = torch.argsort(time, stable=True)
    theta, time, seen = risk[order].double(), time[order], event[order] > 0
    if not bool(seen.any()):
        return risk.sum() * 0.0
    top = theta.detach().max()
    hazard = (theta - top).exp()
    at_risk = hazard.flip(0).cumsum(0).flip(0)
    _, group = torch.unique_consecutive(time, return_inverse=True)
    first = torch.searchsorted(group, group)  # index of the first patient of the same time
    tied_events = hazard.new_zeros(int(group[-1]) + 1).index_add(0, group, hazard * seen)
    count = hazard.new_zeros(int(group[-1]) + 1).index_add(0, group, seen.double())
    before = seen.double().cumsum(0) - seen.double()
    rank = before - before[first]  # 0, 1, ... among the events of one time
    share = rank / count[group].clamp(min=1)
    denominator = (at_risk[first] - share * tied_events[group])[seen]
    return theta[seen].sum() - (denominator.log() + top).sum()


def cox_loss(risk: Tensor, time: Tensor, event: Tensor) -> Tensor:
    """Negative partial log-likelihood an event; 0, with a gradient of 0, for a batch without events."""
    return -cox_log_likelihood(risk, time, event) / event.sum().clamp(min=1)


def breslow(risk: ArrayLike, time: ArrayLike, event: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Breslow's cumulative baseline hazard of the training part.

    Returns
    -------
    times, cumulative : ndarray
        (m,) distinct event times and the cumulative hazard at and after each (Breslow, JRSS B 1972).
    """
    risk, time, seen = np.asarray(risk, float), np.asarray(time, float), np.asarray(event, bool)
    order = np.argsort(time, kind="stable")
    sorted_time, hazard = time[order], np.exp(risk[order])
    at_risk = np.cumsum(hazard[::-1])[::-1]
    times, counts = np.unique(time[seen], return_counts=True)
    return times, np.cumsum(counts / at_risk[np.searchsorted(sorted_time, times, side="left")])


def cox_survival(risk: ArrayLike, times: ArrayLike, cumulative: ArrayLike, days: ArrayLike) -> NDArray[np.float64]:
    """S(t) = exp(-H0(t) exp(risk)) on a grid of days: (n, G)."""
    padded = np.concatenate([[0.0], np.asarray(cumulative, float)])
    baseline = padded[np.searchsorted(np.asarray(times, float), np.asarray(days, float), side="right")]
    return np.exp(-baseline[None, :] * np.exp(np.asarray(risk, float))[:, None])


def day_grid(longest: float, horizons: ArrayLike) -> NDArray[np.int64]:
    """Days to report S(t) at: every month up to the longest follow-up, and the horizons."""
    months = np.arange(1, int(np.ceil(longest / DAYS_PER_MONTH)) + 1)
    return np.union1d(np.rint(months * DAYS_PER_MONTH).astype(int), np.asarray(horizons, int))
