"""Metrics of genes: skill against the training mean, p of both correlations, the genes drawn."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from genedata import make_runs, training_means

from histostudy.errors import StudyError
from histostudy.evaluation import expression
from histostudy.evaluation.bootstrap import bootstrap_weights

N, FOLD = 150, np.arange(150) % 5
WEIGHTS = bootstrap_weights(FOLD, 300, 0)


def _data(genes: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.normal(5, 3, genes) + rng.normal(size=(N, genes))
    predicted = truth.mean(0) + 0.5 * (truth - truth.mean(0)) + 0.3 * rng.normal(size=truth.shape)
    predicted[:, genes // 2 :] = truth.mean(0)[genes // 2 :] + rng.normal(size=(N, genes - genes // 2))  # noise alone
    return truth, predicted, training_means(truth, FOLD)


def _rows(metric: str) -> pd.DataFrame:
    truth, predicted, mean = _data()
    runs, prior = make_runs(truth, predicted, FOLD), make_runs(truth, mean, FOLD)
    table = expression.evaluate_genes(runs, WEIGHTS, 0.95, reference_runs=prior).rows
    return table[table["metric"] == metric].set_index("gene")


def test_skill_agrees_with_a_slow_loop() -> None:
    truth, predicted, mean = _data()
    rows = _rows("skill")
    for k in range(truth.shape[1]):
        error = sum((t - p) ** 2 for t, p in zip(truth[:, k], predicted[:, k], strict=True))
        about = sum((t - m) ** 2 for t, m in zip(truth[:, k], mean[:, k], strict=True))
        assert rows.loc[f"g{k}", "estimate"] == pytest.approx(1 - error / about, rel=1e-6)
    assert rows.loc["all", "estimate"] == pytest.approx(rows["estimate"].iloc[1:].mean())
    w = WEIGHTS[7]
    slow = 1 - (w * (truth[:, 0] - predicted[:, 0]) ** 2).sum() / (w * (truth[:, 0] - mean[:, 0]) ** 2).sum()
    one = expression.skill(WEIGHTS[7:8], truth, predicted, mean)[0, 0]
    assert one == pytest.approx(slow)


def test_skill_finds_the_planted_genes_and_not_noise() -> None:
    rows = _rows("skill").iloc[1:]
    planted, noise = rows.iloc[:6], rows.iloc[6:]
    assert (planted["low"] > 0).all()
    assert (noise["high"] < 0).all()  # noise is worse than the mean
    assert (rows["low"] <= rows["estimate"]).all() and (rows["estimate"] <= rows["high"]).all()


def test_skill_of_the_training_mean_is_zero_and_needs_its_runs() -> None:
    truth, predicted, mean = _data()
    prior = make_runs(truth, mean, FOLD)
    rows = expression.evaluate_genes(prior, WEIGHTS, 0.95, reference_runs=prior).rows
    np.testing.assert_allclose(rows.loc[rows["metric"] == "skill", ["estimate", "low", "high"]], 0, atol=1e-6)
    assert rows.loc[rows["metric"] == "pearson", "estimate"].isna().all()
    without = expression.evaluate_genes(make_runs(truth, predicted, FOLD), WEIGHTS, 0.95).rows
    assert set(without["metric"]) == {"r2", "mae", "pearson", "spearman"}


def test_a_constant_gene_has_no_skill() -> None:
    truth, predicted, _ = _data()
    truth[:, 0] = 3.0
    mean = training_means(truth, FOLD)
    rows = expression.evaluate_genes(
        make_runs(truth, predicted, FOLD), WEIGHTS, 0.95, reference_runs=make_runs(truth, mean, FOLD)
    ).rows.set_index(["metric", "gene"])
    assert np.isnan(rows.loc[("skill", "g0"), "estimate"]) and np.isfinite(rows.loc[("skill", "g1"), "estimate"])
    assert np.isfinite(rows.loc[("skill", "all"), "estimate"])


def test_spearman_has_its_own_p() -> None:
    rows = _rows("spearman")
    assert np.isnan(rows.loc["all", "p"])
    assert (rows["q"].iloc[1:7] < 1e-6).all()
    p = rows["p"].iloc[1:]
    assert (rows["q"].iloc[1:] >= p).all() and not np.allclose(p, _rows("pearson")["p"].iloc[1:])


def test_p_of_spearman_is_uniform_under_the_null() -> None:
    rng = np.random.default_rng(1)
    truth, predicted = rng.lognormal(0, 2, (2, N, 1500))  # heavy tails: ranks do not mind
    rows = expression.evaluate_genes(make_runs(truth, predicted, FOLD), np.ones((2, N)), 0.95).rows
    p = rows.loc[(rows["metric"] == "spearman") & (rows["gene"] != "all"), "p"]
    assert (p < 0.05).mean() == pytest.approx(0.05, abs=0.017)


def test_other_patients_are_refused() -> None:
    truth, predicted, mean = _data()
    runs = make_runs(truth, predicted, FOLD)
    with pytest.raises(StudyError, match="other patients"):
        expression.evaluate_genes(runs, WEIGHTS, 0.95, reference_runs=make_runs(truth, mean, np.roll(FOLD, 1)))
    with pytest.raises(StudyError, match="repeat 0 fold 3: .*no such run"):
        expression.evaluate_genes(runs, WEIGHTS, 0.95, reference_runs=make_runs(truth, mean, FOLD)[:3])


def test_the_drawn_genes_are_the_best_and_a_patient_is_drawn_once() -> None:
    truth, predicted, _ = _data()
    runs = make_runs(truth, predicted, FOLD) + make_runs(truth, predicted + 1, FOLD, repeat=1)
    rows = expression.evaluate_genes(runs, WEIGHTS, 0.95).rows
    table = expression.gene_scatter("abmil", runs, rows, 3)
    best = rows[(rows["metric"] == "pearson") & (rows["gene"] != "all")].nlargest(3, "estimate")
    assert table["gene"].unique().tolist() == best["gene"].tolist()
    assert len(table) == 3 * N and not table.duplicated(["gene", "unit_id"]).any()
    first = table[table["gene"] == best["gene"].iloc[0]].set_index("unit_id")
    k = int(best["gene"].iloc[0][1:])
    assert first.loc["P0003", "prediction"] == pytest.approx(predicted[3, k] + 0.5)
    flat = make_runs(truth, np.ones_like(truth), FOLD)
    assert expression.gene_scatter("prior", flat, expression.evaluate_genes(flat, WEIGHTS, 0.95).rows).empty
