"""One run: planted effects are found, nulls are not, and the test part is left alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from training.trainingdata import PackedBags, folds_of, outcome_for, planted_bags, study_of

from histostudy.errors import ConfigError, ModelError
from histostudy.models.batch import BagBatch
from histostudy.training.guard import LeakError, TestPart
from histostudy.training.loop import RunResult, train_run
from histostudy.training.recipes import RECIPES, Recipe
from histostudy.training.tilestore import TileStore

CLASSES = {"name": "t", "kind": "classification", "target": "y"}


def run(bags: dict, y: np.ndarray, settings: dict, tmp_path: Path, seed: int = 0, **outcome: object) -> RunResult:
    ids = sorted(bags)
    study = study_of(CLASSES, {"m": settings}, tmp_path)
    truth = outcome_for(study, ids, y=y.astype(float), classes=["no", "yes"], **outcome)
    part = folds_of(ids, y, 3, seed=seed).query("fold == 0").groupby("part")["patient_id"].apply(list)
    store = TileStore.of(PackedBags.of(bags))
    return train_run(
        study.models["m"], store, truth, part["train"], part["val"], TestPart(truth, part["test"]), seed=seed
    )


def auc(result: RunResult) -> float:
    from sklearn.metrics import roc_auc_score

    return roc_auc_score(result.predictions["truth"] == "yes", result.predictions["prob_yes"])


@pytest.mark.parametrize("aggregator", ["mean", "max", "abmil"])
def test_planted_effect_is_found(aggregator: str, tmp_path: Path) -> None:
    bags, y = planted_bags(150, 0)
    settings = {"aggregator": aggregator, "training": {"lr": 3e-3, "batch_size": 16, "epochs": 30}}
    result = run(bags, y, settings, tmp_path)
    assert auc(result) > 0.8
    assert result.predictions[["prob_no", "prob_yes"]].sum(axis=1).to_numpy() == pytest.approx(1)
    assert result.history["best"].sum() == 1
    assert result.history.loc[result.history["best"], "val_loss"].item() == result.history["val_loss"].min()


def test_permuted_labels_are_at_chance(tmp_path: Path) -> None:
    bags, y = planted_bags(150, 1)
    areas = []
    for seed in range(4):
        shuffled = np.random.default_rng(seed).permutation(y)
        settings = {"aggregator": "abmil", "training": {"epochs": 8, "min_epochs": 2, "patience": 3}}
        areas.append(auc(run(bags, shuffled, settings, tmp_path, seed=seed)))
    assert abs(np.mean(areas) - 0.5) < 0.12


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    bags, y = planted_bags(60, 2)
    settings = {"aggregator": "abmil", "training": {"epochs": 3, "max_tiles": 8}}
    first, again, other = (run(bags, y, settings, tmp_path, seed=s) for s in (0, 0, 1))
    assert first.predictions.equals(again.predictions)
    assert all(torch.equal(first.tensors[k], again.tensors[k]) for k in first.tensors)
    assert not torch.equal(first.tensors["aggregator.score.weight"], other.tensors["aggregator.score.weight"])


def test_test_patients_change_nothing_that_is_fitted(tmp_path: Path) -> None:
    bags, y = planted_bags(60, 3)
    settings = {"aggregator": "abmil", "training": {"epochs": 3}}
    first = run(bags, y, settings, tmp_path)
    tested = set(first.predictions["patient_id"])
    spoiled = {p: x * 100 + 7 if p in tested else x for p, x in bags.items()}
    wrong = np.array([1 - v if p in tested else v for p, v in zip(sorted(bags), y, strict=True)])
    ids = sorted(bags)
    study = study_of(CLASSES, {"m": settings}, tmp_path)
    truth = outcome_for(study, ids, y=wrong.astype(float), classes=["no", "yes"])
    part = folds_of(ids, y, 3).query("fold == 0").groupby("part")["patient_id"].apply(list)
    again = train_run(
        study.models["m"], TileStore.of(PackedBags.of(spoiled)), truth, part["train"], part["val"],
        TestPart(truth, part["test"]), seed=0,
    )  # fmt: skip
    assert all(torch.equal(first.tensors[k], again.tensors[k]) for k in first.tensors)


def test_standardised_by_the_tiles_of_the_training_part(tmp_path: Path) -> None:
    bags, y = planted_bags(40, 4)
    store = TileStore.of(PackedBags.of(bags))
    ids = sorted(bags)[::3]
    mean, spread = store.moments(store.rows(ids))
    tiles = np.concatenate([bags[p] for p in ids]).astype("float32").astype(float)
    assert mean.numpy() == pytest.approx(tiles.mean(0), abs=1e-12)
    assert spread.numpy() == pytest.approx(tiles.std(0), abs=1e-12)


def test_guard_keeps_the_labels_until_the_predictions_are_in(tmp_path: Path) -> None:
    study = study_of(CLASSES, {"m": {"aggregator": "mean"}}, tmp_path)
    truth = outcome_for(study, ["a", "b", "c"], y=[0.0, 1.0, 1.0], classes=["no", "yes"])
    test = TestPart(truth, ["b", "c"])
    good = pd.DataFrame({"patient_id": ["b", "c"], "prob_yes": [0.1, 0.2]})
    with pytest.raises(LeakError, match="before the predictions"):
        _ = test.targets
    with pytest.raises(LeakError, match="each test patient once"):
        test.submit(good[::-1])
    with pytest.raises(LeakError, match="finite"):
        test.submit(good.assign(prob_yes=np.nan))
    assert list(test.submit(good)["truth"]) == ["yes", "yes"]
    assert test.targets["y"].tolist() == [1, 1]
    with pytest.raises(LeakError, match="predicted once"):
        test.submit(good)


def test_recipes_add_to_the_loss_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    seen = []

    @dataclass(frozen=True)
    class Watch(Recipe):
        weight: float = 0.0

        def penalty(self, batch: BagBatch, attention: torch.Tensor | None, progress: float) -> torch.Tensor:
            seen.append((len(batch), progress))
            return self.weight * attention.square().sum()

    RECIPES.register("watch")(Watch)
    try:
        bags, y = planted_bags(45, 5)
        plain = {"aggregator": "abmil", "training": {"epochs": 2}}
        base = run(bags, y, plain, tmp_path)
        result = run(bags, y, {**plain, "recipe": {"watch": {"weight": 5.0}}}, tmp_path)
        assert seen[0][1] == 0
        assert seen[-1][1] == 0.5
        assert not torch.equal(base.tensors["head.linear.weight"], result.tensors["head.linear.weight"])
        with pytest.raises(ModelError, match="unknown key 'wait'"):
            run(bags, y, {**plain, "recipe": {"watch": {"wait": 1}}}, tmp_path)
        with pytest.raises(ConfigError, match="unknown recipe 'aem2'"):
            run(bags, y, {**plain, "recipe": {"aem2": {}}}, tmp_path)
    finally:
        del RECIPES._items["watch"]


def test_batches_draw_tiles_and_leave_out_who_has_none() -> None:
    bags = {"a": np.ones((5, 2)), "b": np.zeros((0, 2)), "c": np.full((3, 2), 2.0)}
    store = TileStore.of(PackedBags.of(bags))
    assert store.patient_ids == ["a", "c"]
    with pytest.raises(ModelError, match="patient b has no tiles"):
        store.rows(["b"])
    batch = store.batch(store.rows(["c", "a"]), max_tiles=4, generator=torch.Generator())
    assert batch.lengths.tolist() == [3, 4]
    assert batch.features[:3].eq(2).all()
    assert batch.features[3:].eq(1).all()


def test_diverging_training_is_one_line(tmp_path: Path) -> None:
    bags, y = planted_bags(40, 6)
    bags = {p: x * 1e30 for p, x in bags.items()}
    with pytest.raises(ModelError, match="lower training.lr"):
        run(bags, y, {"aggregator": "mean", "options": {"hidden": 4}, "training": {"lr": 1e30}}, tmp_path)
