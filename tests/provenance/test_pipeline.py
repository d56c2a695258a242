"""dvc.yaml is written from the studies, and is the one in the tree."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from studies import ROOT

from histostudy.errors import ConfigError
from histostudy.provenance.pipeline import artifact_name, data_of, pipeline, pipeline_text
from histostudy.study import Study


def _checkout(folder: Path, **studies: dict) -> Path:
    (folder / "config/studies").mkdir(parents=True)
    simulated = {"cohort": {"name": "c", "simulate": {"patients": 12}}}
    (folder / "config/config.yaml").write_text(yaml.safe_dump({"study": "first"} | simulated))
    for name, more in studies.items():
        text = yaml.safe_dump({"study": name} | simulated | more)
        (folder / f"config/studies/{name}.yaml").write_text(text)
    return folder


def test_the_file_in_the_tree_is_that_of_the_studies() -> None:
    assert (ROOT / "dvc.yaml").read_text() == pipeline_text(ROOT), "run `make dvc`"


def test_a_stage_a_study_and_one_a_cohort(tmp_path: Path) -> None:
    stages = pipeline(_checkout(tmp_path, second={}, third={"cohort": {"name": "d", "simulate": {}}}))["stages"]
    assert list(stages["study"]["foreach"]) == ["first", "second", "third"]
    assert list(stages["features"]["foreach"]) == ["c", "d"]
    both = stages["features"]["foreach"]["c"]["cmd"]
    assert both.split(" && ") == [
        f"snakemake features --cores all --configfile config/{file}.yaml" for file in ("config", "studies/second")
    ]
    assert stages["study"]["foreach"]["second"]["from"] == "results/cohorts/c"


def test_dvc_never_deletes_what_snakemake_may_keep(tmp_path: Path) -> None:
    for stage in pipeline(_checkout(tmp_path))["stages"].values():
        for kind in ("outs", "metrics", "plots"):
            for out in stage["do"].get(kind, []):
                ((_, options),) = out.items()
                assert options["persist"] is True
                assert (kind == "outs") == ("cache" not in options)  # git keeps the metrics


def test_a_table_alone_stands_for_its_folder(tmp_path: Path) -> None:
    tables = {"cohort": {"name": "t", "patients": "../../data/t/patients.csv"}}
    stages = pipeline(_checkout(tmp_path, tables=tables))["stages"]
    assert stages["study"]["foreach"]["tables"] == {
        "file": "config/studies/tables.yaml", "data": "data/t", "from": "data/t",
    }  # fmt: skip
    assert "t" not in stages["features"]["foreach"]


def test_every_file_that_a_study_names_is_its_data() -> None:
    content = {
        "study": "s",
        "cohort": {"name": "c", "slides": "d/slides.csv", "patients": "d/patients.csv"},
        "tissue": {"method": "unet", "checkpoint": "w/tissue.safetensors"},
        "features": {"encoder": "pretrained", "stain": {"method": "macenko", "target": "w/target.json"}},
        "pretrain": {
            "images": "d/images",
            "method": "distil",
            "teacher": "builtin",
            "teacher_checkpoint": "w/teacher.pt",
        },
        "tasks": [
            {"name": "seg", "kind": "segmentation", "annotations": "d/outlines", "classes": {"a": ["a"], "b": ["b"]}}
        ],
        "models": {"net": {"segmenter": "unet", "options": {"checkpoint": "w/net.safetensors"}}},
    }
    study = Study.model_validate(content)
    found = {str(path) for path in data_of(study, Path("config/studies/s.yaml"))}
    named = ("slides.csv", "patients.csv", "images", "outlines")
    assert found == {f"config/studies/d/{name}" for name in named} | {
        f"config/studies/w/{name}" for name in ("tissue.safetensors", "target.json", "teacher.pt", "net.safetensors")
    }


def test_predictions_made_elsewhere_are_data_of_a_drawn_cohort_too() -> None:
    content = {
        "study": "s",
        "cohort": {"name": "c", "simulate": {"patients": 12}},
        "tasks": [{"name": "t", "kind": "classification", "target": "subtype"}],
        "models": {"theirs": {"predictions": "../../d/theirs.csv"}},
    }
    assert data_of(Study.model_validate(content), Path("config/studies/s.yaml")) == [Path("d/theirs.csv")]


def test_two_studies_of_one_name_are_refused(tmp_path: Path) -> None:
    folder = _checkout(tmp_path, one={})
    (folder / "config/studies/two.yaml").write_text((folder / "config/studies/one.yaml").read_text())
    with pytest.raises(ConfigError, match="two studies are named 'one'"):
        pipeline(folder)


def test_names_of_models_are_what_the_registry_takes() -> None:
    assert artifact_name("TCGA_lung.v2") == "tcga-lung-v2"
