"""Weights, intervals, p-values and corrections."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from histostudy.evaluation.bootstrap import adjust, block_groups, bootstrap_weights, interval, p_value
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


def test_a_group_is_drawn_whole_and_strata_keep_their_number_of_groups() -> None:
    strata = np.array([0, 0, 0, 1, 1, 1, 1])
    groups = np.array(["a", "a", "b", "c", "d", "d", "d"])
    w = bootstrap_weights(strata, 500, 3, groups)
    assert (w[:, 0] == w[:, 1]).all() and (w[:, 4] == w[:, 5]).all() and (w[:, 5] == w[:, 6]).all()
    assert (w[:, 0] + w[:, 2] == 2).all() and (w[:, 3] + w[:, 4] == 2).all()
    np.testing.assert_allclose(w.mean(0), 1, atol=0.1)
    alone = bootstrap_weights(strata, 500, 3, np.arange(7))
    np.testing.assert_array_equal(alone, bootstrap_weights(strata, 500, 3))
    with pytest.raises(ValueError, match="1 rows lie in another stratum"):
        bootstrap_weights([0, 1, 1], 5, 0, ["a", "a", "b"])


def test_blocks_are_squares_of_one_slide() -> None:
    x, y = (a.ravel() * 100.0 + 5000 for a in np.meshgrid(np.arange(10), np.arange(6)))
    slide = np.repeat(["one", "two"], 60)
    found = block_groups(np.tile(x, 2), np.tile(y, 2), slide, 500)
    assert len(np.unique(found)) == 2 * 2 * 2
    assert not set(found[:60]) & set(found[60:])
    for block in np.unique(found[:60]):
        mine = found[:60] == block
        assert np.ptp(x[mine]) < 500 and np.ptp(y[mine]) < 500
    assert (np.bincount(found[:60])[:4] == [25, 5, 25, 5]).all()
    assert block_groups([], [], [], 10).size == 0
    with pytest.raises(ValueError, match="positive"):
        block_groups(x, y, x, 0)


def test_blocks_are_wider_where_neighbours_are_alike_and_only_there() -> None:
    """Mean of a field over 4 slides of 20 x 20 spots: the spread over fields is the truth."""
    from scipy.ndimage import gaussian_filter

    x, y = (a.ravel() * 200.0 for a in np.meshgrid(np.arange(20), np.arange(20)))
    slide = np.repeat(np.arange(4), 400)
    blocks = block_groups(np.tile(x, 4), np.tile(y, 4), slide, 1000)
    spots, whole = (bootstrap_weights(slide, 1000, 0, g) for g in (None, blocks))

    def field(seed: int, smooth: float) -> np.ndarray:
        noise = np.random.default_rng(seed).normal(size=(4, 20, 20))
        return np.concatenate([gaussian_filter(s, smooth, mode="wrap").ravel() for s in noise])

    def widths(values: np.ndarray) -> tuple[float, float]:
        both = [interval(kernels.mean_of(w, values)) for w in (spots, whole)]
        return both[0][1] - both[0][0], both[1][1] - both[1][0]

    alike = np.mean([widths(field(s, 2.0)) for s in range(5)], 0)
    assert alike[1] > 2 * alike[0]
    true = 3.92 * np.std([field(s, 2.0).mean() for s in range(300)])
    assert 0.5 * true < alike[1] < 1.3 * true and alike[0] < 0.35 * true
    apart = np.mean([widths(field(s, 0.0)) for s in range(5)], 0)
    assert apart[1] == pytest.approx(apart[0], rel=0.15)
