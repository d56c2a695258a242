"""All runs of a model: files, what is kept, every kind of task, and the real cohorts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from training.trainingdata import PackedBags, folds_of, outcome_for, planted_bags, study_of

from histostudy.errors import ModelError
from histostudy.files import sha256
from histostudy.training.attention import attention_of
from histostudy.training.stage import FILES, train_model

QUICK = {"epochs": 3, "batch_size": 16}


def predictions(out: Path, runs: pd.DataFrame) -> list[pd.DataFrame]:
    return [
        pd.read_parquet(out / f"r{r}f{f}" / "predictions.parquet")
        for r, f in zip(runs["repeat"], runs["fold"], strict=True)
    ]


def classified(tmp_path: Path, models: dict[str, Any], n: int = 60, **task: Any) -> tuple:
    bags, y = planted_bags(n, 0)
    ids = sorted(bags)
    study = study_of({"name": "t", "kind": "classification", "target": "y", **task}, models, tmp_path)
    adjust = pd.DataFrame({"age": y * 10.0 + np.arange(n) % 7, "sex": ["m", "f"] * (n // 2)}, index=ids)
    adjust.loc[ids[3], "age"] = np.nan
    adjust["sex"] = adjust["sex"].astype("str")
    outcome = outcome_for(study, ids, y=y.astype(float), classes=["no", "yes"], adjust=adjust)
    return study, PackedBags.of(bags), outcome, folds_of(ids, y, 3)


def test_runs_are_written_and_kept(tmp_path: Path) -> None:
    study, bags, outcome, splits = classified(tmp_path, {"m": {"aggregator": "abmil", "training": QUICK}})
    out = tmp_path / "runs"
    first = train_model(study, "t", "m", bags, outcome, splits, out)
    assert list(first["fold"]) == [0, 1, 2]
    assert set(first["status"]) == {"trained"}
    assert all((out / "r0f1" / name).is_file() for name in (*FILES, "run.json"))
    frame = pd.concat(predictions(out, first))
    assert list(frame.columns) == [
        "patient_id", "repeat", "fold", "task", "model", "truth", "prob_no", "prob_yes"
    ]  # fmt: skip
    assert sorted(frame["patient_id"]) == bags.patient_ids
    before = {p: sha256(p) for p in out.glob("*/*") if p.name != "run.json"}

    assert set(train_model(study, "t", "m", bags, outcome, splits, out)["status"]) == {"kept"}
    (out / "r0f1" / "predictions.parquet").write_bytes(b"spoiled")
    (out / "r0f2" / "run.json").write_text("{")
    again = train_model(study, "t", "m", bags, outcome, splits, out)
    assert list(again["status"]) == ["kept", "trained", "trained"]
    assert {p: sha256(p) for p in before} == before  # trained again, to the same bytes

    study.models["m"].training.epochs = 2
    assert set(train_model(study, "t", "m", bags, outcome, splits, out)["status"]) == {"trained"}


def test_attention_of_a_test_patient(tmp_path: Path) -> None:
    models = {"a": {"aggregator": "abmil", "training": {**QUICK, "epochs": 20, "lr": 5e-3}}}
    study, bags, outcome, splits = classified(tmp_path, models, n=120)
    train_model(study, "t", "a", bags, outcome, splits, tmp_path)
    frame = pd.read_parquet(tmp_path / "r0f0" / "predictions.parquet")
    ahead = []
    for patient in frame.loc[frame["truth"] == "yes", "patient_id"]:
        attention = attention_of(tmp_path / "r0f0", bags, patient)
        assert attention.sum() == pytest.approx(1, abs=1e-5)
        planted = max(1, int(0.15 * len(attention)))  # the first tiles carry the signal
        ahead.append(attention[:planted].mean() - attention[planted:].mean())
    assert np.mean(np.array(ahead) > 0) > 0.8
    train_model(study, "t", "prior", None, outcome, splits, tmp_path / "prior")
    with pytest.raises(ModelError, match="sees no tiles"):
        attention_of(tmp_path / "prior" / "r0f0", bags, "p001")


def test_controls(tmp_path: Path) -> None:
    study, _, outcome, splits = classified(tmp_path, {"m": {"aggregator": "mean"}}, adjust=["age", "sex"])
    prior = predictions(tmp_path / "p", train_model(study, "t", "prior", None, outcome, splits, tmp_path / "p"))
    for frame in prior:
        assert frame["prob_yes"].nunique() == 1
        assert frame["prob_yes"].iloc[0] == pytest.approx(0.5)
    runs = train_model(study, "t", "clinical", None, outcome, splits, tmp_path / "c")
    frame = pd.concat(predictions(tmp_path / "c", runs))
    assert ((frame["prob_yes"] > 0.5) == (frame["truth"] == "yes")).mean() > 0.9
    outcome.task.adjust.clear()
    with pytest.raises(ModelError, match="names no covariates"):
        train_model(study, "t", "clinical", None, outcome, splits, tmp_path / "none")


def test_patients_without_features_take_no_part_and_are_counted(tmp_path: Path) -> None:
    study, bags, outcome, splits = classified(tmp_path, {"m": {"aggregator": "mean", "training": QUICK}})
    fewer = PackedBags.of({p: bags.bag(p) for p in bags.patient_ids[:-2]})
    runs = train_model(study, "t", "m", fewer, outcome, splits, tmp_path)
    assert set(runs["without_features"]) == {2}
    assert runs["n_test"].sum() == 58
    only = splits[splits["patient_id"].isin(bags.patient_ids[-2:]) | (splits["part"] != "test")]
    with pytest.raises(ModelError, match="no patient in the test part"):
        train_model(study, "t", "m", fewer, outcome, only[only["fold"] == 0].query("part != 'test'"), tmp_path / "x")


def survival_data(n: int, seed: int = 0) -> tuple[dict, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    share = rng.random(n)
    bags = {}
    for i in range(n):
        x = rng.normal(size=(20, 8))
        x[: int(20 * share[i]), 0] += 4
        bags[f"p{i:03d}"] = x
    time = rng.exponential(800 * np.exp(-3 * (share - 0.5)))
    censored = rng.exponential(2500, n)
    return bags, np.minimum(time, censored) + 1, time <= censored


@pytest.mark.parametrize("loss", ["nll", "cox"])
def test_survival(loss: str, tmp_path: Path) -> None:
    from sksurv.metrics import concordance_index_censored

    bags, time, event = survival_data(150)
    ids = sorted(bags)
    models = {"m": {"aggregator": "mean", "training": {"epochs": 20, "loss": loss}}}
    task = {"name": "t", "kind": "survival", "time": "a", "event": "b", "horizons": [365, 1000], "adjust": ["age"]}
    study = study_of(task, models, tmp_path)
    adjust = pd.DataFrame({"age": time % 13}, index=ids)
    outcome = outcome_for(study, ids, time=time, event=event, adjust=adjust)
    splits = folds_of(ids, event.astype(int), 3)
    for model in ("prior", "clinical", "m"):
        runs = train_model(study, "t", model, PackedBags.of(bags), outcome, splits, tmp_path / model)
        frames = predictions(tmp_path / model, runs)
        curves = frames[0].filter(like="surv_")
        assert {"surv_30", "surv_365", "surv_1000"} <= set(curves)
        assert list(curves) == list(frames[1].filter(like="surv_"))
        assert (np.diff(curves.to_numpy(), axis=1) <= 1e-12).all()
        c = np.mean([concordance_index_censored(f["event"], f["time"], f["risk"])[0] for f in frames])
        if model == "prior":
            assert c == 0.5
        if model == "m":
            assert c > 0.65
            # calibrated on the whole: mean S(1 y) is near the share who live so long (Kaplan-Meier)
            pooled = pd.concat(frames)["surv_365"].mean()
            km = pd.read_parquet(tmp_path / "prior" / "r0f0" / "predictions.parquet")["surv_365"].iloc[0]
            assert pooled == pytest.approx(km, abs=0.12)


@pytest.mark.parametrize("kind", ["regression", "expression"])
def test_numbers(kind: str, tmp_path: Path) -> None:
    bags, _, _ = survival_data(120, 1)
    ids = sorted(bags)
    share = np.array([bags[p][:, 0].mean() for p in ids])
    noise = np.random.default_rng(0).normal(0, 0.1, 120)
    task: dict[str, Any] = {"name": "t", "kind": kind, "adjust": ["age"]}
    values: dict[str, Any] = {"y": 1000 + 50 * (share + noise)}
    task |= {"target": "y"} if kind == "regression" else {"table": tmp_path}
    if kind == "expression":
        values = {"y": np.column_stack([values["y"], noise]), "genes": ["G1", "G2"]}
    training = {"epochs": 40, "lr": 1e-2}
    study = study_of(task, {"m": {"aggregator": "mean", "training": training}}, tmp_path)
    outcome = outcome_for(study, ids, adjust=pd.DataFrame({"age": share}, index=ids), **values)
    splits = folds_of(ids, np.zeros(120), 3)
    for model in ("prior", "clinical", "m"):
        runs = train_model(study, "t", model, PackedBags.of(bags), outcome, splits, tmp_path / model)
        frame = predictions(tmp_path / model, runs)[0]
        truth, guess = ("truth", "prediction") if kind == "regression" else ("truth_G1", "pred_G1")
        assert guess in frame
        if model == "prior":
            assert frame[guess].nunique() == 1
        else:
            assert np.corrcoef(frame[truth], frame[guess])[0, 1] > 0.9


def test_lung_subtypes_from_real_bags(tcga_bags: Callable, tmp_path: Path) -> None:
    """LUAD v LUSC: the plain linear model reaches what logistic regression on patient means does."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    bags, cohort_of = tcga_bags("LUAD", "LUSC")
    ids = bags.patient_ids
    y = np.array([cohort_of[p] == "LUSC" for p in ids])
    models = {"mean": {"aggregator": "mean"}, "abmil": {"aggregator": "abmil"}}
    study = study_of({"name": "t", "kind": "classification", "target": "y"}, models, tmp_path)
    outcome = outcome_for(study, ids, y=y.astype(float), classes=["LUAD", "LUSC"])
    splits = folds_of(ids, y, 5)
    area = {}
    for model in models:
        chosen = splits if model == "mean" else splits[splits["fold"] < 1]
        runs = train_model(study, "t", model, bags, outcome, chosen, tmp_path / model)
        frames = predictions(tmp_path / model, runs)
        area[model] = np.mean([roc_auc_score(f["truth"] == "LUSC", f["prob_LUSC"]) for f in frames])
    means = pd.DataFrame([bags.bag(p).mean(0) for p in ids], index=ids).assign(y=y)
    reference = []
    for _, rows in splits.groupby("fold"):
        fit, test = (
            means.loc[rows.query("part == 'train'")["patient_id"]],
            means.loc[rows.query("part == 'test'")["patient_id"]],
        )
        linear = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
        linear.fit(fit.drop(columns="y"), fit["y"])
        reference.append(roc_auc_score(test["y"], linear.decision_function(test.drop(columns="y"))))
    assert area["mean"] == pytest.approx(np.mean(reference), abs=0.01)
    assert area["mean"] == pytest.approx(0.936, abs=0.012)
    assert 0.92 < area["abmil"] < 0.97


def test_runs_of_folds_that_are_no_more_are_deleted(tmp_path: Path) -> None:
    from histostudy.training.stage import _forget

    for name in ("r0f0", "r0f1", "r0f2"):
        (tmp_path / name).mkdir()
    (tmp_path / "runs.parquet").write_text("")
    _forget(tmp_path, {"r0f0", "r0f1"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r0f0", "r0f1", "runs.parquet"]
