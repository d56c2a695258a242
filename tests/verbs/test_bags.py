"""The bags of a study: made once from its index, refused when the index is another."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from histostudy.errors import FeatureError, StudyError
from histostudy.features.bagfile import FILES
from histostudy.features.bags import Bags
from histostudy.plan import make_plan
from histostudy.verbs.bags import load_bags, make_bags
from histostudy.verbs.slides import join_features
from histostudy.verbs.tables import load_tables


@pytest.fixture
def study_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six slides of four patients, with features that another tool made, and their index."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "features").mkdir()
    rows = [f"s{i},p{i % 4}" for i in range(6)]
    (tmp_path / "slides.csv").write_text("\n".join(["slide_id,patient_id", *rows]) + "\n")
    (tmp_path / "patients.csv").write_text("patient_id,label\n" + "".join(f"p{i},{'ab'[i % 2]}\n" for i in range(4)))
    for i in range(6):
        features(tmp_path, i, i + 1)
    study = {
        "study": "x",
        "cohort": {"name": "c", "slides": "slides.csv", "patients": "patients.csv"},
        "features": {"precomputed": "features"},
        "splits": {"folds": 2},
        "tasks": [{"name": "label", "kind": "classification", "target": "label"}],
        "models": {"mean": {"aggregator": "mean"}},
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    plan = make_plan(study, tmp_path / "study.yaml")
    assert plan.bags == [str(Path("results/studies/x/bags") / name) for name in FILES]
    join_features(tmp_path / "study.yaml", plan.n_shards)
    return tmp_path / "study.yaml"


def features(folder: Path, slide: int, tiles: int) -> None:
    with h5py.File(folder / "features" / f"s{slide}.h5", "w") as file:
        file["features"] = np.full((tiles, 4), slide + 0.1, np.float32)


def test_bags_are_those_of_the_slides_files(study_file: Path) -> None:
    make_bags(study_file)
    bags = load_bags(load_tables(study_file))
    paths = {f"s{i}": study_file.parent / "features" / f"s{i}.h5" for i in range(6)}
    read = Bags.load(paths, {f"s{i}": f"p{i % 4}" for i in range(6)})
    assert bags.patient_ids == read.patient_ids and bags.slide_ids == read.slide_ids
    for patient in read.patient_ids:
        np.testing.assert_array_equal(bags.bag(patient), read.bag(patient))
    made = {name: (study_file.parent / "results/studies/x/bags" / name).read_bytes() for name in FILES}
    make_bags(study_file)
    assert all((study_file.parent / "results/studies/x/bags" / name).read_bytes() == made[name] for name in FILES)


def test_bags_of_another_index_are_refused(study_file: Path) -> None:
    with pytest.raises(FeatureError, match="no bags have been made; make them again: histostudy bags --study FILE"):
        load_bags(load_tables(study_file))
    make_bags(study_file)
    before = load_bags(load_tables(study_file)).digest
    features(study_file.parent, 3, 9)
    with pytest.raises(StudyError, match=r"s3\.h5.*not as its stage wrote it"):
        make_bags(study_file)
    join_features(study_file, 1)
    with pytest.raises(FeatureError, match=r"made from other features \(slide s3\)"):
        load_bags(load_tables(study_file))
    make_bags(study_file)
    assert load_bags(load_tables(study_file)).digest != before
    table = study_file.parent / "slides.csv"
    table.write_text(table.read_text().replace("s5,p1", "s5,p2"))
    join_features(study_file, 1)
    with pytest.raises(FeatureError, match=r"made from other features \(slide s5\)"):
        load_bags(load_tables(study_file))
