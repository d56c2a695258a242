"""Correlation within a patient: gene means alone reach a high one, which gene-centring takes away."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).parent))
from genedata import make_runs, training_means

from histostudy.evaluation import within_patient
from histostudy.evaluation.bootstrap import bootstrap_weights

N, FOLD = 60, np.arange(60) % 3
WEIGHTS = bootstrap_weights(FOLD, 400, 0)


def _table(predicted: np.ndarray, truth: np.ndarray, mean: np.ndarray) -> pd.DataFrame:
    runs, prior = make_runs(truth, predicted, FOLD), make_runs(truth, mean, FOLD)
    return within_patient.within_patients("m", runs, prior, WEIGHTS, 0.95).set_index("measure")


def _data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 3, 40) + rng.normal(size=(N, 40))
    return truth, training_means(truth, FOLD)


def test_agrees_with_scipy_a_patient() -> None:
    truth, mean = _data()
    predicted = np.round(truth + np.random.default_rng(1).normal(size=truth.shape), 0)  # ties
    table = _table(predicted, truth, mean)
    raw = [spearmanr(t, p).statistic for t, p in zip(truth, predicted, strict=True)]
    centred = [spearmanr(t - m, p - m).statistic for t, p, m in zip(truth, predicted, mean, strict=True)]
    for measure, values in (("across genes", raw), ("gene-centred", centred)):
        assert table.loc[measure, "mean"] == pytest.approx(np.mean(values))
        assert table.loc[measure, "median"] == pytest.approx(np.median(values))
        assert table.loc[measure, "low"] < np.mean(values) < table.loc[measure, "high"]
        assert table.loc[measure, "median_low"] <= np.median(values) <= table.loc[measure, "median_high"]
    assert (table["n"] == N).all() and (table["genes"] == 40).all()
    se = np.std(raw, ddof=1) / np.sqrt(N)
    assert table.loc["across genes", "high"] - table.loc["across genes", "low"] == pytest.approx(3.92 * se, rel=0.15)


def test_gene_means_alone_reach_a_high_raw_one_and_no_centred_one() -> None:
    truth, mean = _data()
    prior = _table(mean, truth, mean)
    assert prior.loc["across genes", "mean"] > 0.85
    assert prior.loc["gene-centred", ["mean", "low", "high", "median"]].isna().all()
    assert prior.loc["gene-centred", "n"] == 0
    noise = _table(mean + 0.1 * np.random.default_rng(2).normal(size=truth.shape), truth, mean)
    assert noise.loc["across genes", "mean"] > 0.85
    assert noise.loc["gene-centred", "low"] < 0 < noise.loc["gene-centred", "high"]
    learnt = _table(mean + 0.3 * (truth - mean), truth, mean)
    assert learnt.loc["gene-centred", "low"] > 0.95


def test_the_permuted_null_matches_a_loop_over_other_patients() -> None:
    truth, mean = _data()
    predicted = truth + np.random.default_rng(1).normal(size=truth.shape)
    found = _table(predicted, truth, mean).loc["across genes", "permuted"]
    each = []
    for k in range(3):
        rows = np.flatnonzero(k == FOLD)
        each.append(np.mean([spearmanr(truth[i], predicted[j]).statistic for i in rows for j in rows if i != j]))
    assert found == pytest.approx(np.mean(each))


def test_a_patient_of_two_repeats_counts_once() -> None:
    truth, mean = _data()
    other = training_means(truth, np.roll(FOLD, 1))
    runs, prior = make_runs(truth, truth, FOLD), make_runs(truth, mean, FOLD)
    runs += make_runs(truth, -truth, np.roll(FOLD, 1), repeat=1)
    prior += make_runs(truth, other, np.roll(FOLD, 1), repeat=1)
    table = within_patient.within_patients("m", runs, prior, WEIGHTS, 0.95).set_index("measure")
    assert table.loc["across genes", "mean"] == pytest.approx(0)  # 1 and -1
    assert table.loc["across genes", "n"] == N


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(-5, 5), st.integers(0, 3)), min_size=1, max_size=12))
def test_weighted_median_is_that_of_repeated_rows(pairs: list[tuple[float, int]]) -> None:
    values, counts = np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])
    found = within_patient._medians(counts[None].astype(float), values)[0]
    if counts.sum() == 0:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(np.median(np.repeat(values, counts)))


def test_the_mean_predictor_of_pam50(shared_data: Path) -> None:
    """hist2RNA's committed table: the training mean of 335 patients reaches 0.676 (mean) within 160 others."""
    file = shared_data / "tcga" / "hist2rna" / "pam50_gene_expression.csv"
    values = np.log2(1 + pd.read_csv(file, index_col=0).to_numpy(float))
    rng, found = np.random.default_rng(0), []
    for _ in range(20):
        order = rng.permutation(len(values))
        truth, mean = values[order[335:495]], values[order[:335]].mean(0)
        prior = make_runs(truth, np.tile(mean, (160, 1)), np.zeros(160, int))
        table = within_patient.within_patients("prior", prior, prior, np.ones((1, 160)), 0.95).set_index("measure")
        assert np.isnan(table.loc["gene-centred", "mean"])
        assert table.loc["across genes", "permuted"] == pytest.approx(table.loc["across genes", "mean"])
        found.append(table.loc["across genes", ["mean", "median"]].to_numpy(float))
    mean, median = np.mean(found, 0)
    assert mean == pytest.approx(0.676, abs=0.02)
    assert median == pytest.approx(0.770, abs=0.02)
