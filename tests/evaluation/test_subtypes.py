"""Nearest-centroid calls on planted subtypes and on the real PAM50 table."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).parent))
from genedata import ids, make_runs, training_means

from histostudy.errors import StudyError
from histostudy.evaluation import subtypes
from histostudy.evaluation.bootstrap import bootstrap_weights

N, FOLD = 240, np.arange(240) % 4
WEIGHTS = bootstrap_weights(FOLD, 200, 0)
GENES = [g for genes in subtypes.MARKERS.values() for g in genes] + [f"OTHER{k}" for k in range(10)]
SPLITS = pd.concat(
    [
        pd.DataFrame({"repeat": 0, "fold": k, "patient_id": ids(N), "part": np.where(k == FOLD, "test", "train")})
        for k in range(4)
    ],
    ignore_index=True,
)


def _planted() -> tuple[pd.DataFrame, np.ndarray]:
    """Expression of patients whose subtype moves the marker genes as `SIGNS` says, and the subtype."""
    rng = np.random.default_rng(0)
    names = np.array(list(subtypes.SIGNS))
    which = rng.integers(4, size=N)
    x = pd.DataFrame(rng.normal(0, 0.7, (N, len(GENES))) + rng.normal(6, 3, len(GENES)), ids(N), GENES)
    for k, name in enumerate(names):
        for marker, sign in subtypes.SIGNS[name].items():
            x.loc[which == k, list(subtypes.MARKERS[marker])] += 2 * sign
    return x, names[which]


def test_planted_subtypes_are_found_and_named() -> None:
    x, which = _planted()
    found = subtypes.fit_centroids(x)
    assert (found.calls(x) == which).mean() > 0.95
    assert list(found.values.columns) == list(subtypes.SIGNS)
    again = subtypes.fit_centroids(x)
    pd.testing.assert_frame_equal(found.values, again.values)
    order = np.random.default_rng(1).permutation(N)
    assert (subtypes.fit_centroids(x.iloc[order], 3).calls(x) == found.calls(x)).mean() > 0.98


def test_scores_agree_with_scipy_and_do_not_mind_the_scale() -> None:
    x, _ = _planted()
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(20, 3)), GENES[:20], ["a", "b", "c"])
    found = subtypes.given_centroids(x, table)
    scores = found.scores(x.iloc[:5])
    for i in range(5):
        row = x.iloc[i][GENES[:20]] - x[GENES[:20]].median()
        np.testing.assert_allclose(scores[i], [spearmanr(row, table[s]).statistic for s in table])
    shrunk = x.median() + 0.1 * (x - x.median())
    np.testing.assert_array_equal(found.calls(shrunk), found.calls(x))


def _tables(predicted: np.ndarray) -> tuple[pd.DataFrame, pd.DataFrame]:
    x, _ = _planted()
    centroids = subtypes.centroids_of_runs(x, SPLITS)
    return subtypes.subtype_tables("m", make_runs(x.to_numpy(), predicted, FOLD, genes=GENES), centroids, WEIGHTS, 0.95)


def test_a_good_prediction_agrees_and_noise_does_not() -> None:
    from sklearn.metrics import cohen_kappa_score

    x, which = _planted()
    rng = np.random.default_rng(1)
    good = (x.median() + 0.2 * (x - x.median())).to_numpy() + rng.normal(0, 0.2, x.shape)
    calls, scores = _tables(good)
    assert (calls.set_index("patient_id")["measured"].loc[ids(N)] == which).mean() > 0.95
    by = scores.set_index(["metric", "subtype"])
    assert (by.loc["auroc", "low"] > 0.8).all()
    assert by.loc[("kappa", "all"), "estimate"] == pytest.approx(
        cohen_kappa_score(calls["measured"], calls["predicted"])
    )
    assert by.loc[("accuracy", "all"), "estimate"] == pytest.approx((calls["measured"] == calls["predicted"]).mean())
    assert by.loc["auroc", "events"].sum() == N and (scores["n"] == N).all()
    _, noise = _tables(x.mean().to_numpy() + rng.normal(size=x.shape))
    by = noise.set_index(["metric", "subtype"])
    assert by.loc[("kappa", "all"), "low"] < 0 < by.loc[("kappa", "all"), "high"]
    assert (by.loc["auroc", "estimate"] - 0.5).abs().max() < 0.12


def test_one_call_for_everybody_has_kappa_nought() -> None:
    x, _ = _planted()
    calls, scores = _tables(training_means(x.to_numpy(), FOLD))
    assert (calls.groupby("fold")["predicted"].nunique() == 1).all()
    by = scores.set_index(["metric", "subtype"])["estimate"]
    np.testing.assert_allclose(by["auroc"], 0.5)
    assert abs(by["kappa", "all"]) < 0.1
    one = subtypes.agreement(np.ones((1, 4)), np.array([0, 1, 0, 1]), np.zeros(4, int), 2)
    assert one[0][0] == 0.5 and one[1][0] == 0
    assert np.isnan(subtypes.agreement(np.ones((1, 4)), np.zeros(4, int), np.zeros(4, int), 2)[1][0])


def test_centroids_see_the_training_part_only() -> None:
    x, _ = _planted()
    before = subtypes.centroids_of_runs(x, SPLITS)[0, 2]
    spoilt = x.copy()
    spoilt.loc[FOLD == 2] = 1e3
    after = subtypes.centroids_of_runs(spoilt, SPLITS)
    pd.testing.assert_frame_equal(before.values, after[0, 2].values)
    pd.testing.assert_series_equal(before.medians, after[0, 2].medians)
    assert not before.medians.equals(after[0, 1].medians)


def test_bad_input_is_refused() -> None:
    x, _ = _planted()
    with pytest.raises(StudyError, match="no HER2 marker"):
        subtypes.fit_centroids(x.drop(columns=["ERBB2", "GRB7"]))
    with pytest.raises(StudyError, match="10 patients"):
        subtypes.fit_centroids(x.iloc[:10])
    with pytest.raises(StudyError, match="0 of 5 genes"):
        subtypes.given_centroids(x, pd.DataFrame(np.eye(5), [f"ENSG{k}" for k in range(5)]))
    table = pd.DataFrame(np.eye(6)[:, :2], GENES[:6], ["a", "b"])
    table.iloc[0, 0] = np.nan
    with pytest.raises(StudyError, match="missing"):
        subtypes.given_centroids(x, table)
    runs = make_runs(x.to_numpy(), x.to_numpy(), FOLD, genes=GENES)
    with pytest.raises(StudyError, match="no centroids"):
        subtypes.subtype_tables("m", runs, {}, WEIGHTS, 0.95)
    few = make_runs(x.to_numpy()[:, :5], x.to_numpy()[:, :5], FOLD, genes=GENES[:5])
    with pytest.raises(StudyError, match="no prediction of gene"):
        subtypes.subtype_tables("m", few, subtypes.centroids_of_runs(x, SPLITS), WEIGHTS, 0.95)


def test_clusters_of_the_real_pam50_table_are_sensible(shared_data: Path) -> None:
    file = shared_data / "tcga" / "hist2rna" / "pam50_gene_expression.csv"
    x = np.log2(1 + pd.read_csv(file, index_col=0))
    half = np.random.default_rng(0).permutation(len(x))
    calls = subtypes.fit_centroids(x.iloc[half[:500]]).calls(x)
    profile = (x - x.median()).groupby(calls).mean()
    share = pd.Series(calls).value_counts(normalize=True)
    assert profile["ESR1"].idxmin() == "basal-like" and profile["FOXC1"].idxmax() == "basal-like"
    assert profile["ERBB2"].idxmax() == "HER2-enriched" and profile["GRB7"].idxmax() == "HER2-enriched"
    assert (
        profile.loc[["luminal A", "luminal B"], "ESR1"].min() > profile["ESR1"].drop(["luminal A", "luminal B"]).max()
    )
    assert profile.loc["luminal A", "MKI67"] == profile["MKI67"].min()
    assert 0.1 < share["basal-like"] < 0.35 and share["luminal A"] > 0.2
