"""Which pairs a study asks for, what depends on them, and where they cannot be had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from studies import ROOT, histostudy

from histostudy.errors import ConfigError, ModelError, StudyError
from histostudy.features.pairs import PairSettings
from histostudy.layout import Layout
from histostudy.plan import make_plan
from histostudy.study import Study
from histostudy.studyfile import parse_study
from histostudy.verbs.check import check_study
from histostudy.verbs.pairs import load_pairs, pairs_of_study, pairs_shard
from histostudy.verbs.tables import Tables

MODELS = {
    "abmil": {"aggregator": "abmil"},
    "light": {"aggregator": "abmil", "recipe": {"histaug": {}}},
    "strong": {"aggregator": "max", "recipe": {"histaug": {"intensity": 1.0, "mode": "tile"}}},
    "longer": {"aggregator": "max", "recipe": {"histaug": {"steps": 900}}},
}
TASK = {"name": "subtype", "kind": "classification", "target": "subtype"}


def study_of(models: dict[str, Any] = MODELS, simulate: dict[str, Any] | None = None, **sections: Any) -> dict:
    cohort = {"name": "c", "simulate": {"patients": 12} | (simulate or {})}
    return {"study": "s", "cohort": cohort, "splits": {"folds": 2}, "tasks": [TASK], "models": models} | sections


def parsed(**given: Any) -> Study:
    return parse_study(study_of(**given))


def test_models_of_one_strength_share_their_pairs() -> None:
    assert set(pairs_of_study(parsed())) == {"i0.2_t16_v4", "i1_t16_v4"}


def test_training_waits_for_the_pairs_of_its_own_model_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = make_plan(study_of())
    assert plan.pairs == ["i0.2_t16_v4", "i1_t16_v4"]
    assert plan.model_inputs("subtype", "abmil") == []
    folder = plan.layout.features / "pairs"
    assert plan.model_inputs("subtype", "light") == [str(folder / "i0.2_t16_v4" / "shard-0.parquet")]
    assert plan.model_inputs("subtype", "strong") == [str(folder / "i1_t16_v4" / "shard-0.parquet")]
    assert len(plan.code("pairs")) == 12


def test_the_default_study_makes_none() -> None:
    assert pairs_of_study(parse_study(yaml.safe_load((ROOT / "config/config.yaml").read_text()))) == {}


def test_features_without_images_are_refused_before_any_work(tmp_path: Path) -> None:
    plan = make_plan(study_of(simulate={"features": {}}), root=tmp_path, check=False)
    with pytest.raises(ConfigError, match="models.light: recipe histaug needs the images of tiles"):
        check_study(plan.study, plan.layout)
    check_study(parsed(), Layout(parsed()))


def test_wrong_settings_are_found_before_any_work() -> None:
    study = parsed(models={"m": {"aggregator": "abmil", "recipe": {"histaug": {"intensity": "strong"}}}})
    with pytest.raises(ConfigError, match="models.m: wrong option: intensity is from 0 to 1"):
        check_study(study, Layout(study))
    study = parsed(models={"m": {"aggregator": "abmil", "recipe": {"histaug": {"shape": 1}}}})
    with pytest.raises((ConfigError, ModelError), match="recipe histaug: unknown key 'shape'"):
        check_study(study, Layout(study))


def test_pairs_that_nobody_asks_for_are_not_made(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(study_of()))
    with pytest.raises(ConfigError, match=r"no pairs 'i9'; pairs: i0\.2_t16_v4, i1_t16_v4"):
        pairs_shard(file, "i9", (0, 1))
    done = histostudy("pairs", "--study", file, "--set", "i1_t16_v4", cwd=tmp_path)
    assert done.returncode == 2 and "run the stage before this one" in done.stderr


def test_the_pairs_of_good_slides_are_found(tmp_path: Path) -> None:
    study = parsed()
    layout = Layout(study, tmp_path)
    slides = pd.DataFrame(
        {"slide_id": ["a", "b", "c"], "patient_id": ["p", "q", "r"], "status": ["ok", "ok", "failed"]}
    )
    cohort = type("Cohort", (), {"slides": slides})()
    tables = Tables(study, layout, cohort, slides, {})
    assert load_pairs(tables, "abmil") is None and load_pairs(tables, "prior") is None
    with pytest.raises(StudyError, match="no pairs have been made"):
        load_pairs(tables, "light")
    folder = PairSettings().folder(layout.features)
    folder.mkdir(parents=True)
    index = pd.DataFrame({"slide_id": ["a", "b", "gone"], "status": ["ok", "failed", "ok"]})
    index = index.assign(file=index["slide_id"] + ".h5", sha256="x")
    index.to_parquet(layout.shard(folder, 0))
    reader = load_pairs(tables, "light")
    assert reader is not None and reader._slides == {"p": [("a.h5", "x")]}
