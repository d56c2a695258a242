"""The verb: an encoder of a drawn cohort's tiles, of chosen patients, with normalised stains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from histostudy.errors import ConfigError, StudyError, TableError
from histostudy.layout import Layout
from histostudy.simulate.cohort import simulate_cohort
from histostudy.studyfile import load_study
from histostudy.verbs.pretrain import pretrain_study
from histostudy.verbs.slides import embed_shard, inspect_shard, tiles_shard, tissue_shard

PRETRAIN: dict[str, Any] = {
    "network": "vit_tiny", "options": {"width": 16, "depth": 1, "heads": 2, "patch": 8}, "epochs": 1, "batch_size": 8,
    "prototypes": 16, "head_hidden": 16, "bottleneck": 8, "tiles_per_slide": 4, "monitor_tiles": 8, "device": "cpu",
    "views": {"local": 1},
}  # fmt: skip


def _study(folder: Path, **pretrain: Any) -> Path:
    stain = {"stain": pretrain["stain"]} if "stain" in pretrain else {}
    name = pretrain.get("name", "pretrained")
    config = {
        "study": "s",
        "cohort": {"name": "c", "simulate": {"patients": 12, "slides_extra": 0, "sites": 2, "size_px": [1200, 1400]}},
        "tiles": {"mpp": 4.0, "size": 32},
        "pretrain": PRETRAIN | pretrain,
        "features": {"encoder": "pretrained", "checkpoint": f"results/cohorts/c/encoders/{name}"} | stain,
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


@pytest.fixture(scope="module")
def laid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a drawn cohort whose tiles were laid."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        file = _study(folder)
        study = load_study(file)
        assert study.cohort.simulate is not None
        simulate_cohort(study.cohort.simulate, 0, Layout(study).source, 1)
        for stage in (inspect_shard, tissue_shard, tiles_shard):
            stage(file, (0, 1))
    return folder


def _config(folder: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((folder / "results" / "cohorts" / "c" / "encoders" / name / "config.json").read_text()))


def test_a_cohorts_tiles_make_an_encoder_that_embeds_them(laid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pandas as pd

    monkeypatch.chdir(laid)
    file = _study(laid)
    pretrain_study(file)
    config = _config(laid, "pretrained")
    assert config["tiles"]["patients"] == 12 and config["tiles"]["cohort"] == "c" and config["mpp"] == 4.0
    embed_shard(file, (0, 1))
    index = pd.read_parquet(Layout(load_study(file)).shard(Layout(load_study(file)).features, 0))
    assert (index["status"] == "ok").all() and (index["dim"] == 16).all()


def test_where_chooses_patients_and_stain_changes_the_encoder(laid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pandas as pd

    monkeypatch.chdir(laid)
    patients = pd.read_csv(Layout(load_study(_study(laid))).source / "patients.csv")
    site = str(patients["site"].iloc[0])
    pretrain_study(_study(laid, name="one_site", where={"site": site}))
    chosen = _config(laid, "one_site")
    assert chosen["tiles"]["patients"] == int((patients["site"].astype(str) == site).sum()) < 12
    pretrain_study(_study(laid, name="normalised", where={"site": site}, stain={"method": "macenko"}))
    normalised = _config(laid, "normalised")
    assert normalised["stain"]["method"] == "macenko"
    assert normalised["weights_sha256"] != chosen["weights_sha256"]
    with pytest.raises(TableError, match="no patient of task 'pretrain' is nowhere"):
        pretrain_study(_study(laid, name="none", where={"site": "nowhere"}))


def test_any_registered_encoder_can_be_distilled(laid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(laid)
    pretrain_study(_study(laid, name="student", method="distil", teacher="builtin"))
    config = _config(laid, "student")
    assert config["method"] == "features" and config["teacher"]["encoder"] == "builtin"


def test_too_early_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StudyError, match="no such index; run the stages before this one"):
        pretrain_study(_study(tmp_path))
    plain = tmp_path / "plain.yaml"
    plain.write_text("{study: s, cohort: {name: c, simulate: {patients: 12}}}")
    with pytest.raises(ConfigError, match="the study has no pretrain section; add it"):
        pretrain_study(plain)
