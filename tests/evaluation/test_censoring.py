"""Kaplan-Meier and log-rank against statsmodels and scikit-survival."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.duration.api import survdiff

from histostudy.evaluation.censoring import censoring, life_table, log_rank


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


def test_log_rank_of_three_groups_agrees_with_statsmodels() -> None:
    rng = np.random.default_rng(0)
    group, strata = rng.integers(3, size=300), rng.integers(4, size=300)
    time = np.ceil(rng.exponential(300 / (1 + 0.3 * group)))  # whole days: ties
    event = rng.uniform(size=300) < 0.7
    names = np.array(["a", "b", "c"])[group]
    assert log_rank(time, event, names, strata) == pytest.approx(
        survdiff(time, event, group, strata=strata)[1], rel=1e-6
    )
    assert log_rank(time, event, names, np.zeros(300)) == pytest.approx(survdiff(time, event, group)[1], rel=1e-6)
    late = np.where(time == time.max(), "d", names)  # a group that is at risk beside the others at each time but one
    assert 0 < log_rank(time, event, late, strata) < 1
    assert np.isnan(log_rank(time, event, np.full(300, "a"), strata))
    assert np.isnan(log_rank(time, np.zeros(300, bool), names, strata))
    assert np.isnan(log_rank(time, event, names, names))  # nobody beside another group
