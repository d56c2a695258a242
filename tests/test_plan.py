"""What the workflow's rules depend on: a change that matters changes a digest, another does not."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from histostudy.errors import StudyError
from histostudy.files import sha256
from histostudy.plan import Plan, make_plan
from histostudy.stages import as_written

TASK = {"name": "label", "kind": "classification", "target": "label", "adjust": ["age"]}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve slides with precomputed features, and their patients."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "features").mkdir()
    rows = range(12)
    (tmp_path / "slides.csv").write_text("slide_id,patient_id\n" + "".join(f"s{i},{i:03d}\n" for i in rows))
    patients = "".join(f"{i:03d},{'ab'[i % 2]},{50 + i},{i % 4}\n" for i in rows)
    (tmp_path / "patients.csv").write_text("patient_id,label,age,site\n" + patients)
    for i in rows:
        with h5py.File(tmp_path / "features" / f"s{i}.h5", "w") as file:
            file["features"] = np.full((3, 4), i, np.float32)
    return tmp_path


def plan(folder: Path, **sections: object) -> Plan:
    """The study of the folder, laid out."""
    study = {
        "study": "x",
        "cohort": {"name": "c", "slides": "slides.csv", "patients": "patients.csv"},
        "features": {"precomputed": "features"},
        "splits": {"folds": 2},
        "tasks": [TASK],
        "models": {"mean": {"aggregator": "mean"}, "abmil": {"aggregator": "abmil"}},
    } | sections
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    return make_plan(study, folder / "study.yaml")


def test_replaced_features_are_noticed(folder: Path) -> None:
    before = plan(folder).files(Path("features"))
    file = folder / "features" / "s3.h5"
    os.utime(file, ns=(1, 1))
    assert plan(folder).files(Path("features")) == before  # pulled or copied, it is the same
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert plan(folder).files(Path("features")) != before


def test_a_covariate_concerns_the_clinical_model_alone(folder: Path) -> None:
    one, other = plan(folder), plan(folder, tasks=[TASK | {"adjust": ["age", "site"]}])
    assert one.model_settings("label", "abmil") == other.model_settings("label", "abmil")
    assert one.model_settings("label", "clinical") != other.model_settings("label", "clinical")
    assert one.outcomes() == other.outcomes()


def test_one_models_setting_is_its_own(folder: Path) -> None:
    models = {"mean": {"aggregator": "mean"}, "abmil": {"aggregator": "abmil", "training": {"lr": 0.01}}}
    one, other = plan(folder), plan(folder, models=models)
    assert one.model_settings("label", "mean") == other.model_settings("label", "mean")
    assert one.model_settings("label", "abmil") != other.model_settings("label", "abmil")


def test_an_edited_study_is_not_read_by_the_jobs_of_the_old_one(folder: Path) -> None:
    one, other = plan(folder), plan(folder, seed=5)
    one.write()
    old = one.file.read_text()
    other.write()
    assert one.file != other.file and one.file.read_text() == old
    assert yaml.safe_load((one.layout.home / "study.yaml").read_text())["seed"] == 5


def test_folds_that_cannot_be_are_refused_before_any_work(folder: Path) -> None:
    with pytest.raises(StudyError, match="no column 'hospital'"):
        plan(folder, splits={"folds": 2, "preserve": "hospital"})
    assert not (folder / "results").exists()


def test_the_members_of_a_shard_decide_its_digest(folder: Path) -> None:
    cohort = {"name": "c", "slides": "slides.csv", "patients": "patients.csv", "shard_size": 3}
    before = plan(folder, cohort=cohort).shards
    lines = (folder / "slides.csv").read_text().splitlines()
    (folder / "slides.csv").write_text("\n".join([*lines[:-1], "s11b,011"]) + "\n")
    after = plan(folder, cohort=cohort).shards
    changed = [i for i in set(before) | set(after) if before.get(i) != after.get(i)]
    assert 1 <= len(changed) <= 2


def test_a_file_is_used_as_its_stage_wrote_it(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    path.write_text("{}")
    digest = sha256(path)
    assert as_written(path, digest) == path
    path.write_text("{} ")
    with pytest.raises(StudyError, match="not as its stage wrote it"):
        as_written(path, digest)
