"""All runs of a model: files, what is kept, every kind of task, and the real cohorts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from training.trainingdata import PackedBags, folds_of, outcome_for, planted_bags, study_of

from histostudy.cohort.modalities import ModalityTable
from histostudy.errors import ModelError, TableError
from histostudy.files import sha256
from histostudy.studyfile import parse_study
from histostudy.training.attention import attention_of
from histostudy.training.runfolder import EPOCHS, FILES
from histostudy.training.stage import _Trainer, looks_at_tiles, train_model

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
    with pytest.raises(ModelError, match="no patient with the outcome is in a test part"):
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
    from histostudy.training.runfolder import forget

    for name in ("r0f0", "r0f1", "r0f2"):
        (tmp_path / name).mkdir()
    (tmp_path / "runs.parquet").write_text("")
    forget(tmp_path, {"r0f0", "r0f1"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r0f0", "r0f1", "runs.parquet"]


SURVIVAL = {"name": "t", "kind": "survival", "time": "a", "event": "b", "horizons": [365]}
SNN = {"aggregator": "snn", "modalities": ["rna"], "options": {"width": 8, "blocks": 1}, "training": QUICK}


def lived(models: dict[str, Any], tmp_path: Path, **sections: Any) -> tuple:
    """A survival study of sixty patients, of whom a table of four columns knows the hazard."""
    _, time, event = survival_data(60, 3)
    ids = [f"p{i:03d}" for i in range(60)]
    study = parse_study(
        {"study": "t", "cohort": {"name": "t", "simulate": {}}, "tasks": [SURVIVAL], "models": models} | sections
    )
    outcome = outcome_for(study, ids, time=time, event=event)
    values = np.random.default_rng(0).normal(size=(60, 4)) - np.log(time)[:, None] * [2, 0, 0, 0]
    table = ModalityTable("rna", list("ABCD"), values, ids, {})
    return study, outcome, folds_of(ids, event.astype(int), 3), table


def test_predictions_made_elsewhere_are_runs_like_others(tmp_path: Path) -> None:
    file = tmp_path / "risks.csv"
    frame = pd.DataFrame({"patient_id": [f"p{i:03d}" for i in range(60)], "risk": np.arange(60) * 0.5})
    frame.to_csv(file, index=False)
    study, outcome, splits, _ = lived({"m": {"predictions": str(file)}}, tmp_path)
    study.models["m"].predictions = file
    out = tmp_path / "runs"
    runs = train_model(study, "t", "m", None, outcome, splits, out)
    assert runs["status"].tolist() == ["trained"] * 3 and runs["parameters"].tolist() == [0] * 3
    assert all((out / "r0f2" / name).is_file() for name in (*FILES, "run.json"))
    scored = pd.concat(predictions(out, runs)).sort_values("patient_id", ignore_index=True)
    assert list(scored.columns) == ["patient_id", "repeat", "fold", "task", "model", "time", "event", "risk"]
    assert scored["risk"].tolist() == frame["risk"].tolist() and set(scored["model"]) == {"m"}
    assert set(train_model(study, "t", "m", None, outcome, splits, out)["status"]) == {"kept"}
    frame.assign(risk=-frame["risk"]).to_csv(file, index=False)
    again = train_model(study, "t", "m", None, outcome, splits, out)
    assert set(again["status"]) == {"trained"}
    assert predictions(out, again)[0]["risk"].max() <= 0
    frame[1:].to_csv(file, index=False)
    with pytest.raises(TableError, match="risks.csv: 1 of 20 patients of fold . are not in it, as p000"):
        train_model(study, "t", "m", None, outcome, splits, out)


def test_tables_alone_are_trained_kept_and_redone_when_the_table_changes(tmp_path: Path) -> None:
    study, outcome, splits, table = lived({"m": SNN}, tmp_path, modalities={"rna": {"columns": ["*"]}})
    assert not looks_at_tiles(study, "m") and looks_at_tiles(study, "mean") and not looks_at_tiles(study, "prior")
    out = tmp_path / "runs"
    runs = train_model(study, "t", "m", None, outcome, splits, out, modalities={"rna": table})
    assert runs["n_test"].sum() == 60 and (runs["parameters"] > 0).all()
    first = {p: sha256(p) for p in out.glob("*/*") if p.name != "run.json"}
    keep = train_model(study, "t", "m", None, outcome, splits, out, modalities={"rna": table, "other": table})
    assert set(keep["status"]) == {"kept"}
    changed = replace(table, values=np.where(np.arange(4) == 0, -table.values, table.values))
    again = train_model(study, "t", "m", None, outcome, splits, out, modalities={"rna": changed})
    assert set(again["status"]) == {"trained"}
    assert {p: sha256(p) for p in first} != first
    for other in (replace(table, columns=list("ABCE")), replace(table, groups={"g": ["A"]})):
        redone = train_model(study, "t", "m", None, outcome, splits, out, modalities={"rna": other})
        assert set(redone["status"]) == {"trained"}
    study.modalities["rna"].top = 2
    redone = train_model(study, "t", "m", None, outcome, splits, out, modalities={"rna": table})
    assert set(redone["status"]) == {"trained"}
    with pytest.raises(ModelError, match="model mean needs features; give the study slides"):
        train_model(study, "t", "mean", None, outcome, splits, tmp_path / "mean")


def test_a_planted_modality_is_found_and_its_missing_patients_counted(tmp_path: Path) -> None:
    from sksurv.metrics import concordance_index_censored

    training = {"epochs": 25, "lr": 0.01, "loss": "cox", "epoch": "last"}
    study, outcome, splits, table = lived(
        {"m": SNN | {"training": training}}, tmp_path, modalities={"rna": {"columns": ["*"]}}
    )
    fewer = replace(table, values=table.values[4:], patient_ids=table.patient_ids[4:])
    runs = train_model(study, "t", "m", None, outcome, splits, tmp_path, modalities={"rna": fewer})
    assert sum(missing["rna"]["test"] for missing in runs["missing"]) == 4
    assert all(missing["rna"]["train"] + missing["rna"]["test"] == 4 for missing in runs["missing"])  # epoch: last
    frames = predictions(tmp_path, runs)
    assert np.mean([concordance_index_censored(f["event"], f["time"], f["risk"])[0] for f in frames]) > 0.75
    alone = predictions(tmp_path, runs)[0].set_index("patient_id")["risk"]
    nobody = [p for p in alone.index if p in table.patient_ids[:4]]
    assert alone[nobody].nunique() <= 1  # nothing is known of them: they are predicted alike


def test_modalities_beside_tiles_change_the_prediction(tmp_path: Path) -> None:
    models = {"fused": {"aggregator": "abmil", "modalities": ["rna"], "training": QUICK}}
    study, outcome, splits, table = lived(models, tmp_path, modalities={"rna": {"columns": ["*"]}})
    bags = PackedBags.of({p: np.random.default_rng(i).normal(size=(5, 3)) for i, p in enumerate(table.patient_ids)})
    two = [
        predictions(out, train_model(study, "t", "fused", bags, outcome, splits, out, modalities={"rna": one}))[0]
        for out, one in ((tmp_path / "a", table), (tmp_path / "b", replace(table, values=-table.values)))
    ]
    assert not two[0]["risk"].equals(two[1]["risk"])


def test_a_traced_training_leaves_its_epochs(tmp_path: Path) -> None:
    traced = SNN | {"training": {"epochs": 4, "trace": True}}
    study, outcome, splits, table = lived({"m": traced}, tmp_path, modalities={"rna": {"columns": ["*"]}})

    def train() -> list[str]:
        runs = train_model(study, "t", "m", None, outcome, splits, tmp_path / "m", modalities={"rna": table})
        return runs["status"].tolist()

    file = tmp_path / "m/r0f1" / EPOCHS
    assert train() == ["trained"] * 3
    frame = pd.read_parquet(file)
    assert {"epoch", "patient_id", "risk", "time", "event", "repeat", "fold", "model"} == set(frame)
    assert (frame["fold"] == 1).all() and frame["epoch"].value_counts().to_dict() == dict.fromkeys([1, 2, 3, 4], 20)
    before = sha256(file)
    assert train() == ["kept"] * 3
    file.unlink()
    assert train() == ["kept", "trained", "kept"] and sha256(file) == before
    study.models["m"].training.trace = False
    assert train() == ["trained"] * 3 and not file.exists()


def test_sources_are_runs_of_the_same_fold_and_part_of_the_identity(tmp_path: Path) -> None:
    models = {"m": SNN, "s": SNN}
    study, outcome, splits, table = lived(models, tmp_path, modalities={"rna": {"columns": ["*"]}})
    train_model(study, "t", "s", None, outcome, splits, tmp_path / "s", modalities={"rna": table})
    trainer = _Trainer(study, "t", "m", None, outcome, 1, {"rna": table}, {"b": tmp_path / "s", "a": tmp_path / "s2"})
    assert trainer.source_files(0, 2) == [tmp_path / f"{name}/r0f2/weights.safetensors" for name in ("s2", "s")]


def test_a_fold_that_tests_nobody_of_the_task_is_no_run_of_it(tmp_path: Path) -> None:
    study, bags, outcome, splits = classified(tmp_path, {"m": {"aggregator": "mean", "training": QUICK}})
    assert len(train_model(study, "t", "m", bags, outcome, splits, tmp_path)) == splits["fold"].nunique()
    others = splits.assign(patient_id=splits["patient_id"].where(splits["fold"] != 1, "other " + splits["patient_id"]))
    runs = train_model(study, "t", "m", bags, outcome, others, tmp_path)
    assert 1 not in set(runs["fold"]) and not (tmp_path / "r0f1").exists()
