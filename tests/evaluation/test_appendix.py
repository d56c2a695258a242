"""The tables behind the figures: one set a kind of task, every model in each, what is not asked for is not made."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from genedata import ids, make_runs, training_means

from histostudy.cohort.outcomes import Outcome
from histostudy.evaluation import appendix, expression, subtypes
from histostudy.evaluation.appendix import MAPPED_GENES, Beside
from histostudy.evaluation.bootstrap import bootstrap_weights
from histostudy.evaluation.metrics.base import Run, Values
from histostudy.evaluation.metrics.classification import Classes
from histostudy.evaluation.runs import CUTOFF

N, FOLDS = 120, 3
FOLD = np.arange(N) % FOLDS
WEIGHTS = bootstrap_weights(FOLD, 100, 0)
SPLITS = pd.concat(
    [
        pd.DataFrame({"repeat": 0, "fold": k, "patient_id": ids(N), "part": np.where(k == FOLD, "test", "train")})
        for k in range(FOLDS)
    ],
    ignore_index=True,
)


def cut(**columns: np.ndarray) -> list[Run]:
    """Runs of whole-cohort columns."""
    frame = pd.DataFrame({"patient_id": ids(N), "repeat": 0, "fold": FOLD, "task": "t", "model": "m"} | columns)
    runs = []
    for k in range(FOLDS):
        tested, rest = (frame[part].reset_index(drop=True) for part in (k == FOLD, k != FOLD))
        runs.append(Run(0, k, tested, rest, np.flatnonzero(k == FOLD)))
    return runs


def outcome(y: np.ndarray, adjust: pd.DataFrame | None = None, **values: object) -> Outcome:
    nothing = pd.DataFrame(index=pd.Index(ids(N), name="patient_id"))
    names = np.array(ids(N), dtype=object)
    return Outcome(
        task=values.pop("task", None), patient_ids=names, y=y, adjust=nothing if adjust is None else adjust, **values
    )  # type: ignore[arg-type]


def test_tables_of_a_classification() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(2, size=N)
    runs = {}
    for model, effect in (("good", 2.0), ("bad", 0.0)):
        share = 1 / (1 + np.exp(-(rng.normal(size=N) + effect * (truth - 0.5))))
        runs[model] = cut(truth=np.array(["a", "b"])[truth], prob_a=1 - share, prob_b=share)
    found = appendix.of_classification(runs, WEIGHTS, Classes(("a", "b"), "b"), 0.95)
    assert list(found) == ["roc", "pr", "calibration", "confusion", "decision"]
    assert all(set(table["model"]) == {"good", "bad"} for table in found.values())


def survived(seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=N)
    died, left = rng.exponential(900 * np.exp(-1.5 * hidden)), rng.exponential(2500, N)
    return hidden, np.ceil(np.minimum(died, left)), died <= left


def test_tables_of_a_survival_task() -> None:
    hidden, time, event = survived()
    curves = {f"surv_{d}": np.exp(-d / 900 * np.exp(hidden)) for d in (91, 182, 365, 730)}
    runs = {
        "full": cut(time=time, event=event, risk=hidden, **{CUTOFF: np.zeros(N)}, **curves),
        "published": cut(time=time, event=event, risk=hidden),
        "clinical": cut(time=time, event=event, risk=np.random.default_rng(3).normal(size=N)),
    }
    age = pd.DataFrame({"age": np.random.default_rng(0).normal(60, 9, N)}, index=ids(N))
    truth = outcome(time, age, time=time, event=event)
    found = appendix.of_survival(runs, WEIGHTS, [365], 0.95, truth)
    assert set(found) == {"km", "calibration", "td_auc", "brier_curve", "cox", "pooling", "km_pooled", "added"}
    assert set(found["td_auc"]["model"]) == {"full", "published", "clinical"}
    assert set(found["cox"]["model"]) == {"full", "published"}  # the clinical one is made of these covariates
    for name in ("calibration", "brier_curve"):  # a risk without curves has none
        assert set(found[name]["model"]) == {"full"}, name
    both = found["cox"].query("analysis == 'multivariable' and model == 'full'")
    assert both.loc[both["term"].str.startswith("risk"), "low"].item() > 1


def test_tables_of_a_regression_name_patients_and_folds() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=N)
    found = appendix.of_regression(
        {"m": cut(truth=truth, prediction=truth + 1), "n": cut(truth=truth, prediction=-truth)}
    )
    scatter = found["scatter"]
    assert list(scatter.columns) == ["patient_id", "truth", "prediction", "fold", "model"] and len(scatter) == 2 * N
    mine = scatter[scatter["model"] == "m"].set_index("patient_id").loc[ids(N)]
    assert mine["fold"].tolist() == FOLD.tolist() and np.allclose(mine["prediction"] - mine["truth"], 1)


def genes(names: list[str], seed: int = 0) -> tuple[np.ndarray, dict[str, list[Run]]]:
    """A model that knows the first half of the genes, its untrained twin, and the training mean."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(N, len(names))) + 5
    known = np.arange(len(names)) < len(names) / 2
    made = {
        "m": np.where(known, truth, 5) + rng.normal(0, 0.7, truth.shape), "twin": rng.normal(5, 1, truth.shape),
        "prior": training_means(truth, FOLD),
    }  # fmt: skip
    return truth, {model: make_runs(truth, said, FOLD, genes=names) for model, said in made.items()}


