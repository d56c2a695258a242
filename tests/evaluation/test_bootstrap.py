"""Weights, intervals, p-values and corrections."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from histostudy.evaluation.bootstrap import adjust, bootstrap_weights, interval, p_value
from histostudy.evaluation.metrics import kernels


def test_weights_keep_the_size_of_every_stratum() -> None:
    strata = np.array([0, 1, 1, 0, 2, 1, 0])
    w = bootstrap_weights(strata, 300, 1)
    for code in range(3):
        assert (w[:, strata == code].sum(1) == (strata == code).sum()).all()
    np.testing.assert_allclose(w.mean(0), 1, atol=0.25)
    np.testing.assert_array_equal(w, bootstrap_weights(strata, 300, 1))
    assert (w != bootstrap_weights(strata, 300, 2)).any()


def test_interval_agrees_with_the_normal_one_of_a_mean() -> None:
    x = np.random.default_rng(0).normal(size=400)
    low, high = interval(kernels.mean_of(bootstrap_weights(np.zeros(400), 4000, 0), x))
    se = x.std(ddof=1) / 20
    assert low == pytest.approx(x.mean() - 1.96 * se, abs=0.1 * se)
    assert high == pytest.approx(x.mean() + 1.96 * se, abs=0.1 * se)


def test_standard_error_of_auroc_agrees_with_delong() -> None:
    rng = np.random.default_rng(1)
    truth = (np.arange(300) % 3 == 0).astype(float)
    score = rng.normal(size=300) + truth
    won = (score[truth == 1][:, None] > score[truth == 0][None]).astype(float)
    delong = np.sqrt(won.mean(1).var(ddof=1) / 100 + won.mean(0).var(ddof=1) / 200)
    draws = kernels.auc(bootstrap_weights(truth, 10_000, 0), score, truth, 1 - truth)
    assert draws.std() == pytest.approx(delong, rel=0.03)


def test_coverage_is_about_nominal() -> None:
    """The interval of the AUROC holds the truth about 95 times in 100 (120 patients, 300 cohorts)."""
    from scipy.stats import norm

    true = norm.cdf(1 / np.sqrt(2))
    truth = (np.arange(120) % 3 == 0).astype(float)
    folds = np.arange(120) % 2
    rng, held = np.random.default_rng(0), 0
    for cohort in range(300):
        score = rng.normal(size=120) + truth
        w = bootstrap_weights(folds, 400, cohort)
        parts = [
            kernels.auc(w[:, folds == f], score[folds == f], truth[folds == f], 1 - truth[folds == f]) for f in (0, 1)
        ]
        low, high = interval(np.mean(parts, 0))
        held += low <= true <= high
    assert 0.91 <= held / 300 <= 0.985


def test_p_value_is_about_uniform_under_the_null() -> None:
    rng = np.random.default_rng(2)
    w = bootstrap_weights(np.zeros(80), 400, 0)
    p = np.array([p_value(kernels.mean_of(w, rng.normal(size=80))) for _ in range(300)])
    assert 0.01 <= (p < 0.05).mean() <= 0.1
    assert p_value(np.ones(99)) == pytest.approx(2 / 100)
    assert p_value(np.zeros(99)) == 1.0
    assert np.isnan(p_value(np.full(5, np.nan)))


@pytest.mark.parametrize(("ours", "theirs"), [("holm", "holm"), ("bonferroni", "bonferroni"), ("bh", "fdr_bh")])
def test_corrections_agree_with_statsmodels(ours: str, theirs: str) -> None:
    p = np.random.default_rng(0).uniform(size=20) ** 3
    np.testing.assert_allclose(adjust(p, ours), multipletests(p, method=theirs)[1])
    with_hole = adjust(np.append(p, np.nan), ours)
    np.testing.assert_allclose(with_hole[:-1], adjust(p, ours))
    assert np.isnan(with_hole[-1])


def test_centred_interval_surrounds_the_estimate() -> None:
    low, high = interval(np.linspace(0.2, 0.4, 101), estimate=0.05, bounds=(0, 1))
    assert low == 0.0 and high == pytest.approx(0.145)
