"""Stratified Cox models: fit, two groups, proportional hazards, and one covariate on every resample at once."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

#: A log hazard ratio a standard deviation beyond this is taken for infinite (separation).
INFINITE = 10.0
#: A standard error above this, on a covariate of unit spread, says nothing.
FLAT = 100.0
#: Least eigenvalue of the information, scaled to ones on its diagonal, of a fit that counts as determined.
SINGULAR = 1e-7
#: Cells of (resample, patient) held at once by `slope`.
BLOCK = 500_000


@dataclass(frozen=True)
class CoxFit:
    """A fitted Cox model.

    Attributes
    ----------
    beta : ndarray, shape (k,)
        Log hazard ratios; NaN where one is infinite (a group without an event).
    covariance : ndarray, shape (k, k)
        Inverse of the observed information.
    loglik : float
        Log partial likelihood.
    n, events : int
    """

    beta: Floats
    covariance: Floats
    loglik: float
    n: int
    events: int

    @property
    def se(self) -> Floats:
        """Standard errors, shape (k,)."""
        return np.where(np.isfinite(self.beta), np.sqrt(np.diag(self.covariance)), np.nan)

    @property
    def p(self) -> Floats:
        """P-values of Wald's test, shape (k,)."""
        from scipy.stats import norm

        return 2 * norm.sf(np.abs(self.beta) / self.se)

    def interval(self, confidence: float = 0.95) -> tuple[Floats, Floats]:
        """Ends of Wald's interval of the hazard ratios, shape (k,) each."""
        from scipy.stats import norm

        wide = norm.ppf(0.5 + confidence / 2) * self.se
        return np.exp(self.beta - wide), np.exp(self.beta + wide)