def of_expression(
    names: list[str], beside: Beside, truth: np.ndarray, runs: dict[str, list[Run]], **task: object
) -> dict:
    rows = [
        expression.evaluate_genes(r, WEIGHTS, 0.95, None, runs["prior"]).rows.assign(model=m) for m, r in runs.items()
    ]
    made = outcome(truth, task=SimpleNamespace(**task), genes=names)
    return appendix.of_expression(runs, WEIGHTS, 0.95, pd.concat(rows), made, SPLITS, beside, 0)


def test_tables_of_genes() -> None:
    names = [f"G{k}" for k in range(10)]
    truth, runs = genes(names)
    found = of_expression(names, Beside(untrained={"m": "twin"}), truth, runs)
    assert set(found) == {"genes", "gene_scatter", "folds", "within"}
    table = found["genes"].set_index(["model", "gene"])
    assert len(table) == 3 * 10 and set(table.loc["m", "untrained"]) == {"twin"}
    assert set(table.loc["prior", "untrained"]) == {""}
    good = table.loc["m", "well_predicted"].astype(bool)
    assert good[names[:5]].all() and not good[names[5:]].any()
    folds = found["folds"]
    assert list(folds.columns) == ["model", "metric", "repeat", "fold", "estimate", "n", "events"]
    frame = runs["m"][1].frame
    each = [np.corrcoef(frame[f"truth_{g}"], frame[f"pred_{g}"])[0, 1] for g in names]
    assert folds.query("model == 'm' and fold == 1")["estimate"].item() == pytest.approx(np.mean(each))
    assert folds.query("model == 'm'")["n"].tolist() == [40] * 3
    assert folds.query("model == 'prior'")["estimate"].isna().all()  # a constant has no correlation
    assert set(found["within"]["model"]) == {"m", "twin", "prior"}


def test_maps_of_spots_show_the_genes_that_are_predicted_best() -> None:
    names = [f"G{k}" for k in range(10)]
    truth, runs = genes(names)
    places = pd.DataFrame({"spot_id": ids(N), "slide_id": "s", "x_px0": np.arange(N) * 10.0, "y_px0": 7.0})
    found = of_expression(names, Beside(places=places.sample(frac=1, random_state=0)), truth, runs)
    mine = found["spatial"].query("model == 'm'")
    assert list(mine.columns) == ["slide_id", "x_px0", "y_px0", "model", "gene", "truth", "prediction"]
    assert mine["gene"].nunique() == MAPPED_GENES and len(mine) == MAPPED_GENES * N
    best = found["genes"].query("model == 'm'").nlargest(MAPPED_GENES, "estimate")["gene"]
    assert set(mine["gene"]) == set(best) <= set(names[:5])
    one = mine[mine["gene"] == best.iloc[0]].sort_values("x_px0")
    np.testing.assert_allclose(one["truth"], truth[:, names.index(best.iloc[0])])  # each at its own place


def test_subtypes_only_where_asked_and_their_curves_only_with_a_survival_task() -> None:
    names = [g for marker in subtypes.MARKERS.values() for g in marker]
    rng = np.random.default_rng(0)
    which = np.arange(N) // FOLDS % 4
    truth = rng.normal(6, 0.5, (N, len(names)))
    for k, name in enumerate(subtypes.SIGNS):
        for marker, sign in subtypes.SIGNS[name].items():
            columns = [names.index(g) for g in subtypes.MARKERS[marker]]
            truth[np.ix_(which == k, columns)] += 2 * sign
    said = {"m": truth + rng.normal(0, 0.5, truth.shape), "prior": training_means(truth, FOLD)}
    runs = {model: make_runs(truth, values, FOLD, genes=names) for model, values in said.items()}
    _, time, event = survived()
    alive = outcome(time, time=time, event=event)
    plain = of_expression(names, Beside(survival=alive), truth, runs)
    assert not {"subtypes", "subtype_scores", "subtype_km"} & set(plain)
    asked = of_expression(names, Beside(), truth, runs, subtypes=True)
    assert {"subtypes", "subtype_scores"} <= set(asked) and "subtype_km" not in asked
    calls = asked["subtypes"].query("model == 'm'")
    assert (calls["measured"] == calls["predicted"]).mean() > 0.9 and len(calls) == N
    kappa = asked["subtype_scores"].query("subtype == 'all' and metric == 'kappa'").set_index("model")["estimate"]
    assert kappa["m"] > 0.85 and kappa["prior"] == pytest.approx(0, abs=1e-9)
    curves = of_expression(names, Beside(survival=alive), truth, runs, subtypes=True)["subtype_km"]
    assert set(curves["calls"]) == {"measured", "predicted"}
    assert "predicted" not in set(curves.loc[curves["model"] == "prior", "calls"])  # everybody is called alike


def test_folds_of_a_metric_and_none_of_a_pooled_one() -> None:
    runs = {"m": cut(truth=np.zeros(N)), "n": cut(truth=np.zeros(N))}
    each = Values(0.6, np.zeros(3), 2, 1, np.array([0.5, 0.7, np.nan]), np.zeros((3, 3)))
    table = appendix.folds("auroc", {"m": each, "n": Values(0.6, np.zeros(3), 3, 0)}, runs, lambda run: run.fold + 10)
    assert list(table.columns) == ["model", "metric", "repeat", "fold", "estimate", "n", "events"]
    assert table["model"].tolist() == ["m"] * 3 and table["events"].tolist() == [10, 11, 12]
    assert table["estimate"].tolist()[:2] == [0.5, 0.7] and table["n"].tolist() == [40] * 3
    assert appendix.folds("ece", {}, runs, lambda run: None).empty
