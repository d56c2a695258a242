"""Williams' t against a hand value and simulation; which genes are well predicted."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t as student

sys.path.insert(0, str(Path(__file__).parent))
from genedata import make_runs, training_means

from histostudy.errors import StudyError
from histostudy.evaluation import dependent
from histostudy.evaluation.bootstrap import bootstrap_weights
from histostudy.evaluation.expression import evaluate_genes

N, FOLD = 150, np.arange(150) % 5
WEIGHTS = bootstrap_weights(FOLD, 200, 0)


def test_t_by_hand() -> None:
    """R = 1 - .25 - .09 - .16 + 2 (.5)(.3)(.4) = .62; t = .2 sqrt(102 (1.4) / (2 (.62) 102/100 + .16 (.6)^3))."""
    by_hand = 0.2 * np.sqrt(142.8 / (2 * 0.62 * 1.02 + 0.16 * 0.216))
    assert dependent.steiger_t(0.5, 0.3, 0.4, 103) == pytest.approx(by_hand)
    assert by_hand == pytest.approx(2.0967, abs=1e-4)
    assert dependent.steiger_t(0.3, 0.5, 0.4, 103) == pytest.approx(-by_hand)
    assert dependent.steiger_t(0.5, 0.5, 1.0, 103) == 0
    assert np.isnan(dependent.steiger_t(0.5, 0.3, 0.4, 3)) and np.isnan(dependent.steiger_t(np.nan, 0.3, 0.4, 30))


@pytest.mark.parametrize(("rho", "between"), [(0.0, 0.0), (0.5, 0.3), (0.4, 0.9)])
def test_type_one_error_is_nominal(rho: float, between: float) -> None:
    rng = np.random.default_rng(3)
    covariance = np.array([[1, rho, rho], [rho, 1, between], [rho, between, 1]])
    x = rng.normal(size=(6000, 50, 3)) @ np.linalg.cholesky(covariance).T
    x = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
    r12, r13, r23 = ((x[..., a] * x[..., b]).mean(1) for a, b in ((0, 1), (0, 2), (1, 2)))
    p = student.sf(dependent.steiger_t(r12, r13, r23, 50), 47)
    assert (p < 0.05).mean() == pytest.approx(0.05, abs=0.01)


def test_folds_add_up_and_repeats_do_not() -> None:
    rng = np.random.default_rng(0)
    truth, one, two = rng.normal(size=(3, N, 3000))
    mine, twin = (make_runs(truth, x, FOLD) for x in (truth * 0.3 + one, truth * 0.3 + two))
    genes = [f"g{k}" for k in range(3000)]
    p, r = dependent.steiger_p(mine, twin, genes)
    assert (p < 0.05).mean() == pytest.approx(0.05, abs=0.013)
    assert r.mean() == pytest.approx(0.28, abs=0.02)
    again, other = (make_runs(truth, x, FOLD, repeat=1) for x in (truth * 0.3 + one, truth * 0.3 + two))
    np.testing.assert_allclose(dependent.steiger_p(mine + again, twin + other, genes)[0], p, rtol=1e-6)


def _models(genes: int = 40) -> dict:
    rng = np.random.default_rng(1)
    mean = rng.normal(5, 3, genes)
    truth = mean + rng.normal(size=(N, genes))
    seen = np.where(np.arange(genes) < 10, 0.5, 0.0)  # the first ten genes are in the picture
    leak = np.where(np.arange(genes) < 5, 0.6, 0.0)  # five of them an untrained network sees as well
    values = {
        "abmil": mean + seen * (truth - mean) + 0.2 * rng.normal(size=truth.shape),
        "twin": mean + leak * (truth - mean) + 0.2 * rng.normal(size=truth.shape),
        "prior": training_means(truth, FOLD),
    }
    return {name: make_runs(truth, x, FOLD) for name, x in values.items()}


def test_well_predicted_genes_beat_the_untrained_twin() -> None:
    runs = _models()
    rows = evaluate_genes(runs["abmil"], WEIGHTS, 0.95, reference_runs=runs["prior"]).rows
    alone = dependent.gene_table("abmil", rows, runs["abmil"], N).set_index("gene")
    beside = dependent.gene_table("abmil", rows, runs["abmil"], N, runs["twin"], "abmil_untrained").set_index("gene")
    assert alone["well_predicted"].iloc[:10].all() and alone["well_predicted"].iloc[10:].sum() <= 1
    assert not beside["well_predicted"].iloc[:5].any()  # as well without training
    assert beside["well_predicted"].iloc[5:10].all() and beside["well_predicted"].iloc[10:].sum() <= 1
    assert set(beside.columns) == set(dependent.GENE_COLUMNS) - {"gene"}
    assert (beside["untrained"] == "abmil_untrained").all() and alone["steiger_p"].isna().all()
    assert (beside["untrained_r"].iloc[:5] > 0.8).all()
    skill = rows[(rows["metric"] == "skill") & (rows["gene"] == "g7")]["estimate"].item()
    assert alone.loc["g7", "skill"] == pytest.approx(skill)


def test_a_constant_twin_has_no_r_and_a_gene_its_own_test() -> None:
    runs = _models()
    rows = evaluate_genes(runs["abmil"], WEIGHTS, 0.95).rows
    table = dependent.gene_table("abmil", rows, runs["abmil"], N, runs["prior"], "prior").set_index("gene")
    assert table["untrained_r"].isna().all() and table["steiger_p"].isna().all() and table["skill"].isna().all()
    assert table["well_predicted"].iloc[:10].all() and table["well_predicted"].iloc[10:].sum() <= 3
    itself = dependent.gene_table("abmil", rows, runs["abmil"], N, runs["abmil"], "abmil")
    assert not itself["well_predicted"].any() and np.allclose(itself["steiger_p"], 0.5)
    with pytest.raises(StudyError, match="no such run"):
        dependent.gene_table("abmil", rows, runs["abmil"], N, runs["twin"][:2], "twin")


def test_rmse_agrees_with_a_loop() -> None:
    runs = _models()["abmil"]
    errors = np.concatenate([(r.frame["truth_g3"] - r.frame["pred_g3"]) ** 2 for r in runs])
    assert dependent.rmse(runs, ["g3"])[0] == pytest.approx(np.sqrt(errors.mean()))
