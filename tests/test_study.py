"""The study file: defaults, refusals in one line, and the schema that editors read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from histostudy.errors import ConfigError
from histostudy.study import json_schema, load_study, parse_study, resolve

ROOT = Path(__file__).resolve().parents[1]
TASK = {"name": "subtype", "kind": "classification", "target": "subtype"}


def config(**changes: object) -> dict:
    return {"study": "x", "cohort": {"name": "c", "simulate": {}}} | changes


def test_every_default_is_written_out_and_reads_back_the_same() -> None:
    study = parse_study(config(tasks=[TASK], models={"abmil": {"aggregator": "abmil"}}))
    whole = resolve(study)
    assert whole["tiles"] == {
        "mpp": 0.5, "size": 224, "overlap": 0, "min_tissue": 0.5, "tolerance": 0.05, "label": None,
    }  # fmt: skip
    assert resolve(parse_study(whole)) == whole


def test_the_mean_pool_control_is_in_every_study_with_models() -> None:
    study = parse_study(config(tasks=[TASK], models={"abmil": {"aggregator": "abmil"}}))
    assert study.model_names("subtype") == ["prior", "mean", "abmil"]
    assert study.compare.reference == "abmil"


def test_the_clinical_control_needs_covariates() -> None:
    study = parse_study(config(tasks=[TASK | {"adjust": ["age"]}], models={"m": {"aggregator": "mean"}}))
    assert study.model_names("subtype") == ["prior", "clinical", "m"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tisue": {}}, "tisue: unknown key, did you mean 'tissue'?"),
        ({"study": "../x"}, "study: String should match pattern"),
        ({"tiles": {"mpp": "fine"}}, "tiles.mpp: Input should be a valid number"),
        ({"tiles": {"size": 64, "overlap": 64}}, "overlap 64 must be smaller than size 64"),
        ({"cohort": {"name": "c"}}, "give cohort.slides"),
        ({"tasks": [TASK]}, "a study with tasks needs models"),
        ({"tasks": [TASK, TASK], "models": {"m": {"aggregator": "mean"}}}, "two tasks of one name"),
        ({"tasks": [TASK], "models": {"prior": {"aggregator": "mean"}}}, "'prior' is taken"),
        ({"cohort": {"name": "c", "slides": "nowhere.csv"}}, "cohort.slides: nowhere.csv does not exist"),
        ({"features": {"encoder": "builtin", "precomputed": "."}}, "give encoder or precomputed"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_key(changes: dict, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_study(config(**changes), source="study.yaml")
    assert says in str(error.value)
    assert str(error.value).startswith("study.yaml: ")
    assert "\n" not in str(error.value)


def test_paths_are_looked_for_beside_the_study_file_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "studies").mkdir()
    for folder in (tmp_path, tmp_path / "studies"):
        (folder / "slides.csv").write_text("slide_id,patient_id,path\n")
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "studies" / "a.yaml"
    file.write_text(yaml.safe_dump({"study": "a", "cohort": {"name": "c", "slides": "slides.csv"}}))
    assert load_study(file).cohort.slides == Path("studies/slides.csv")


def test_schema_in_the_tree_is_that_of_the_code() -> None:
    committed = json.loads((ROOT / "workflow/schemas/study.schema.json").read_text())
    assert committed == json_schema(), "run `make schema`"


def test_committed_studies_fit_the_schema() -> None:
    import jsonschema

    files = [ROOT / "config/config.yaml", *sorted((ROOT / "config/studies").glob("*.yaml"))]
    assert len(files) >= 4
    for file in files:
        jsonschema.validate(yaml.safe_load(file.read_text()), json_schema())
