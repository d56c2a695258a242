"""DeLong's variance against its definition, a bootstrap and known cases."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from histostudy.evaluation.bootstrap import bootstrap_weights
from histostudy.evaluation.delong import delong, delong_test, difference, mean_over_folds
from histostudy.evaluation.metrics.base import Run
from histostudy.evaluation.metrics.classification import Classes
from histostudy.evaluation.metrics.kernels import auc

CLASSES = Classes(("a", "b"), "b")


def slow(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The definition, pair by pair."""
    cases, controls = scores[:, positive], scores[:, ~positive]
    psi = np.empty((len(scores), cases.shape[1], controls.shape[1]))
    for k in range(len(scores)):
        for i, x in enumerate(cases[k]):
            for j, y in enumerate(controls[k]):
                psi[k, i, j] = 1.0 if x > y else 0.5 if x == y else 0.0
    v10, v01 = psi.mean(2), psi.mean(1)
    return psi.mean((1, 2)), np.cov(v10) / v10.shape[1] + np.cov(v01) / v01.shape[1]


@given(st.integers(0, 10_000), st.integers(2, 25), st.integers(2, 25), st.booleans())
def test_it_is_the_double_loop(seed: int, m: int, n: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    positive = rng.permutation(np.arange(m + n) < m)
    scores = rng.normal(size=(3, m + n)) + 0.7 * positive
    scores = np.round(scores) if ties else scores
    area, covariance = slow(scores, positive)
    fast = delong(scores, positive)
    np.testing.assert_allclose(fast.auc, area, atol=1e-12)
    np.testing.assert_allclose(fast.covariance, covariance, atol=1e-12)


def planted(n: int, seed: int, shared: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    positive = np.arange(n) < n // 3
    common = rng.normal(size=n)
    scores = [e * positive + shared * common + np.sqrt(1 - shared**2) * rng.normal(size=n) for e in (1.4, 0.8)]
    return np.stack(scores), positive


def test_its_standard_errors_are_those_of_a_bootstrap() -> None:
    scores, positive = planted(450, 0)
    areas = delong(scores, positive)
    w = bootstrap_weights(positive, 10_000, 1)
    draws = np.stack([auc(w, s, positive.astype(float), 1.0 - positive) for s in scores])
    np.testing.assert_allclose(np.sqrt(np.diag(areas.covariance)), draws.std(1), rtol=0.03)
    assert difference(areas).se == pytest.approx((draws[0] - draws[1]).std(), rel=0.03)


def test_the_test() -> None:
    scores, positive = planted(450, 0)
    found = difference(delong(scores, positive))
    assert found.difference > 0.1 and found.p < 1e-4
    assert found.p == pytest.approx(2 * norm.sf(found.z)) and found.z == pytest.approx(found.difference / found.se)
    assert difference(delong(scores[::-1], positive)).z == pytest.approx(-found.z)
    same = difference(delong(np.stack([scores[0], np.exp(scores[0])]), positive))
    assert same == (0, 0, 0, 1)
    # separated perfectly against a constant: the variance vanishes and says nothing
    apart = difference(delong(np.stack([positive * 1.0, np.zeros(450)]), positive))
    assert apart.difference == 0.5 and np.isnan(apart.p)


def test_a_null_is_rejected_as_often_as_it_says() -> None:
    p = []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        positive = np.arange(80) < 30
        common = 0.8 * positive + 0.5 * rng.normal(size=80)
        p.append(difference(delong(common + rng.normal(size=(2, 80)), positive)).p)
    assert 0.02 < np.mean(np.array(p) < 0.05) < 0.09


def runs_of(scores: np.ndarray, positive: np.ndarray, fold: np.ndarray) -> list[Run]:
    out = []
    for k in np.unique(fold):
        rows = np.flatnonzero(fold == k)
        frame = pd.DataFrame({"patient_id": rows.astype(str), "truth": np.where(positive[rows], "b", "a")})
        out.append(Run(0, int(k), frame.assign(prob_b=scores[rows]), pd.DataFrame(), rows))
    return out


def test_folds_are_of_other_patients() -> None:
    scores, positive = planted(300, 1)
    fold = np.arange(300) % 3
    areas = mean_over_folds([delong(scores[:, fold == k], positive[fold == k]) for k in range(3)])
    w = bootstrap_weights(fold * 2 + positive, 6000, 2)
    case, control = positive.astype(float), 1.0 - positive
    each = np.stack([[auc(w[:, i], s[i], case[i], control[i]) for s in scores] for i in (fold == k for k in range(3))])
    draws = each.mean(0)
    np.testing.assert_allclose(np.sqrt(np.diag(areas.covariance)), draws.std(1), rtol=0.05)
    runs = {name: runs_of(s, positive, fold) for name, s in zip("xy", scores, strict=True)}
    test = delong_test(runs, CLASSES)
    assert test is not None
    assert test("x", "y") == pytest.approx(difference(areas)) and test("x", "y").p < 0.05
    assert test("x", "x").p == 1
    alone = difference(delong(scores, positive))
    assert test("x", "y").se == pytest.approx(alone.se, rel=0.15)


def test_a_fold_of_one_class_is_left_out_and_one_case_has_no_variance() -> None:
    scores, positive = planted(90, 2)
    whole = delong(scores, positive)
    none = delong(scores[:, ~positive], positive[~positive])
    assert np.isnan(none.auc).all()
    assert mean_over_folds([whole, none]).auc == pytest.approx(whole.auc)
    few = np.concatenate([[0], np.flatnonzero(~positive)])
    lonely = delong(scores[:, few], positive[few])
    assert np.isfinite(lonely.auc).all() and np.isnan(lonely.covariance).all()
    assert np.isnan(difference(lonely).p)
    assert difference(mean_over_folds([whole, lonely])) == difference(whole)


def test_where_it_is_not_given() -> None:
    scores, positive = planted(90, 2)
    once = {name: runs_of(s, positive, np.arange(90) % 2) for name, s in zip("xy", scores, strict=True)}
    runs = {name: [*folds, *(replace(run, repeat=1) for run in folds)] for name, folds in once.items()}
    test = delong_test(runs, CLASSES)
    assert test is not None and np.isnan(test("x", "y")).all()
    assert delong_test(runs, Classes(("a", "b", "c"), "c")) is None
