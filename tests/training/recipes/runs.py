"""Whole runs with recipes, through the loop's own front door."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from training.trainingdata import PackedBags, folds_of, outcome_for, study_of

from histostudy.training.guard import TestPart
from histostudy.training.loop import RunResult, train_run
from histostudy.training.tilestore import TileStore

CLASSES = {"name": "t", "kind": "classification", "target": "y"}
SURVIVAL = {"name": "t", "kind": "survival", "time": "a", "event": "b", "horizons": [100]}
NUMBER = {"name": "t", "kind": "regression", "target": "y"}
TRAINING = {"lr": 3e-3, "batch_size": 16, "epochs": 30}


def run(task: dict, bags: dict, model: dict, tmp_path: Path, strata: np.ndarray, **outcome: object) -> RunResult:
    ids = sorted(bags)
    study = study_of(task, {"m": {"aggregator": "abmil", "training": TRAINING} | model}, tmp_path)
    truth = outcome_for(study, ids, **outcome)
    part = folds_of(ids, strata, 3).query("fold == 0").groupby("part")["patient_id"].apply(list)
    store, test = TileStore.of(PackedBags.of(bags)), TestPart(truth, part["test"])
    days = [100] if task["kind"] == "survival" else []
    return train_run(study.models["m"], store, truth, part["train"], part["val"], test, seed=0, days=days)


def classified(bags: dict, y: np.ndarray, recipe: dict, tmp_path: Path, **model: object) -> RunResult:
    return run(CLASSES, bags, {"recipe": recipe} | model, tmp_path, y, y=y.astype(float), classes=["no", "yes"])


def auc(result: RunResult) -> float:
    from sklearn.metrics import roc_auc_score

    return roc_auc_score(result.predictions["truth"] == "yes", result.predictions["prob_yes"])


def survived(model: dict, tmp_path: Path, n: int = 150) -> RunResult:
    """Bags whose first feature is the log hazard."""
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=n)
    bags = {f"p{i:03d}": rng.normal(size=(20, 4)) + np.eye(4)[0] * 2 * hidden[i] for i in range(n)}
    time, event = rng.exponential(300 * np.exp(-hidden)) + 1, rng.random(n) < 0.7
    return run(SURVIVAL, bags, model, tmp_path, event, time=time, event=event)


def concordance(result: RunResult) -> float:
    from sksurv.metrics import concordance_index_censored

    frame = result.predictions
    return concordance_index_censored(frame["event"].to_numpy(bool), frame["time"], frame["risk"])[0]


def measured(recipe: dict, tmp_path: Path, n: int = 150) -> float:
    """Correlation of predictions with a number that is the mean of a feature."""
    rng = np.random.default_rng(0)
    value = rng.normal(size=n)
    bags = {f"p{i:03d}": rng.normal(size=(20, 4)) + np.eye(4)[0] * value[i] for i in range(n)}
    frame = run(NUMBER, bags, {"recipe": recipe}, tmp_path, value > 0, y=value * 40 + 7).predictions
    return float(np.corrcoef(frame["truth"], frame["prediction"])[0, 1])
