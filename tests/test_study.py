"""The study file: defaults, refusals in one line, and the schema that editors read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from histostudy.errors import ConfigError
from histostudy.studyfile import json_schema, load_study, parse_study, resolve

ROOT = Path(__file__).resolve().parents[1]
TASK = {"name": "subtype", "kind": "classification", "target": "subtype"}


def config(**changes: object) -> dict:
    return {"study": "x", "cohort": {"name": "c", "simulate": {}}} | changes


def test_every_default_is_written_out_and_reads_back_the_same() -> None:
    study = parse_study(config(tasks=[TASK], models={"abmil": {"aggregator": "abmil"}}))
    whole = resolve(study)
    assert whole["tiles"] == {
        "mpp": 0.5, "size": 224, "overlap": 0, "min_tissue": 0.5, "tolerance": 0.05, "label": None, "spots": None,
        "scales": [], "jpeg_scale": "exact",
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


SURVIVAL = {"name": "os", "kind": "survival", "time": "t", "event": "e"}
ABMIL = {"abmil": {"aggregator": "abmil"}}


def tables_alone(folder: Path, **changes: object) -> dict:
    """A study of a patient table and published risks, which lie beside it."""
    for name in ("patients.csv", "risks.csv"):
        (folder / name).write_text("patient_id\n")
    models = {"published": {"predictions": "risks.csv"}}
    return {
        "study": "x", "cohort": {"name": "c", "patients": "patients.csv"}, "tasks": [SURVIVAL], "models": models
    } | changes  # fmt: skip


def test_without_models_there_are_the_controls() -> None:
    study = parse_study(config(tasks=[TASK, SURVIVAL | {"adjust": ["age"]}]))
    assert study.model_names("subtype") == ["prior"] and study.model_names("os") == ["prior", "clinical"]
    assert study.compare.reference is None


def test_a_study_of_tables_has_no_control_of_tiles(tmp_path: Path) -> None:
    study = parse_study(tables_alone(tmp_path), source=tmp_path / "study.yaml")
    assert not study.has_slides and study.model_names("os") == ["prior", "published"]
    assert study.compare.reference == "published"
    assert parse_study(config(tasks=[SURVIVAL], models=ABMIL)).has_slides


def test_paths_of_every_section_are_found_beside_the_study_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    for name in ("expression.csv", "centroids.csv", "rna.csv", "groups.csv", "spots.csv", "slides.csv"):
        (tmp_path / name).write_text("id\n")
    genes = {"name": "genes", "kind": "expression", "table": "expression.csv", "centroids": "centroids.csv"}
    changes = {
        "cohort": {"name": "c", "patients": "patients.csv", "slides": "slides.csv"},
        "tasks": [SURVIVAL, genes],
        "tiles": {"spots": "spots.csv"},
        "modalities": {"rna": {"table": "rna.csv", "groups": "groups.csv"}, "clinical": {"columns": ["age"]}},
    }
    whole = tables_alone(tmp_path, **changes)
    monkeypatch.chdir(tmp_path / "elsewhere")
    study = parse_study(whole, source=tmp_path / "study.yaml")
    assert study.models["published"].predictions == tmp_path / "risks.csv"
    assert study.tasks[1].table == tmp_path / "expression.csv"
    assert study.tasks[1].centroids == tmp_path / "centroids.csv"
    assert study.modalities["rna"].table == tmp_path / "rna.csv"
    assert study.modalities["rna"].groups == tmp_path / "groups.csv"
    assert study.modalities["clinical"].table is None
    assert study.tiles.spots == tmp_path / "spots.csv"
    for name, key in (("risks", "models.published.predictions"), ("groups", "modalities.rna.groups")):
        (tmp_path / f"{name}.csv").unlink()
        with pytest.raises(ConfigError, match=rf"^\S*study.yaml: {key}: {name}.csv does not exist"):
            parse_study(whole, source=tmp_path / "study.yaml")
        (tmp_path / f"{name}.csv").write_text("id\n")


def test_weights_of_a_segmenter_are_found_and_are_an_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from histostudy.layout import Layout
    from histostudy.plan import Plan

    (tmp_path / "body.safetensors").write_text("")
    (tmp_path / "drawn").mkdir()
    task = {"name": "t", "kind": "segmentation", "annotations": "drawn", "classes": {"a": ["A"]}}
    models = {"h": {"segmenter": "h2g", "options": {"checkpoint": "body.safetensors", "width": 0.5}}}
    for name in ("slides.csv", "patients.csv"):
        (tmp_path / name).write_text("id\n")
    cohort = {"name": "c", "slides": "slides.csv", "patients": "patients.csv"}
    whole = {"study": "s", "cohort": cohort, "tasks": [task], "models": models}
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    study = parse_study(whole, source=tmp_path / "study.yaml")
    file = str(tmp_path / "body.safetensors")
    assert study.models["h"].options == {"checkpoint": file, "width": 0.5}
    plan = object.__new__(Plan)
    object.__setattr__(plan, "study", study)
    object.__setattr__(plan, "layout", Layout(study))
    assert plan.model_inputs("t", "h") == [file]
    (tmp_path / "body.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"models\.h\.options\.checkpoint: body.safetensors does not exist"):
        parse_study(whole, source=tmp_path / "study.yaml")


def test_tables_of_a_simulated_cohort_are_not_looked_for() -> None:
    study = parse_study(config(tasks=[SURVIVAL], models=ABMIL, modalities={"rna": {"table": "rna.csv"}}))
    assert study.modalities["rna"].table == Path("rna.csv")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"cohort": {"name": "c", "simulate": {}, "patients": "p.csv"}}, "leave those keys out"),
        ({"models": {"m": {}}}, "models.m: give aggregator, or predictions made elsewhere"),
        (
            {"models": {"m": {"aggregator": "mean", "predictions": "p.csv"}}},
            "models.m: give aggregator, or predictions",
        ),
        ({"models": {"m": {"predictions": "p.csv", "modalities": ["rna"]}}}, "models.m: predictions made elsewhere"),
        ({"models": {"m": {"predictions": "p.csv", "options": {"a": 1}}}}, "take no other key"),
        ({"models": ABMIL | {"m": {"aggregator": "snn", "modalities": ["rna"]}}}, "models.m: 'rna' is not a modality"),
        ({"models": {"m": {"aggregator": "moe_pkt", "sources": "m"}}}, "models.m.sources 'm' is not another model"),
        ({"models": {"m": {"aggregator": "moe_pkt", "sources": "x"}}}, "models.m.sources 'x' is not another model"),
        ({"models": {"mean": {"aggregator": "max"}}}, "'mean' is kept for the mean-pool control"),
        ({"models": {"m": {"aggregator": "mean", "fusion": "sum"}}}, "models.m.fusion: Input should be 'concat'"),
        ({"models": ABMIL, "compare": {"reference": "x"}}, "compare.reference 'x' is not a model"),
        ({"models": ABMIL, "compare": {"transfer": ["x"]}}, "compare.transfer 'x' is not a model"),
        ({"models": ABMIL, "compare": {"resamples": 50}}, "compare.resamples: Input should be greater"),
        ({"splits": {"column": "fold", "preserve": "site"}}, "splits: give one of column and preserve"),
        ({"splits": {"column": "fold", "published": "."}}, "splits: give one of published and column"),
        ({"tasks": [SURVIVAL | {"permute": -1}], "models": ABMIL}, "tasks.0.survival.permute: Input should be greater"),
        ({"tasks": [SURVIVAL | {"where": {"cancer": 1.5}}], "models": ABMIL}, "tasks.0.survival.where.cancer"),
        ({"tasks": [SURVIVAL | {"horizons": [365, 90]}], "models": ABMIL}, "horizons are days, positive and rising"),
        (
            {
                "tasks": [{"name": "g", "kind": "expression", "level": "spot", "table": "g.csv"}],
                "models": ABMIL,
            },
            "a task at the level of spots needs tiles.spots",
        ),
        ({"modalities": {"a b": {}}}, "modalities.a b"),
        ({"modalities": {"rna": {"colums": ["x"]}}}, "modalities.rna.colums: unknown key, did you mean 'columns'?"),
        ({"models": {"m": {"aggregator": "mean", "training": {"epochs": -1}}}}, "models.m.training.epochs"),
        ({"models": {"m": {"aggregator": "mean", "training": {"alpha": 1}}}}, "models.m.training.alpha"),
        ({"models": {"m": {"aggregator": "mean", "training": {"bins": 1}}}}, "models.m.training.bins"),
        ({"models": {"m": {"aggregator": "mean", "training": {"epoch": "best"}}}}, "models.m.training.epoch: Input"),
        ({"models": {"m": {"aggregator": "mean", "training": {"loss": "ranks"}}}}, "models.m.training.loss: Input"),
        ({"models": {"m": {"aggregator": "mean", "training": {"sampling": "x"}}}}, "models.m.training.sampling: Input"),
        ({"models": {"m": {"aggregator": "mean", "training": {"trace": "x"}}}}, "models.m.training.trace: Input"),
    ],
)
def test_what_is_wrong_in_models_and_tables_is_one_line(changes: dict, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_study(config(**changes), source="study.yaml")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_untrained_twins_are_of_the_same_aggregator_options_and_tables() -> None:
    off = {"training": {"epochs": 0}}
    abmil = {"aggregator": "abmil", "options": {"hidden": 8}}
    models = {
        "mean": {"aggregator": "mean"}, "a": abmil, "wide": {"aggregator": "abmil"}, "a_off": abmil | off,
        "max_off": {"aggregator": "max"} | off,
    }  # fmt: skip
    assert parse_study(config(tasks=[TASK], models=models)).untrained_twins() == {"a": "a_off"}


def test_a_model_with_sources_builds_on_all_tasks() -> None:
    models = {"mean": {"aggregator": "mean"}, "moe": {"aggregator": "moe_pkt", "sources": "mean"}}
    study = parse_study(config(tasks=[SURVIVAL, TASK], models=models))
    assert study.source_tasks("moe") == ["os", "subtype"] and study.source_tasks("mean") == []
    assert study.source_tasks("prior") == []
