"""Kaplan-Meier, log-rank and hazard ratio against statsmodels and scikit-survival."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.duration.api import PHReg, survdiff

from histostudy.evaluation.censoring import censoring, hazard_ratio, life_table, log_rank


def cohort(seed: int = 0, n: int = 120) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    high = rng.uniform(size=n) < 0.5
    died, left = rng.exponential(500 * np.exp(-0.7 * high)), rng.exponential(900, n)
    time = np.ceil(np.minimum(died, left) / 10) * 10
    return time, died <= left, high, rng.integers(0, 4, n)


def test_life_table_agrees_with_scikit_survival() -> None:
    from sksurv.nonparametric import kaplan_meier_estimator

    time, event, _, _ = cohort()
    steps = life_table(time, event)
    x, y, (low, high) = kaplan_meier_estimator(event, time, conf_type="log-log")
    np.testing.assert_allclose(steps.time, x)
    np.testing.assert_allclose(steps.survival, y)
    inside = (y > 0) & (y < 1)
    np.testing.assert_allclose(steps.low[inside], low[inside], atol=1e-10)
    np.testing.assert_allclose(steps.high[inside], high[inside], atol=1e-10)


def test_censoring_agrees_with_scikit_survival() -> None:
    from sksurv.nonparametric import CensoringDistributionEstimator
    from sksurv.util import Surv

    time, event, _, _ = cohort(1)
    theirs = CensoringDistributionEstimator().fit(Surv.from_arrays(event, time)).predict_proba(time)
    np.testing.assert_allclose(censoring(time, event)(time), theirs)
    assert censoring(time, event)(np.array([0.0]))[0] == 1


def test_log_rank_agrees_with_statsmodels() -> None:
    time, event, high, fold = cohort(2)
    assert log_rank(time, event, high, np.zeros(120)) == pytest.approx(survdiff(time, event, high)[1], rel=1e-9)
    assert log_rank(time, event, high, fold) == pytest.approx(survdiff(time, event, high, strata=fold)[1], rel=1e-9)
    assert np.isnan(log_rank(time, event, np.ones(120, bool), fold))


def test_hazard_ratio_agrees_with_statsmodels() -> None:
    time, event, high, fold = cohort(3)
    fit = PHReg(time, high[:, None].astype(float), status=event, strata=fold, ties="breslow").fit()
    ratio, low, high_end = hazard_ratio(time, event, high, fold)
    assert np.log(ratio) == pytest.approx(fit.params[0], abs=1e-5)
    np.testing.assert_allclose(np.log([low, high_end]), fit.conf_int()[0], atol=1e-4)
    assert np.isnan(hazard_ratio(time, event & ~high, high, fold)[0])
