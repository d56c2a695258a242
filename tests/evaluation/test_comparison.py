"""Paired comparison: correction, DeLong's columns, the corrected resampled t."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_rel
from statsmodels.stats.multitest import multipletests

from histostudy.evaluation.bootstrap import p_value
from histostudy.evaluation.comparison import COLUMNS, Pair, compare, corrected_t, pair_runs, resampling_ratio
from histostudy.evaluation.delong import Difference
from histostudy.evaluation.metrics.base import Values

MODELS = ["prior", "clinical", "mean", "abmil", "twin"]
LEVEL = dict(zip(MODELS, [0.5, 0.6, 0.63, 0.7, 0.7], strict=True))


def values(name: str, runs: int = 10) -> Values:
    rng = np.random.default_rng(MODELS.index(name))
    each = LEVEL[name] + 0.03 * rng.normal(size=runs)
    draws = each[:, None] + 0.03 * rng.normal(size=(runs, 999))
    return Values(float(each.mean()), draws.mean(0), runs, 0, each, draws)


def pair(one: str, other: str) -> Pair:
    return pair_runs(values(one), values(other))


def test_holm_is_over_all_models_against_one_reference() -> None:
    table = compare("t", "auroc", MODELS, pair, ["abmil", "clinical"], n=100)
    assert list(table) == COLUMNS
    rows = table.set_index(["reference", "model"])
    assert list(rows.loc["abmil"].index) == ["prior", "clinical", "mean", "twin"]
    assert list(rows.loc["clinical"].index) == ["prior", "mean", "twin"]  # abmil v clinical is there already
    for reference in ("abmil", "clinical"):
        others = [m for m in MODELS if m != reference]
        p = [p_value(pair(m, reference).draws) for m in others]
        holm = dict(zip(others, multipletests(p, method="holm")[1], strict=True))
        mine = rows.loc[reference, "p_adjusted"]
        assert mine.to_dict() == pytest.approx({m: holm[m] for m in mine.index})
    assert rows.loc[("abmil", "prior"), "p_adjusted"] < 0.05 < rows.loc[("abmil", "twin"), "p_adjusted"]
    assert rows.loc[("clinical", "twin"), "difference"] > 0 > rows.loc[("abmil", "prior"), "difference"]


def test_an_undefined_pair_is_no_test() -> None:
    nothing = Pair(float("nan"), np.full(5, np.nan), 0, np.full(10, np.nan))
    with_nothing = lambda one, other: nothing if "prior" in (one, other) else pair(one, other)  # noqa: E731
    table = compare("t", "pearson", MODELS, with_nothing, ["abmil"], n=1, ratio=0.25).set_index("model")
    without = compare("t", "pearson", MODELS[1:], pair, ["abmil"], n=1).set_index("model")
    assert table.loc["prior", ["difference", "low", "p", "p_adjusted", "corrected_t_p"]].isna().all()
    assert table["p_adjusted"].drop("prior").to_dict() == pytest.approx(without["p_adjusted"].to_dict())


def test_new_columns_come_last_and_only_where_they_mean_something() -> None:
    asked = []

    def delong(one: str, other: str) -> Difference:
        asked.append((one, other))
        return Difference(0.1, 0.05, 2.0, 0.0455)

    table = compare("t", "auroc", MODELS, pair, ["abmil"], n=1, delong=delong, ratio=0.25)
    assert list(table) == [*COLUMNS, "delong_se", "delong_p", "corrected_t_p"]
    assert (table["delong_se"] == 0.05).all() and (table["delong_p"] == 0.0455).all()
    assert ("prior", "abmil") in asked
    assert table.set_index("model").loc["prior", "corrected_t_p"] < 0.01
    each = values("mean").each - values("abmil").each
    assert table.set_index("model").loc["mean", "corrected_t_p"] == corrected_t(each, 0.25)[1]
    plain = Pair(0.1, np.ones(9), 3)  # the runs are not known one by one
    assert compare("t", "x", MODELS, lambda *_: plain, ["abmil"], n=1, ratio=0.2)["corrected_t_p"].isna().all()
    assert list(compare("t", "auroc", ["a"], pair, ["a"], n=1, ratio=0.25)) == [*COLUMNS, "corrected_t_p"]


def test_corrected_t() -> None:
    d = np.array([0.02, 0.05, -0.01, 0.04, 0.03, np.nan])
    t, p = corrected_t(d, 0.25)
    good = d[:5]
    assert t == pytest.approx(good.mean() / np.sqrt((1 / 5 + 1 / 4) * good.var(ddof=1)))
    uncorrected = ttest_rel(good, np.zeros(5))
    assert corrected_t(d, 0.0) == pytest.approx((uncorrected.statistic, uncorrected.pvalue))
    assert p > uncorrected.pvalue
    assert corrected_t(np.zeros(5), 0.25) == (0, 1)
    assert np.isnan(corrected_t(np.full(5, 0.1), 0.25)).all() and np.isnan(corrected_t(d[:1], 0.25)).all()


def test_repeated_cross_validation_of_a_null_is_not_significant_too_often() -> None:
    """Two learners of equal merit: the plain t test over folds x repeats rejects far too often, this one does not."""
    rng = np.random.default_rng(0)
    plain, corrected = [], []
    for _ in range(120):
        x, y = rng.normal(size=(2, 60)), rng.normal(size=60)
        each = []
        for _ in range(10):
            fold = rng.permutation(60) % 5
            for k in range(5):
                test = fold == k
                slope = [np.polyfit(c[~test], y[~test], 1) for c in x]
                error = [np.mean((np.polyval(s, c[test]) - y[test]) ** 2) for s, c in zip(slope, x, strict=True)]
                each.append(error[0] - error[1])
        plain.append(corrected_t(np.array(each), 0.0)[1] < 0.05)
        corrected.append(corrected_t(np.array(each), 0.25)[1] < 0.05)
    assert np.mean(plain) > 0.25 and np.mean(corrected) < 0.12


def splits(repeats: int) -> pd.DataFrame:
    ids = np.arange(20).astype(str)
    rows = [
        pd.DataFrame(
            {
                "repeat": r,
                "fold": k,
                "patient_id": ids,
                "part": _parts((np.arange(20) + r * (np.arange(20) // 5)) % 5, k),
            }
        )
        for r in range(repeats)
        for k in range(5)
    ]
    return pd.concat(rows, ignore_index=True)


def _parts(fold: np.ndarray, k: int) -> np.ndarray:
    return np.where(fold == k, "test", np.where(fold == (k + 1) % 5, "val", "train"))


def test_the_ratio_is_there_where_patients_are_tested_again() -> None:
    assert resampling_ratio(splits(1)) is None
    assert resampling_ratio(splits(2)) == pytest.approx(4 / 12)
    # published folds that overlap are a repetition too
    twice = splits(1)
    twice.loc[(twice["fold"] == 0) & (twice["patient_id"] == "1"), "part"] = "test"
    assert resampling_ratio(twice) is not None


def test_the_same_folds_trained_again_are_one_cross_validation() -> None:
    again = pd.concat([splits(1), splits(1).assign(repeat=1)], ignore_index=True)
    assert resampling_ratio(again) is None
