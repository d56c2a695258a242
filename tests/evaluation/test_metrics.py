"""Each metric against an oracle, and weights against repeated rows."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr
from sklearn import metrics as sk

from histostudy.evaluation.censoring import Step, life_table
from histostudy.evaluation.cox import slope
from histostudy.evaluation.metrics import classification, kernels, regression, survival
from histostudy.evaluation.metrics.base import Metric, Run, evaluate
from histostudy.evaluation.metrics.classification import Classes


def class_frame(n: int, names: tuple[str, ...], seed: int, decimals: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    truth = rng.integers(len(names), size=n)
    logit = np.round(rng.normal(size=(n, len(names))) + 1.2 * np.eye(len(names))[truth], decimals)  # with ties
    prob = np.exp(logit) / np.exp(logit).sum(1, keepdims=True)
    frame = pd.DataFrame({f"prob_{name}": prob[:, k] for k, name in enumerate(names)})
    return frame.assign(truth=np.array(names)[truth], patient_id=[f"p{i:04d}" for i in range(n)], repeat=0, fold=0)


def survival_frame(n: int, seed: int, days: list[int] | None = None) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    risk = np.round(rng.normal(size=n), 1)
    died = rng.exponential(900 * np.exp(-risk))
    left = rng.exponential(1500, size=n)
    time = np.ceil(np.minimum(died, left) / 20) * 20  # with tied times
    frame = pd.DataFrame({"time": time, "event": (died <= left).astype(float), "risk": risk})
    for day in days or []:
        frame[f"surv_{day}"] = np.exp(-day / 900 * np.exp(risk))
    return frame.assign(patient_id=[f"p{i:04d}" for i in range(n)], repeat=0, fold=0)


def regression_frame(n: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    truth = np.round(rng.normal(1e3, 2, size=n), 1)
    frame = pd.DataFrame({"truth": truth, "prediction": np.round(truth + rng.normal(0, 2, n), 1)})
    return frame.assign(patient_id=[f"p{i:04d}" for i in range(n)], repeat=0, fold=0)


def run(frame: pd.DataFrame, train: pd.DataFrame | None = None) -> Run:
    return Run(0, 0, frame, frame if train is None else train, np.arange(len(frame)))


def value(metric: Metric, frame: pd.DataFrame, facts: object, train: pd.DataFrame | None = None) -> float:
    return evaluate(metric, [run(frame, train)], np.ones((1, len(frame))), facts).estimate


def by_name(metrics: tuple[Metric, ...]) -> dict[str, Metric]:
    return {m.name: m for m in metrics}


TWO, THREE = Classes(("neg", "pos"), "pos"), Classes(("a", "b", "c"), "c")


@pytest.mark.parametrize("seed", range(3))
def test_binary_classification_agrees_with_sklearn(seed: int) -> None:
    frame = class_frame(83, TWO.names, seed)
    truth, score = (frame["truth"] == "pos").to_numpy(int), frame["prob_pos"].to_numpy()
    call = (score > 0.5).astype(int)
    expected = {
        "auroc": sk.roc_auc_score(truth, score),
        "auprc": sk.average_precision_score(truth, score),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, call),
        "f1_macro": sk.f1_score(truth, call, average="macro"),
        "brier": sk.brier_score_loss(truth, score),
    }
    for name, wanted in expected.items():
        assert value(by_name(classification.METRICS)[name], frame, TWO) == pytest.approx(wanted, abs=1e-12), name


@pytest.mark.parametrize("seed", range(3))
def test_multiclass_agrees_with_sklearn(seed: int) -> None:
    frame = class_frame(101, THREE.names, seed)
    prob = frame[["prob_a", "prob_b", "prob_c"]].to_numpy()
    truth = frame["truth"].to_numpy()
    call = np.array(THREE.names)[prob.argmax(1)]
    one_hot = truth[:, None] == np.array(THREE.names)
    expected = {
        "auroc": sk.roc_auc_score(truth, prob, multi_class="ovr", average="macro"),
        "auprc": sk.average_precision_score(one_hot, prob, average="macro"),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, call),
        "f1_macro": sk.f1_score(truth, call, average="macro"),
        "brier": np.mean(((prob - one_hot) ** 2).sum(1)),
    }
    for name, wanted in expected.items():
        assert value(by_name(classification.METRICS)[name], frame, THREE) == pytest.approx(wanted, abs=1e-12), name


def test_ece_agrees_with_a_loop() -> None:
    frame = class_frame(200, TWO.names, 4, decimals=6)
    said, right = frame["prob_pos"].to_numpy(), (frame["truth"] == "pos").to_numpy(float)
    total = 0.0
    for low in np.arange(10) / 10:
        part = (said >= low) & (said < low + 0.1)
        if part.any():
            total += part.sum() * abs(said[part].mean() - right[part].mean())
    assert value(by_name(classification.METRICS)["ece"], frame, TWO) == pytest.approx(total / 200, abs=1e-12)


DAYS = [100 * k for k in range(1, 40)]


@pytest.mark.parametrize("seed", range(3))
def test_survival_agrees_with_scikit_survival(seed: int) -> None:
    from sksurv import metrics as sks
    from sksurv.util import Surv

    train, test = survival_frame(150, seed + 50), survival_frame(90, seed, DAYS)
    facts = survival.horizon_of([run(test, train)])
    y = [Surv.from_arrays(f["event"].to_numpy() > 0, f["time"]) for f in (train, test)]
    names = by_name(survival.metrics([365, 730]))
    risk = test["risk"].to_numpy()
    harrell = sks.concordance_index_censored(test["event"].to_numpy() > 0, test["time"], risk)[0]
    assert value(names["c_harrell"], test, facts, train) == pytest.approx(harrell, abs=1e-12)
    uno = sks.concordance_index_ipcw(*y, risk, tau=facts.tau_days)[0]
    assert value(names["c_uno"], test, facts, train) == pytest.approx(uno, abs=1e-10)
    cut = np.minimum(test["time"], train["time"].max() - 1)  # scikit-survival refuses later times
    known = Surv.from_arrays((test["event"].to_numpy() > 0) & (cut == test["time"]), cut)
    for days, wanted in zip([365, 730], sks.cumulative_dynamic_auc(y[0], known, risk, [365, 730])[0], strict=True):
        assert value(names[f"auroc_td@{days}"], test, facts, train) == pytest.approx(wanted, abs=1e-10)
    predicted = test[[f"surv_{int(d)}" for d in facts.grid_days]].to_numpy()
    ibs = sks.integrated_brier_score(y[0], known, predicted, facts.grid_days)
    assert facts.grid_days.size > 5
    assert value(names["ibs"], test, facts, train) == pytest.approx(ibs, abs=1e-10)


@pytest.mark.parametrize("seed", range(2))
def test_brier_of_prediction_and_reference_agree_with_scikit_survival(seed: int) -> None:
    from sksurv import metrics as sks
    from sksurv.nonparametric import kaplan_meier_estimator
    from sksurv.util import Surv

    train, test = survival_frame(150, seed + 70), survival_frame(90, seed + 5, DAYS)
    facts = survival.horizon_of([run(test, train)])
    cut = np.minimum(test["time"], train["time"].max() - 1)
    y = Surv.from_arrays(train["event"] > 0, train["time"])
    known = Surv.from_arrays((test["event"].to_numpy() > 0) & (cut == test["time"]), cut)
    names = by_name(survival.metrics([400, 800]))
    wanted = sks.brier_score(y, known, test[["surv_400", "surv_800"]].to_numpy(), [400, 800])[1]
    got = [value(names[f"brier@{d}"], test, facts, train) for d in (400, 800)]
    np.testing.assert_allclose(got, wanted, atol=1e-10)
    x, s = kaplan_meier_estimator(train["event"] > 0, train["time"])
    prior = np.concatenate([[1.0], s])[np.searchsorted(x, facts.grid_days, side="right")]
    reference = sks.integrated_brier_score(y, known, np.tile(prior, (90, 1)), facts.grid_days)
    own = value(names["ibs"], test, facts, train)
    assert value(names["ibs_skill"], test, facts, train) == pytest.approx(1 - own / reference, abs=1e-10)


def test_the_training_curve_has_no_skill_and_no_slope() -> None:
    train, test = survival_frame(150, 51), survival_frame(60, 1, DAYS)
    facts = survival.horizon_of([run(test, train)])
    steps = life_table(train["time"].to_numpy(float), train["event"].to_numpy() > 0)
    prior = Step(steps.time, steps.survival)(np.array(DAYS, float))
    flat = test.assign(risk=0.0, **{f"surv_{d}": s for d, s in zip(DAYS, prior, strict=True)})
    names = by_name(survival.metrics([400]))
    assert value(names["ibs_skill"], flat, facts, train) == pytest.approx(0, abs=1e-12)
    assert np.isnan(value(names["calibration_slope"], flat, facts, train))


def test_calibration_finds_the_planted_slope() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=1500)
    died, left = rng.exponential(900 * np.exp(-x)), rng.exponential(2500, 1500)
    time, event = np.minimum(died, left), (died <= left).astype(float)
    keys = {"patient_id": [f"p{i:04d}" for i in range(1500)], "repeat": 0, "fold": np.arange(1500) % 3}
    names = by_name(survival.metrics([365]))
    for spread, wanted in ((1.0, 1.0), (2.0, 0.5)):  # twice too extreme: half the slope
        curve = np.exp(-365 / 900 * np.exp(spread * x))
        frame = pd.DataFrame(keys | {"time": time, "event": event, "risk": x, "surv_365": curve})
        facts = survival.Horizon(1e3, np.zeros(0), {(0, k): frame for k in range(3)})
        assert value(names["calibration_slope"], frame, facts) == pytest.approx(wanted, rel=0.1)
        ratio = value(names["observed_expected@365"], frame, facts)
        assert (abs(ratio - 1) < 0.06) == (spread == 1.0)


def test_calibration_slope_agrees_with_statsmodels_on_every_resample() -> None:
    from statsmodels.duration.api import PHReg

    frame = survival_frame(70, 3)
    fold, rng = np.arange(70) % 3, np.random.default_rng(2)
    time, event, risk = frame["time"].to_numpy(), frame["event"].to_numpy() > 0, frame["risk"].to_numpy()
    w = rng.integers(0, 3, (3, 70)).astype(float)
    w[0] = 1
    got = slope(w, time, event, risk, fold)
    for b in range(3):
        rows = np.repeat(np.arange(70), w[b].astype(int))
        fit = PHReg(time[rows], risk[rows, None], status=event[rows], strata=fold[rows], ties="breslow").fit(disp=0)
        assert got[b] == pytest.approx(fit.params[0], abs=1e-5)


def test_metrics_of_curves_are_left_out_without_curves() -> None:
    train = survival_frame(150, 51)
    bare, full = run(survival_frame(60, 1), train), run(survival_frame(60, 1, [200, 400, 600]), train)
    other = run(survival_frame(60, 1, [100, 200, 400]), train)
    names = [m.name for m in survival.metrics([400, 600], [bare])]
    assert names == ["c_harrell", "c_uno", "auroc_td@400", "auroc_td@600", "c_harrell_pooled", "c_harrell_rank"]
    assert "brier@600" not in [m.name for m in survival.metrics([400, 600], [other])]
    facts = survival.horizons_of({"bare": [bare], "full": [full], "other": [other]})
    assert facts["bare"].grid_days.size == 0
    assert list(facts["full"].grid_days) == list(facts["other"].grid_days) == [200, 400]
    for parts, name in ((bare, "bare"), (full, "full"), (other, "other")):
        for metric in survival.metrics([400, 600], [parts]):
            assert np.isfinite(evaluate(metric, [parts], np.ones((2, 60)), facts[name]).estimate), metric.name


def test_offsets_between_runs_move_the_pooled_c_and_not_that_of_ranks() -> None:
    parts = []
    for fold in range(3):
        frame = survival_frame(60, fold).assign(fold=fold)
        parts.append(Run(0, fold, frame, frame, np.arange(60) + 60 * fold))
    moved = [Run(0, r.fold, r.frame.assign(risk=r.frame["risk"] + 50 * r.fold), r.train, r.rows) for r in parts]
    names, facts, w = by_name(survival.metrics([])), survival.horizon_of(parts), np.ones((1, 180))
    for name, same in (("c_harrell", True), ("c_harrell_rank", True), ("c_harrell_pooled", False)):
        one, other = (evaluate(names[name], runs, w, facts).estimate for runs in (parts, moved))
        assert (abs(one - other) < 1e-12) == same, name


def test_a_horizon_beyond_follow_up_is_undefined() -> None:
    train, test = survival_frame(150, 51), survival_frame(60, 1, [400, 90_000])
    facts = survival.horizon_of([run(test, train)])
    names = by_name(survival.metrics([90_000]))
    for name in ("auroc_td@90000", "brier@90000", "observed_expected@90000"):
        values = evaluate(names[name], [run(test, train)], np.ones((2, 60)), facts)
        assert np.isnan(values.estimate) and np.isnan(values.resampled).all(), name


def test_regression_agrees_with_scipy_and_sklearn() -> None:
    frame = regression_frame(77, 0)
    truth, said = frame["truth"], frame["prediction"]
    names = by_name(regression.METRICS)
    assert value(names["pearson"], frame, None) == pytest.approx(pearsonr(truth, said)[0], abs=1e-9)
    assert value(names["spearman"], frame, None) == pytest.approx(spearmanr(truth, said)[0], abs=1e-12)
    assert value(names["r2"], frame, None) == pytest.approx(sk.r2_score(truth, said), abs=1e-9)
    assert value(names["mae"], frame, None) == pytest.approx(sk.mean_absolute_error(truth, said), abs=1e-12)


def cases() -> list[tuple[Metric, pd.DataFrame, object, pd.DataFrame | None]]:
    train, test = survival_frame(150, 51), survival_frame(40, 1, DAYS)
    facts = survival.horizon_of([run(test, train)])
    return (
        [(m, class_frame(40, TWO.names, 0), TWO, None) for m in classification.METRICS]
        + [(m, class_frame(40, THREE.names, 0), THREE, None) for m in classification.METRICS]
        + [(m, test, facts, train) for m in survival.metrics([400])]
        + [(m, regression_frame(40, 0), None, None) for m in regression.metrics(1e3)]
    )


@pytest.mark.parametrize("case", cases(), ids=lambda c: c[0].name)
def test_integer_weights_are_repeated_rows(case: tuple) -> None:
    metric, frame, facts, train = case
    counts = np.random.default_rng(3).integers(0, 4, size=len(frame))
    weighted = evaluate(metric, [run(frame, train)], counts[None].astype(float), facts).resampled[0]
    repeated = frame.loc[frame.index.repeat(counts)].reset_index(drop=True)
    repeated["patient_id"] = [f"q{i}" for i in range(len(repeated))]
    assert weighted == pytest.approx(value(metric, repeated, facts, train), rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(6, 30))
def test_auc_is_the_share_of_ordered_pairs(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    score, truth = rng.integers(0, 5, n).astype(float), (np.arange(n) % 2).astype(float)
    w = rng.integers(0, 3, (2, n)).astype(float)
    got = kernels.auc(w, score, truth, 1 - truth)
    for b in range(2):
        pair = np.outer(w[b] * truth, w[b] * (1 - truth))
        won = (score[:, None] > score) + 0.5 * (score[:, None] == score)
        wanted = (pair * won).sum() / pair.sum() if pair.sum() else np.nan
        np.testing.assert_allclose(got[b], wanted)


def test_what_is_undefined_is_nan_and_counted() -> None:
    names = by_name(classification.METRICS)
    one_class = class_frame(20, TWO.names, 0).assign(truth="neg")
    both = class_frame(20, TWO.names, 1)
    second = Run(0, 1, both, both, np.arange(20, 40))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = evaluate(names["auroc"], [run(one_class), second], np.ones((3, 40)), TWO)
        nothing = evaluate(names["auroc"], [run(one_class)], np.ones((3, 20)), TWO)
    assert (values.runs, values.undefined) == (1, 1)
    assert values.estimate == value(names["auroc"], both, TWO)
    assert np.isnan(nothing.estimate) and np.isnan(nothing.resampled).all() and nothing.undefined == 1
    flat = regression_frame(20, 0).assign(prediction=3.0)
    assert np.isnan(value(by_name(regression.METRICS)["pearson"], flat, None))
    assert np.isnan(value(by_name(regression.METRICS)["spearman"], flat, None))


def test_ties_in_risk_count_a_half() -> None:
    frame = survival_frame(50, 0).assign(risk=0.0)
    assert value(by_name(survival.metrics([]))["c_harrell"], frame, None) == 0.5
    near = frame.assign(risk=np.arange(50) * 1e-10)
    assert value(by_name(survival.metrics([]))["c_harrell"], near, None) == 0.5
    assert value(by_name(survival.metrics([]))["c_harrell_rank"], near, None) == 0.5


@pytest.mark.parametrize("seed", range(3))
def test_auroc_at_a_cutoff_agrees_with_sklearn(seed: int) -> None:
    frame = regression_frame(60, seed)
    cutoff = float(frame["truth"].iloc[7])  # a patient at the cut-off is above it
    *first, last = regression.metrics(cutoff)
    assert last.name == f"auroc@{cutoff:g}" and [m.name for m in first] == [m.name for m in regression.METRICS]
    expected = sk.roc_auc_score(frame["truth"] >= cutoff, frame["prediction"])
    assert value(last, frame, None) == pytest.approx(expected, abs=1e-12)
    assert value(last, frame.assign(prediction=3.0), None) == 0.5
    assert np.isnan(value(regression.at_cutoff(1e4), frame, None))  # nobody is that high
