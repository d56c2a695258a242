"""Cox models against slow loops, statsmodels and planted effects."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from statsmodels.duration.api import PHReg

from histostudy.evaluation.cox import fit, hazard_ratio, proportional_hazards, schoenfeld_residuals


def cohort(n: int, seed: int, effect: float = 0.0, step: float = 50.0) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    x = np.column_stack([rng.normal(size=n), rng.integers(0, 2, n)])
    died, left = rng.exponential(500 * np.exp(-effect * x[:, 0])), rng.exponential(900, n)
    time = np.ceil(np.minimum(died, left) / step) * step
    return time, died <= left, x, rng.integers(0, 3, n)


def efron(beta: np.ndarray, time: np.ndarray, event: np.ndarray, x: np.ndarray, strata: np.ndarray) -> float:
    """Log partial likelihood, a term at a time."""
    total, theta = 0.0, np.exp(x @ beta)
    for stratum in np.unique(strata):
        for moment in np.unique(time[event & (strata == stratum)]):
            risk = (strata == stratum) & (time >= moment)
            now = np.flatnonzero((strata == stratum) & (time == moment) & event)
            for j, i in enumerate(now):
                total += x[i] @ beta - np.log(theta[risk].sum() - j / len(now) * theta[now].sum())
    return float(total)


def test_fit_is_the_maximum_of_a_slow_efron_likelihood() -> None:
    time, event, x, strata = cohort(25, 0)
    found = fit(time, event, x, strata)
    best = minimize(lambda b: -efron(b, time, event, x, strata), np.zeros(2), tol=1e-10)
    np.testing.assert_allclose(found.beta, best.x, atol=1e-4)
    assert found.loglik == pytest.approx(-best.fun, abs=1e-8)
    step, curvature = 1e-4, np.zeros((2, 2))
    for i, j in np.ndindex(2, 2):
        a, b = np.eye(2)[i] * step, np.eye(2)[j] * step
        corners = [found.beta + a + b, found.beta + a - b, found.beta - a + b, found.beta - a - b]
        one, two, three, four = (efron(c, time, event, x, strata) for c in corners)
        curvature[i, j] = -(one - two - three + four) / (4 * step**2)
    np.testing.assert_allclose(found.covariance, np.linalg.inv(curvature), rtol=1e-3)


def test_interval_and_p_agree_with_statsmodels() -> None:
    time, event, x, strata = cohort(120, 1, effect=0.4)
    found = fit(time, event, x, strata)
    theirs = PHReg(time, x, status=event, strata=strata, ties="efron").fit(disp=0)
    np.testing.assert_allclose(found.p, theirs.pvalues, rtol=1e-5)
    np.testing.assert_allclose(np.log(np.column_stack(found.interval())), theirs.conf_int(), atol=1e-6)


def test_intervals_hold_a_hazard_ratio_of_two_and_a_null() -> None:
    covered = np.zeros(2)
    for seed in range(30):
        time, event, x, strata = cohort(600, seed, effect=np.log(2), step=1)
        found = fit(time, event, x, strata)
        low, high = found.interval()
        assert low[0] > 1.4 and found.p[0] < 1e-8
        covered += [low[0] < 2 < high[0], low[1] < 1 < high[1]]
    assert (covered >= 25).all()  # of a 95% interval: fewer has p = 0.003


def test_what_cannot_be_fitted_is_nan_and_no_crash() -> None:
    time, event, x, strata = cohort(80, 3)
    twice = fit(time, event, np.column_stack([x[:, 0], 2 * x[:, 0] + 1]), strata)
    assert np.isnan(twice.beta).all() and np.isnan(twice.loglik)
    assert np.isnan(fit(time, np.zeros(80, bool), x, strata).beta).all()
    assert np.isnan(fit(time, event, np.random.default_rng(0).normal(size=(80, 79)), strata).beta).all()
    separated = fit(time, event & (x[:, 1] == 0), x, strata)  # nobody of the group has the event
    assert np.isnan(separated.beta[1]) and np.isnan(separated.se[1])
    assert np.isfinite(separated.beta[0]) and np.isfinite(separated.loglik)
    alone = fit(time[x[:, 1] == 0], event[x[:, 1] == 0], x[x[:, 1] == 0][:, :1], strata[x[:, 1] == 0])
    assert np.sign(separated.beta[0]) == np.sign(alone.beta[0])


def test_hazard_ratio_of_a_group_is_the_maximum_of_the_slow_likelihood() -> None:
    time, event, x, strata = cohort(60, 8)
    high = x[:, 0] > 0.3
    ratio, low, upper = hazard_ratio(time, event, high, strata)
    best = minimize(lambda b: -efron(b, time, event, high[:, None].astype(float), strata), np.zeros(1), tol=1e-10)
    assert np.log(ratio) == pytest.approx(best.x[0], abs=1e-4)
    assert low < ratio < upper and low * upper == pytest.approx(ratio**2)
    inverse = hazard_ratio(time, event, ~high, strata)
    np.testing.assert_allclose(inverse, [1 / ratio, 1 / upper, 1 / low], rtol=1e-6)
    for no_ratio in (np.ones(60, bool), np.zeros(60, bool)):  # one group only
        assert np.isnan(hazard_ratio(time, event, no_ratio, strata)).all()
    for dead in (event & high, event & ~high, np.zeros(60, bool)):  # a group without an event
        assert np.isnan(hazard_ratio(time, dead, high, strata)).all()


def test_no_covariate_is_the_null_likelihood() -> None:
    time, event, x, strata = cohort(60, 4)
    assert fit(time, event, x[:, :0], strata).loglik == pytest.approx(efron(np.zeros(2), time, event, x, strata))


def test_schoenfeld_residuals() -> None:
    time, event, x, strata = cohort(80, 5, effect=0.5, step=1e-6)  # no ties: statsmodels takes Breslow's mean
    found = fit(time, event, x, strata)
    when, residuals = schoenfeld_residuals(time, event, x, strata, found.beta)
    theirs = PHReg(time, x, status=event, strata=strata, ties="efron").fit(disp=0).schoenfeld_residuals
    theirs = theirs[np.isfinite(theirs).all(1)]
    np.testing.assert_allclose(np.sort(residuals[:, 0]), np.sort(theirs[:, 0]), atol=1e-5)
    time, event, x, strata = cohort(80, 5, effect=0.5)  # tied: they sum to the score, zero at the fit
    found = fit(time, event, x, strata)
    when, residuals = schoenfeld_residuals(time, event, x, strata, found.beta)
    assert len(when) == event.sum() and (np.diff(when) == 0).any()
    np.testing.assert_allclose(residuals.sum(0), 0, atol=1e-4)


def test_a_hazard_ratio_that_changes_is_found_and_one_that_does_not_is_not() -> None:
    rng = np.random.default_rng(6)
    n = 600
    x = rng.integers(0, 2, n).astype(float)
    early, late = rng.exponential(1 / np.where(x > 0, 3e-3, 1e-3)), rng.exponential(1 / np.where(x > 0, 3e-4, 1e-3))
    died = np.where(early < 300, early, 300 + late)
    left = rng.exponential(3000, n)
    time, event, strata = np.minimum(died, left), died <= left, np.zeros(n)
    p = proportional_hazards(fit(time, event, x[:, None], strata), time, event, x[:, None], strata)
    assert p[0] < 1e-4
    small = []
    for seed in range(40):
        time, event, x2, strata = cohort(200, 100 + seed, effect=0.7, step=1)
        small.append(proportional_hazards(fit(time, event, x2, strata), time, event, x2, strata))
    rate = (np.array(small) < 0.05).mean()
    assert 0 < rate < 0.15


def test_ph_p_does_not_depend_on_the_scale_of_a_covariate() -> None:
    time, event, x, strata = cohort(150, 7, effect=0.5)
    one, other = (proportional_hazards(fit(time, event, x * k, strata), time, event, x * k, strata) for k in (1.0, 3.0))
    np.testing.assert_allclose(one, other, rtol=1e-4)
