"""The guard of the pairs, by hand and through whole runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from training.trainingdata import PackedBags, folds_of, outcome_for, planted_bags, study_of

from histostudy.encoders.augment import sample
from histostudy.features.pairs import PairReader, PairSettings, write_pairs
from histostudy.files import sha256
from histostudy.training import stage
from histostudy.training.guard import LeakError
from histostudy.training.pairs import GuardedPairs
from histostudy.training.stage import train_model

SETTINGS = PairSettings(tiles=3, versions=2)
QUICK = {"tiles": 3, "versions": 2, "steps": 3, "width": 8, "blocks": 1}


def reader_of(ids: list[str], folder: Path, dim: int = 12) -> PairReader:
    """Pairs of patients of one slide each; changed features are those of the tile plus the brightness."""
    rng = np.random.default_rng(0)
    rows = []
    for patient in ids:
        drawn = sample(6, rng, SETTINGS.intensity)
        features = rng.normal(size=(3, dim)).astype(np.float32)
        values = drawn.values.reshape(3, 2, -1)
        arrays = {
            "features": features, "augmented": features[:, None] + 10 * values[:, :, 7:8], "values": values,
            "positions": drawn.positions.reshape(3, 2, -1), "coords": np.zeros((3, 2), np.int64),
        }  # fmt: skip
        write_pairs(folder / f"{patient}.h5", arrays, {})
        rows.append({"slide_id": patient, "patient_id": patient, "file": f"{patient}.h5"})
    index = pd.DataFrame(rows).assign(sha256=[sha256(folder / row["file"]) for row in rows])
    return PairReader(folder, index, SETTINGS)


def test_a_tested_patients_pairs_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    reader = reader_of(["a", "b", "c"], tmp_path)
    guarded = GuardedPairs(reader, ["c"])
    assert set(guarded(["b", "a"]).patients) == {"a", "b"}
    (tmp_path / "a.h5").unlink()
    with pytest.raises(LeakError, match="tested patient c"):
        guarded(["a", "c"])


def test_spots_are_their_patients(tmp_path: Path) -> None:
    owner = {"s1": "a", "s2": "a", "s3": "b", "s4": "c"}
    guarded = GuardedPairs(reader_of(["a", "b", "c"], tmp_path), ["s4"], owner)
    assert len(guarded(["s1", "s2", "s3"])) == 12  # each patient once
    with pytest.raises(LeakError):
        guarded(["s1", "s4"])


def test_runs_read_the_pairs_of_their_training_part_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bags, y = planted_bags(36, 0)
    ids = sorted(bags)
    models = {
        "m": {"aggregator": "abmil", "training": {"epochs": 2}, "recipe": {"histaug": QUICK}},
    }
    study = study_of({"name": "t", "kind": "classification", "target": "y"}, models, tmp_path)
    outcome, splits = outcome_for(study, ids, y=y.astype(float), classes=["no", "yes"]), folds_of(ids, y, 2)
    reader = reader_of(ids, tmp_path / "pairs")
    asked: list[set[str]] = []
    read = PairReader.__call__
    monkeypatch.setattr(PairReader, "__call__", lambda self, who: asked.append(set(who)) or read(self, who))
    packed = PackedBags.of(bags)
    first = train_model(study, "t", "m", packed, outcome, splits, tmp_path / "m", pairs=reader)
    assert len(asked) == 2
    for fold, who in enumerate(asked):
        mine = splits[(splits["fold"] == fold) & (splits["part"] == "train")]
        assert who == set(mine["patient_id"])
    history = pd.read_csv(tmp_path / "m" / "r0f0" / "history.csv")
    assert {"histaug_generated", "histaug_original", "histaug_wrong", "histaug_identity"} <= set(history)

    def again() -> set[str]:
        return set(train_model(study, "t", "m", packed, outcome, splits, tmp_path / "m", pairs=reader)["status"])

    assert again() == {"kept"}
    reader.digest = "others"
    assert again() == {"trained"}
    second = train_model(study, "t", "m", packed, outcome, splits, tmp_path / "m2", pairs=reader)
    assert list(second["sha256"]) == list(first["sha256"])  # to the same bytes

    # a run that would ask for a tested patient stops
    real = stage._Trainer._result

    def leaky(self: stage._Trainer, parts: dict, repeat: int, fold: int) -> object:
        return real(self, parts | {"train": [*parts["train"], parts["test"][0]]}, repeat, fold)

    monkeypatch.setattr(stage._Trainer, "_result", leaky)
    with pytest.raises(LeakError, match="tested patient"):
        train_model(study, "t", "m", packed, outcome, splits, tmp_path / "m3", pairs=reader)
