"""Ensembling over folds: who trains whom, what is averaged, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from training.trainingdata import PackedBags, folds_of, outcome_for, planted_bags, study_of

from histostudy.errors import ModelError
from histostudy.models.batch import BagBatch
from histostudy.models.ensemble import Ensemble
from histostudy.models.io import load_model, save_tensors
from histostudy.models.model import MILModel
from histostudy.study import Training
from histostudy.training.guard import TestPart
from histostudy.training.loop import RunResult, train_run
from histostudy.training.recipes.ensemble import EnsembleOfFolds, EnsembleSettings
from histostudy.training.tilestore import TileStore

KINDS = {
    "classification": {"name": "t", "kind": "classification", "target": "y"},
    "survival": {"name": "t", "kind": "survival", "time": "d", "event": "e"},
    "regression": {"name": "t", "kind": "regression", "target": "y"},
}


def run(kind: str, model: dict, tmp_path: Path, patients: int = 60) -> tuple[RunResult, TileStore, list[str]]:
    bags, y = planted_bags(patients, 0)
    ids = sorted(bags)
    study = study_of(KINDS[kind], {"m": model}, tmp_path)
    rng = np.random.default_rng(0)
    if kind == "classification":
        truth = outcome_for(study, ids, y=y.astype(float), classes=["no", "yes"])
    elif kind == "survival":
        truth = outcome_for(study, ids, time=rng.exponential(1000 / (1 + 3 * y)), event=rng.random(len(ids)) < 0.7)
    else:
        truth = outcome_for(study, ids, y=3 * y + rng.normal(size=len(ids)))
    part = folds_of(ids, y, 3).query("fold == 0").groupby("part")["patient_id"].apply(list)
    store = TileStore.of(PackedBags.of(bags))
    result = train_run(study.models["m"], store, truth, part["train"], part["val"], TestPart(truth, part["test"]),
                       seed=0, days=[365] if kind == "survival" else ())  # fmt: skip
    return result, store, part["test"]


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_prediction_is_that_of_the_mean_output_and_survives_the_disk(kind: str, tmp_path: Path) -> None:
    model = {"aggregator": "abmil", "recipe": {"ensemble": {"members": 2}}, "training": {"epochs": 2}}
    result, store, test = run(kind, model, tmp_path)
    save_tensors(tmp_path / "w.safetensors", result.tensors, result.config)
    ensemble, _ = load_model(tmp_path / "w.safetensors")
    assert isinstance(ensemble, Ensemble) and len(ensemble.members) == 2
    batch = store.batch(store.rows(test))
    with torch.no_grad():
        raw, attention = ensemble(batch)
        each = torch.stack([member(batch)[0] for member in ensemble.members])
    torch.testing.assert_close(raw, each.mean(0))
    assert not torch.equal(each[0], each[1])
    assert attention is not None and attention.sum().item() == pytest.approx(len(test), rel=1e-5)
    for name, values in ensemble.head.predict(raw).items():
        np.testing.assert_allclose(values, result.predictions[name], rtol=1e-4, atol=1e-5)
    assert result.history.groupby("member")["best"].sum().tolist() == [1, 1]
    assert result.info["parameters"] == 2 * MILModel.from_config(result.config).count_parameters()


def test_every_training_patient_judges_one_member_and_trains_the_others() -> None:
    bags, y = planted_bags(40, 0)
    study = study_of(KINDS["classification"], {"m": {"aggregator": "abmil"}}, Path())
    outcome = outcome_for(study, sorted(bags), y=y.astype(float), classes=["no", "yes"])
    parts = EnsembleOfFolds(EnsembleSettings(members=4)).parts(outcome, sorted(bags), Training(), 0)
    assert sorted(p for _, judges in parts for p in judges) == sorted(bags)
    for train, judges in parts:
        assert not set(train) & set(judges) and len(train) + len(judges) == 40
        assert outcome.y[outcome.rows(judges)].sum() == 5  # stratified


def test_it_finds_what_is_planted_at_least_as_well_as_its_members(tmp_path: Path) -> None:
    from sklearn.metrics import roc_auc_score

    training = {"epochs": 12, "lr": 3e-3, "batch_size": 16}
    model = {"aggregator": "abmil", "recipe": {"ensemble": {"members": 3}}, "training": training}
    result, store, test = run("classification", model, tmp_path, patients=120)
    truth = (result.predictions["truth"] == "yes").to_numpy()
    own = []
    ensemble = Ensemble.from_config(result.config)
    ensemble.load_state_dict(result.tensors)
    batch: BagBatch = store.batch(store.rows(test))
    for member in ensemble.eval().members:
        with torch.no_grad():
            own.append(roc_auc_score(truth, member(batch)[0].softmax(1)[:, 1]))
    assert roc_auc_score(truth, result.predictions["prob_yes"]) >= max(0.75, np.mean(own) - 0.01)


@pytest.mark.parametrize(("training", "members", "words"), [
    ({"epoch": "last"}, 2, "epoch: inner"), ({"trace": True}, 2, "trace"), ({}, 30, "30 members"),
])  # fmt: skip
def test_what_leaves_no_inner_part_is_refused(training: dict, members: int, words: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=words):
        run("classification", {"aggregator": "abmil", "recipe": {"ensemble": {"members": members}},
                               "training": {"epochs": 1, **training}}, tmp_path)  # fmt: skip


def test_spots_of_a_patient_are_on_one_side_of_every_member(tmp_path: Path) -> None:
    spots = [f"s{k:02d}" for k in range(40)]
    study = study_of({"name": "t", "kind": "regression", "target": "y"}, {"m": {"aggregator": "abmil"}}, tmp_path)
    owners = {spot: f"p{k % 8}" for k, spot in enumerate(spots)}
    outcome = outcome_for(study, spots, y=np.arange(40.0), patient_of=owners)
    parts = EnsembleOfFolds(EnsembleSettings(members=4)).parts(outcome, spots, Training(), 0)
    for train, judges in parts:
        assert judges and not {owners[s] for s in train} & {owners[s] for s in judges}
    assert sorted(s for _, judges in parts for s in judges) == spots
    with pytest.raises(ModelError, match="8 training patients for 9 members"):
        EnsembleOfFolds(EnsembleSettings(members=9)).parts(outcome, spots, Training(), 0)


def test_a_linear_member_is_solved_as_the_model_alone_is(tmp_path: Path) -> None:
    result, _, _ = run("classification", {"aggregator": "mean", "recipe": {"ensemble": {"members": 2}}}, tmp_path)
    alone, _, _ = run("classification", {"aggregator": "mean"}, tmp_path)
    assert set(result.history) - {"member"} == set(alone.history)
    scale, one = result.tensors["members.0.scale"], alone.tensors["scale"]
    assert (scale / one - 1).abs().max() < 0.5  # of the patients' means, not of their tiles
