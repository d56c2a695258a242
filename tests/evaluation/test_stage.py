"""A whole task: from predictions of several models to its tables."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from histostudy.cohort.outcomes import Outcome
from histostudy.errors import StudyError
from histostudy.evaluation import expression, survival_curves
from histostudy.evaluation.metrics.base import Run
from histostudy.evaluation.runs import CUTOFF, gather, pool_predictions, runs_of
from histostudy.evaluation.stage import Evaluation, evaluate_task
from histostudy.files import sha256, write_table
from histostudy.tasks import Regression
from histostudy.training.runfolder import write_index

N, FOLDS = 150, 5
IDS = np.array([f"{i:03d}" for i in range(N)])
FOLD = np.arange(N) % FOLDS
DAYS = [30, 91, 182, 365, 548, 730, 1095]


def study(reference: str = "abmil") -> SimpleNamespace:
    compare = SimpleNamespace(reference=reference, resamples=400, correction="holm", confidence=0.95)
    return SimpleNamespace(seed=0, compare=compare)


def outcome(task: SimpleNamespace, y: np.ndarray, **more: object) -> Outcome:
    nothing = pd.DataFrame(index=pd.Index(IDS, name="patient_id"))
    return Outcome(task=task, patient_ids=np.array(IDS, dtype=object), y=np.asarray(y, float), adjust=nothing, **more)


def splits() -> pd.DataFrame:
    parts = [
        pd.DataFrame({"repeat": 0, "fold": k, "patient_id": IDS, "part": np.where(k == FOLD, "test", "train")})
        for k in range(FOLDS)
    ]
    return pd.concat(parts, ignore_index=True)


def keys(model: str) -> dict:
    return {"patient_id": IDS, "repeat": 0, "fold": FOLD, "task": "t", "model": model}


def classification(effects: dict[str, float]) -> tuple:
    rng = np.random.default_rng(0)
    truth = rng.integers(2, size=N)
    out = {}
    for model, effect in effects.items():
        prob = 1 / (1 + np.exp(-(rng.normal(size=N) + effect * (truth - 0.5))))
        frame = pd.DataFrame(keys(model) | {"truth": np.array(["a", "b"])[truth], "prob_a": 1 - prob, "prob_b": prob})
        out[model] = frame.sort_values(["repeat", "fold", "patient_id"], ignore_index=True)
    task = SimpleNamespace(name="t", kind="classification", positive=None)
    return task, out, outcome(task, truth, classes=["a", "b"])


def survival(effects: dict[str, float]) -> tuple:
    rng = np.random.default_rng(1)
    hidden = rng.normal(size=N)
    died, left = rng.exponential(900 * np.exp(-hidden)), rng.exponential(1800, N)
    time, event = np.minimum(died, left) + 1, died <= left
    out = {}
    for model, effect in effects.items():
        risk = effect * hidden + rng.normal(size=N)
        curve = {f"surv_{d}": np.exp(-d / 900 * np.exp(risk * effect)) for d in DAYS}
        out[model] = pd.DataFrame(keys(model) | {"time": time, "event": event.astype(int), "risk": risk} | curve)
    task = SimpleNamespace(name="t", kind="survival", horizons=[365, 1095])
    return task, out, outcome(task, time, time=time, event=event)


def genes(effect: dict[str, float], models: tuple[str, ...] = ("abmil",)) -> tuple:
    rng = np.random.default_rng(2)
    out = {}
    truth = {g: rng.normal(5, 1, N) for g in effect}
    for model in models:
        columns = {f"truth_{g}": truth[g] for g in effect}
        columns |= {f"pred_{g}": effect[g] * truth[g] + rng.normal(size=N) for g in effect}
        out[model] = pd.DataFrame(keys(model) | columns)
    task = SimpleNamespace(name="t", kind="expression")
    return task, out, outcome(task, np.stack(list(truth.values()), 1), genes=list(effect))


def test_classification_finds_what_is_planted_and_not_what_is_not() -> None:
    task, predictions, outcome = classification({"prior": 0.0, "clinical": 1.0, "abmil": 2.5, "twin": 2.5})
    predictions["prior"] = predictions["prior"].assign(prob_a=0.6, prob_b=0.4)
    result = evaluate_task(study(), task, predictions, outcome, splits())
    assert isinstance(result, Evaluation)
    table = result.metrics.set_index(["model", "metric"])
    assert table.loc[("prior", "auroc"), "estimate"] == 0.5
    assert table.loc[("abmil", "auroc"), "low"] > 0.85
    assert (table["low"] <= table["estimate"] + 1e-12).all() and (table["estimate"] <= table["high"] + 1e-12).all()
    assert table.loc[("abmil", "auroc"), "pooling"] == "fold mean" and (table["n"] == N).all()
    positives = int((predictions["abmil"]["truth"] == "b").sum())
    assert (table["events"] == positives).all()
    pairs = result.comparison.set_index(["model", "reference"])
    assert list(pairs.index) == [
        ("prior", "abmil"), ("clinical", "abmil"), ("twin", "abmil"), ("prior", "clinical"), ("twin", "clinical"),
    ]  # fmt: skip
    assert pairs.loc[("prior", "abmil"), "p_adjusted"] < 0.05 and pairs.loc[("prior", "abmil"), "high"] < 0
    assert pairs.loc[("twin", "abmil"), "p_adjusted"] > 0.05
    assert set(result.curves) == {"roc", "pr", "calibration", "confusion", "decision", "folds"}
    roc = result.curves["roc"].query("model == 'abmil'")
    assert (roc["low"] <= roc["high"]).all() and roc["tpr"].is_monotonic_increasing
    assert np.trapezoid(roc["tpr"], roc["fpr"]) == pytest.approx(roc["estimate"].iloc[0], abs=0.01)
    assert result.curves["confusion"].groupby("model")["count"].sum().eq(N).all()


def test_a_null_is_half_within_its_interval() -> None:
    held = 0
    for seed in range(20):
        task, predictions, outcome = classification({"abmil": 0.0})
        rng = np.random.default_rng(seed)
        frame = predictions["abmil"]
        frame["prob_b"] = rng.uniform(size=N)
        frame["prob_a"] = 1 - frame["prob_b"]
        row = evaluate_task(study(), task, predictions, outcome, splits()).metrics.query("metric == 'auroc'").iloc[0]
        held += row["low"] <= 0.5 <= row["high"]
    assert held >= 17


def test_survival() -> None:
    task, predictions, outcome = survival({"prior": 0.0, "abmil": 4.0})
    predictions["prior"]["risk"] = 0.0
    result = evaluate_task(study(), task, predictions, outcome, splits())
    table = result.metrics.set_index(["model", "metric"])["estimate"]
    assert table["prior", "c_harrell"] == 0.5 and table["abmil", "c_harrell"] > 0.65
    assert {"c_uno", "auroc_td@365", "auroc_td@1095", "ibs"} < set(result.metrics["metric"])
    assert (result.metrics["events"] == outcome.event.sum()).all()
    assert result.comparison["p_adjusted"].iloc[0] < 0.05
    km = result.curves["km"]
    assert set(km["model"]) == {"abmil"}  # a constant risk has no strata
    assert km["p"].iloc[0] < 1e-3 and km["hr_low"].iloc[0] > 1
    assert km["rule"].iloc[0] == "rank within fold"
    first = km[km["time_days"] == 0]
    assert first["at_risk"].sum() == N and (first["survival"] == 1).all()
    predictions["abmil"][CUTOFF] = -100.0  # every patient is above it: no strata
    again = evaluate_task(study(), task, predictions, outcome, splits()).curves["km"]
    assert "abmil" not in set(again.get("model", []))
    assert {"horizon_days", "predicted", "observed"} < set(result.curves["calibration"].columns)


def test_regression_and_scatter() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=N)
    frame = pd.DataFrame(keys("abmil") | {"truth": truth, "prediction": truth + rng.normal(size=N)})
    flat = frame.assign(model="prior", prediction=0.1)
    task = SimpleNamespace(name="t", kind="regression")
    outcome = SimpleNamespace(patient_ids=IDS, classes=[], time=None, event=None)
    result = evaluate_task(study(), task, {"prior": flat, "abmil": frame}, outcome, splits())
    prior = result.metrics.query("model == 'prior'").set_index("metric")
    assert np.isnan(prior.loc["pearson", "estimate"]) and prior.loc["pearson", "undefined"] == FOLDS
    assert result.comparison["p"].isna().all()
    assert len(result.curves["scatter"]) == 2 * N


def test_a_cutoff_adds_a_row_that_counts_the_patients_above_it() -> None:
    rng = np.random.default_rng(3)
    truth = rng.normal(size=N)
    frame = pd.DataFrame(keys("abmil") | {"truth": truth, "prediction": truth + rng.normal(size=N)})
    null = frame.assign(model="null", prediction=rng.normal(size=N))
    rare = np.sort(truth)[-3]  # three patients of five folds
    for cutoff in (0.5, rare):
        task = Regression(name="t", kind="regression", target="y", cutoff=cutoff)
        outcome = SimpleNamespace(patient_ids=IDS, classes=[], time=None, event=None)
        result = evaluate_task(study(), task, {"abmil": frame, "null": null}, outcome, splits())
        table = result.metrics.set_index(["model", "metric"])
        row = table.loc["abmil", f"auroc@{cutoff:.12g}"]
        assert row["n"] == N and row["events"] == (truth >= cutoff).sum() and row["pooling"] == "fold mean"
        assert table.loc[("abmil", "pearson"), "events"] is None
        if cutoff == 0.5:
            folds = [k == FOLD for k in range(FOLDS)]
            by_hand = np.mean([roc_auc_score(truth[k] >= 0.5, frame["prediction"].to_numpy()[k]) for k in folds])
            assert row["estimate"] == pytest.approx(by_hand) and 0.5 < row["low"] < row["estimate"] < row["high"]
            nothing = table.loc["null", "auroc@0.5"]
            assert nothing["low"] < 0.5 < nothing["high"]
        else:
            assert row["undefined"] == FOLDS - len(set(FOLD[truth >= cutoff]))
    assert set(result.comparison["metric"]) <= {"pearson"}


def test_expression_finds_planted_genes_and_corrects_for_the_rest() -> None:
    effect = {f"up{i}": 0.8 for i in range(5)} | {f"null{i}": 0.0 for i in range(40)}
    task, predictions, outcome = genes(effect, ("abmil", "other"))
    result = evaluate_task(study(), task, predictions, outcome, splits())
    table = result.metrics.query("model == 'abmil' and metric == 'pearson'").set_index("gene")
    assert table.index[0] == "all"
    planted = table.index.str.startswith("up")
    assert (table.loc[planted, "q"] < 0.01).all()
    assert (table.loc[table.index.str.startswith("null"), "q"] < 0.05).sum() <= 2
    assert table.loc["all", "estimate"] == pytest.approx(table["estimate"].iloc[1:].mean())
    assert table.loc["all", "low"] < table.loc["all", "estimate"] < table.loc["all", "high"]
    by_hand = np.mean([
        np.corrcoef(f["truth_up0"], f["pred_up0"])[0, 1] for _, f in predictions["abmil"].groupby("fold")
    ])  # fmt: skip
    assert table.loc["up0", "estimate"] == pytest.approx(by_hand)
    assert len(result.curves["genes"]) == 2 * len(effect)
    assert len(result.comparison) == 1


def test_correlation_p_agrees_with_scipy_for_one_fold() -> None:
    from scipy.stats import pearsonr

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 200))
    y += 0.15 * x
    r, p = pearsonr(x, y)
    assert expression.correlation_p(np.array([[r]]), of_patients([np.arange(200)]))[0] == pytest.approx(p, rel=0.03)
    null = rng.normal(size=(5, 4000)) / np.sqrt(37)  # z scores of folds of 40
    folds = list(np.arange(200).reshape(5, 40))
    assert (expression.correlation_p(np.tanh(null), of_patients(folds)) < 0.05).mean() == pytest.approx(0.05, abs=0.015)


@pytest.mark.parametrize("repeats", [1, 3, 5])
def test_repeats_are_no_new_evidence_for_a_gene(repeats: int) -> None:
    """Null genes, the prediction of a patient the same in each repeat: 5 in 100 have p below 0.05."""
    rng = np.random.default_rng(repeats)
    names = [f"g{i}" for i in range(2000)]
    truth, predicted = rng.normal(size=(2, N, len(names)))
    columns = {f"truth_{g}": truth[:, k] for k, g in enumerate(names)}
    columns |= {f"pred_{g}": predicted[:, k] for k, g in enumerate(names)}
    frame = pd.DataFrame(keys("abmil") | columns)
    copies = [frame.assign(repeat=k, fold=rng.permutation(FOLD)) for k in range(repeats)]
    runs = runs_of(pd.concat(copies, ignore_index=True), list(IDS), {})
    table = expression.evaluate_genes(runs, np.ones((2, N)), 0.95).rows.query("metric == 'pearson' and gene != 'all'")
    assert (table["p"] < 0.05).mean() == pytest.approx(0.05, abs=0.015)
    assert (table["q"] < 0.05).sum() <= 2


def of_patients(
    rows: list[np.ndarray], repeats: Iterable[int] | None = None, blocks: np.ndarray | None = None
) -> list[Run]:
    """Runs that test these patients."""
    which = [0] * len(rows) if repeats is None else list(repeats)
    return [Run(k, 0, pd.DataFrame(), pd.DataFrame(), r, blocks) for k, r in zip(which, rows, strict=True)]


def test_blocks_of_spots_are_what_is_independent() -> None:
    rng = np.random.default_rng(1)
    blocks = np.repeat(np.arange(20), 10)
    truth, predicted = (rng.normal(size=(20, 2000))[blocks] for _ in range(2))  # the same in a whole block
    r = (_centred(truth) * _centred(predicted)).mean(0)[None]
    assert (expression.correlation_p(r, of_patients([np.arange(200)])) < 0.05).mean() > 0.4
    assert (expression.correlation_p(r, of_patients([np.arange(200)], None, blocks)) < 0.05).mean() < 0.08


def test_overlapping_folds_are_no_new_evidence_for_a_gene() -> None:
    rng = np.random.default_rng(0)
    null = np.tanh(rng.normal(size=(1, 4000)) / np.sqrt(37))
    one = expression.correlation_p(null, of_patients([np.arange(40)]))
    np.testing.assert_allclose(expression.correlation_p(np.repeat(null, 4, 0), of_patients([np.arange(40)] * 4)), one)
    np.testing.assert_allclose(
        expression.correlation_p(np.repeat(null, 4, 0), of_patients([np.arange(40)] * 4, range(4))), one
    )
    hole = np.vstack([null, np.full_like(null, np.nan)])  # a gene that is constant in a fold
    np.testing.assert_allclose(expression.correlation_p(hole, of_patients([np.arange(40)] * 2)), one)
    assert np.isnan(expression.correlation_p(hole[1:], of_patients([np.arange(40)]))).all()
    truth, predicted = rng.normal(size=(2, 200, 4000))
    rows = [rng.choice(200, 30, replace=False) for _ in range(10)]  # Monte Carlo, one prediction a patient
    runs = [(_centred(truth[r]) * _centred(predicted[r])).mean(0) for r in rows]
    assert (expression.correlation_p(np.stack(runs), of_patients(rows)) < 0.05).mean() < 0.09


def _centred(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(0)) / x.std(0)


def test_calibration_of_survival_counts_a_patient_once() -> None:
    task, predictions, _ = survival({"abmil": 1.0})
    frame = predictions["abmil"]
    once = runs_of(frame, list(IDS), {})
    thrice = runs_of(pd.concat([frame.assign(repeat=k) for k in range(3)]), list(IDS), {})
    one, three = (survival_curves.calibration("abmil", runs, task.horizons, 0.95) for runs in (once, thrice))
    assert (three.groupby("horizon_days")["n"].sum() == N).all()
    pd.testing.assert_frame_equal(one, three)
    other = pd.concat([frame, frame.assign(repeat=1, surv_365=frame["surv_365"] / 2)])
    table = survival_curves.calibration("abmil", runs_of(other, list(IDS), {}), [365], 0.95)
    np.testing.assert_allclose(table["predicted"], 0.75 * one.query("horizon_days == 365")["predicted"])


def regression(constant: dict[str, list[int]]) -> tuple:
    """Models with the same prediction, but constant in some folds; fold 0 is far harder than the others."""
    rng = np.random.default_rng(5)
    truth = rng.normal(size=N)
    said = np.where(FOLD == 0, rng.normal(size=N), truth + 0.3 * rng.normal(size=N))
    out = {}
    for model, folds in constant.items():
        prediction = np.where(np.isin(FOLD, folds), 0.5, said)
        out[model] = pd.DataFrame(keys(model) | {"truth": truth, "prediction": prediction})
    task = SimpleNamespace(name="t", kind="regression")
    return task, out, outcome(task, truth)


def test_models_are_compared_on_the_runs_where_both_are_defined() -> None:
    task, predictions, outcome = regression({"abmil": [], "gap": [0], "late": [1, 2, 3, 4]})
    result = evaluate_task(study(), task, predictions, outcome, splits())
    table = result.metrics.query("metric == 'pearson'").set_index("model")
    assert table["estimate"]["gap"] - table["estimate"]["abmil"] > 0.1 and table["undefined"]["gap"] == 1
    pairs = result.comparison.set_index("model")
    assert list(pairs.columns).index("runs") == list(pairs.columns).index("n") + 1
    assert pairs.loc["gap", ["difference", "low", "high", "p", "n", "runs"]].tolist() == [0, 0, 0, 1, N, 4]
    assert pairs.loc["late", ["difference", "low", "high", "p", "n", "runs"]].tolist() == [0, 0, 0, 1, N, 1]
    again = evaluate_task(study("gap"), task, predictions, outcome, splits()).comparison.set_index("model")
    assert again.loc["late", "runs"] == 0 and np.isnan(again.loc["late", ["difference", "p"]].astype(float)).all()


def test_genes_are_compared_on_the_runs_where_both_are_defined() -> None:
    task, predictions, outcome = genes({f"g{i}": 0.5 + 0.1 * i for i in range(6)}, ("abmil", "better"))
    same, gap = predictions["abmil"], predictions["abmil"].copy()
    gap.loc[FOLD == 0, [f"pred_g{i}" for i in range(6)]] = 0.1  # constant in fold 0
    gap["pred_g0"] = 0.1  # and one gene everywhere
    gap.loc[FOLD == 3, "pred_g1"] = 0.1
    gap = gap[[*gap.columns[:5], *gap.columns[:4:-1]]]  # genes in another order
    better = predictions["better"]
    models = {"abmil": same, "gap": gap, "better": better}
    result = evaluate_task(study(), task, models, outcome, splits())
    table = result.metrics.query("metric == 'pearson' and gene == 'all'").set_index("model")["estimate"]
    pairs = result.comparison.set_index("model")
    assert abs(table["gap"] - table["abmil"]) > 0.01
    np.testing.assert_allclose(pairs.loc["gap", ["difference", "low", "high"]].astype(float), 0, atol=1e-6)
    assert pairs.loc["gap", "runs"] == 4 and pairs.loc["better", "runs"] == FOLDS
    assert pairs.loc["better", "difference"] == pytest.approx(table["better"] - table["abmil"])
    draws = pairs.loc["better"]
    assert draws["low"] < draws["difference"] < draws["high"]


def test_repeats_resample_patients_and_pool_to_one_row() -> None:
    task, predictions, outcome = classification({"abmil": 1.5})
    twice = pd.concat([predictions["abmil"], predictions["abmil"].assign(repeat=1)], ignore_index=True)
    both = pd.concat([splits(), splits().assign(repeat=1)], ignore_index=True)
    one = evaluate_task(study(), task, predictions, outcome, splits()).metrics.set_index("metric")
    two = evaluate_task(study(), task, {"abmil": twice}, outcome, both).metrics.set_index("metric")
    np.testing.assert_allclose(one["estimate"], two["estimate"])
    assert two.loc["auroc", "runs"] == 10 and two.loc["auroc", "n"] == N
    width = (two["high"] - two["low"]) / (one["high"] - one["low"])  # a repeat is no new patient
    assert width["brier"] == pytest.approx(1, abs=0.25)
    pooled = pool_predictions([twice])
    assert len(pooled) == N and (pooled["runs"] == 2).all() and pooled["patient_id"].is_monotonic_increasing


def _runs(folder: Path) -> Path:
    """Five runs as training leaves them."""
    _, predictions, _ = survival({"abmil": 1.0})
    rows = []
    for fold, frame in predictions["abmil"].groupby("fold"):
        file = folder / f"r0f{fold}" / "predictions.parquet"
        write_table(file, frame.assign(**{CUTOFF: float(fold)}))  # type: ignore[arg-type]
        rows.append({"repeat": 0, "fold": fold, "sha256": sha256(file)})
    write_index(folder, pd.DataFrame(rows), timings=False)
    return folder


def test_gather_reads_runs_and_their_cutoff(tmp_path: Path) -> None:
    frame = gather(_runs(tmp_path))
    assert len(frame) == N and (frame[CUTOFF] == frame["fold"]).all()
    pooled = pool_predictions([frame])
    assert pooled["risk_rank"].between(0, 1).all()
    with pytest.raises(StudyError, match="no predictions"):
        gather(tmp_path / "none")


def test_only_the_runs_that_training_recorded_are_gathered(tmp_path: Path) -> None:
    file = _runs(tmp_path) / "r0f2" / "predictions.parquet"
    before = file.read_bytes()
    frame = pd.read_parquet(file)
    write_table(file, frame.assign(risk=-frame["risk"]))
    with pytest.raises(StudyError, match=r"r0f2/predictions.parquet.*not as training wrote it.*dvc checkout"):
        gather(tmp_path)
    shutil.rmtree(file.parent)
    with pytest.raises(StudyError, match=r"r0f2/predictions.parquet.*is gone"):
        gather(tmp_path)
    file.parent.mkdir()
    file.write_bytes(before)
    assert len(gather(tmp_path)) == N
    shutil.copytree(file.parent, tmp_path / "r1f2")
    with pytest.raises(StudyError, match=r"r1f2.*no run that runs.parquet names"):
        gather(tmp_path)
    index = pd.read_parquet(tmp_path / "runs.parquet")
    write_index(tmp_path, pd.concat([index, index[index["fold"] == 2].assign(repeat=1)]), timings=False)
    with pytest.raises(StudyError, match=r"r1f2/predictions.parquet.*another run"):
        gather(tmp_path)


def test_what_cannot_be_compared_is_refused() -> None:
    task, predictions, outcome = classification({"abmil": 1.0, "mean": 1.0})
    fewer = predictions | {"mean": predictions["mean"].iloc[1:]}
    with pytest.raises(StudyError, match="not the same patients as abmil: 1 differ"):
        evaluate_task(study(), task, fewer, outcome, splits())
    broken = predictions["mean"].copy()
    broken.loc[3, "prob_a"] = np.nan
    with pytest.raises(StudyError, match="prob_a of patient .* is not finite"):
        evaluate_task(study(), task, predictions | {"mean": broken}, outcome, splits())
    double = pd.concat([predictions["mean"], predictions["mean"].iloc[:1]])
    with pytest.raises(StudyError, match="twice"):
        evaluate_task(study(), task, predictions | {"mean": double}, outcome, splits())


def test_the_same_twice() -> None:
    task, predictions, outcome = survival({"abmil": 1.0})
    one, two = (evaluate_task(study(), task, predictions, outcome, splits()) for _ in range(2))
    pd.testing.assert_frame_equal(one.metrics, two.metrics, check_exact=True)