def fit(time: Floats, event: NDArray[np.bool_], x: Floats, strata: NDArray) -> CoxFit:
    """Cox model with one baseline a stratum and Efron's ties (`statsmodels` PHReg).

    Parameters
    ----------
    time, event : ndarray, shape (n,)
    x : ndarray, shape (n, k)
        Covariates on comparable scales; none (k = 0) gives the likelihood without covariates.
    strata : ndarray, shape (n,)

    Returns
    -------
    CoxFit
        All NaN where the fit is not determined: no more events than covariates, collinear covariates, no
        convergence. An infinite coefficient (separation) is NaN alone, the likelihood stands.
    """
    from statsmodels.duration.hazard_regression import PHReg

    n, k = x.shape
    events = int(event.sum())
    nothing = CoxFit(np.full(k, np.nan), np.full((k, k), np.nan), float("nan"), n, events)
    if events <= k:
        return nothing
    codes = np.unique(strata, return_inverse=True)[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they say is checked below
        columns = x if k else np.zeros((n, 1))
        model = PHReg(time, columns, status=event.astype(float), strata=codes, ties="efron")
        if k == 0:
            return CoxFit(np.zeros(0), np.zeros((0, 0)), float(model.loglike(np.zeros(1))), n, events)
        try:
            beta = np.asarray(model.fit(disp=0).params, float)
        except np.linalg.LinAlgError:
            return nothing
        loglik = float(model.loglike(beta))
        score, information = np.asarray(model.score(beta)), -np.asarray(model.hessian(beta))
    scale = np.sqrt(np.maximum(np.diag(information), 0))
    if not np.isfinite(loglik) or not np.isfinite(information).all() or np.abs(score).max() > 1e-3 * events:
        return nothing
    spread = np.maximum(x.std(0), 1e-12)
    # a group without events: the slope runs off, and the information about it vanishes
    infinite = (np.abs(beta) * spread > INFINITE) | (scale * FLAT < spread)
    good = ~infinite
    covariance = np.full((k, k), np.nan)
    if good.any():
        inner = np.ix_(good, good)
        if np.linalg.eigvalsh(information[inner] / np.outer(scale[good], scale[good])).min() < SINGULAR:
            return nothing
        covariance[inner] = np.linalg.inv(information[inner])
    return CoxFit(np.where(good, beta, np.nan), covariance, loglik, n, events)


def hazard_ratio(
    time: Floats, event: NDArray[np.bool_], high: NDArray[np.bool_], strata: NDArray, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Hazard ratio of a group against the rest with its interval: `fit`, so Efron's ties and one baseline a stratum.

    Parameters
    ----------
    time, event : ndarray, shape (n,)
    high : ndarray of bool, shape (n,)
        The group.
    strata : ndarray, shape (n,)
    confidence : float

    Returns
    -------
    ratio, low, high : float
        NaN where it is not finite: a group without an event, or one group only.
    """
    fitted = fit(time, event, high[:, None].astype(float), strata)
    low, upper = fitted.interval(confidence)
    return float(np.exp(fitted.beta[0])), float(low[0]), float(upper[0])


def schoenfeld_residuals(
    time: Floats, event: NDArray[np.bool_], x: Floats, strata: NDArray, beta: Floats
) -> tuple[Floats, Floats]:
    """Covariates of each event less their mean over the risk set, tied events sharing Efron's mean of means.

    Returns
    -------
    time : ndarray, shape (events,)
    residuals : ndarray, shape (events, k)
        As R's ``residuals(fit, "schoenfeld")``.
    """
    times, out = [], []
    weight = np.exp((x - x.mean(0)) @ beta)
    for stratum in np.unique(strata):
        part = strata == stratum
        for moment in np.unique(time[part & event]):
            risk, now = part & (time >= moment), part & event & (time == moment)
            s0, s1 = weight[risk].sum(), weight[risk] @ x[risk]
            d0, d1, d = weight[now].sum(), weight[now] @ x[now], int(now.sum())
            mean = np.mean([(s1 - j / d * d1) / (s0 - j / d * d0) for j in range(d)], axis=0)
            times += [moment] * d
            out.append(x[now] - mean)
    return np.array(times, float), np.concatenate(out) if out else np.zeros((0, x.shape[1]))


def proportional_hazards(fitted: CoxFit, time: Floats, event: NDArray[np.bool_], x: Floats, strata: NDArray) -> Floats:
    """P-value, for each covariate, of its log hazard ratio not changing over time.

    Scaled Schoenfeld residuals (events times the residuals times the covariance) are regressed on
    ``g(t) = 1 - KM(t-)`` of all patients; ``chi2 = (sum (g - mean g) r)^2 / (events * V_kk * sum (g - mean g)^2)``
    with one degree of freedom (Grambsch and Therneau 1994). This is `cox.zph` of R's survival before version 3.0,
    and of lifelines; the exact score test that later versions use differs a little.

    Returns
    -------
    ndarray, shape (k,)
        NaN where the coefficient is, or with fewer than three distinct event times.
    """
    from scipy.stats import chi2

    from histostudy.evaluation.censoring import Step, life_table

    out = np.full(fitted.beta.size, np.nan)
    good = np.isfinite(fitted.beta)
    if not good.any():
        return out
    times, residuals = schoenfeld_residuals(time, event, x[:, good], strata, fitted.beta[good])
    if np.unique(times).size < 3:
        return out
    steps = life_table(time, event)
    survival = Step(steps.time, steps.survival)
    shape = 1 - survival(np.nextafter(times, -np.inf))
    shape = shape - shape.mean()
    covariance = fitted.covariance[np.ix_(good, good)]
    scaled = len(times) * residuals @ covariance
    bottom = len(times) * np.diag(covariance) * (shape**2).sum()
    out[good] = chi2.sf((shape @ scaled) ** 2 / bottom, 1)
    return out


def slope(w: Floats, time: Floats, event: NDArray[np.bool_], x: Floats, strata: NDArray) -> Floats:
    """Log hazard ratio of one covariate on each resample: Cox, one baseline a stratum, Breslow's ties, by Newton.

    Breslow's ties, since under them a weight of two is exactly the same patient twice; under Efron's it is not.

    Parameters
    ----------
    w : ndarray, shape (B, n)
        How often each patient occurs.
    time, event, x, strata : ndarray, shape (n,)

    Returns
    -------
    ndarray, shape (B,)
        NaN where it is not finite.
    """
    spread = float(np.std(x))
    if spread <= 1e-12 * max(float(np.abs(x).max()), 1e-300) or not event.any():
        return np.full(w.shape[0], np.nan)
    z = (x - x.mean()) / spread
    block = max(1, BLOCK // z.size)
    parts = [_slopes(w[i : i + block], time, event, z, strata) for i in range(0, w.shape[0], block)]
    return np.concatenate(parts) / spread


def _slopes(w: Floats, time: Floats, event: NDArray[np.bool_], z: Floats, strata: NDArray) -> Floats:
    sets = []  # of each stratum: weights and covariate, latest first; events at each moment and where its risk set ends
    first = np.zeros(w.shape[0])
    for stratum in np.unique(strata):
        rows = np.flatnonzero(strata == stratum)
        rows = rows[np.argsort(-time[rows], kind="stable")]
        moments = np.unique(time[rows][event[rows]])
        if not moments.size:
            continue
        dead = (time[rows, None] == moments) & event[rows, None]
        last = np.searchsorted(-time[rows], -moments, side="right") - 1
        mine = w[:, rows]
        sets.append((mine, z[rows], mine @ dead.astype(float), last))
        first += (mine * event[rows]) @ z[rows]
    beta, lost = np.zeros(w.shape[0]), np.zeros(w.shape[0], bool)
    for _ in range(40):
        score: Floats = first.copy()
        information: Floats = np.zeros(w.shape[0])
        for mine, x, dead_weight, last in sets:
            theta = mine * np.exp(beta[:, None] * x)
            s0, s1, s2 = (np.cumsum(s, axis=1)[:, last] for s in (theta, theta * x, theta * x**2))
            inside = s0 > 0
            total = np.where(inside, s0, 1)
            mean = np.where(inside, s1 / total, 0)
            score -= (dead_weight * mean).sum(1)
            information += (dead_weight * np.maximum(np.where(inside, s2 / total, 0) - mean**2, 0)).sum(1)
        lost |= (information < 1e-9) | (np.abs(beta) > INFINITE)
        move = np.where(lost, 0, np.clip(score / np.where(information < 1e-9, 1, information), -1, 1))
        beta += move
        if np.abs(move).max() < 1e-9:
            break
    return np.where(lost, np.nan, beta)
