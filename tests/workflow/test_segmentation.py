"""A segmenter from a folder of slides and outlines, without code: the committed study at a small size."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml
from studies import ROOT, Snakemake, committed_study, histostudy

from histostudy.tissue.geojson import read_geojson

pytestmark = pytest.mark.workflow


def _small(folder: Path) -> Path:
    given = yaml.safe_load((ROOT / "config/studies/segment_example.yaml").read_text())
    for model in given["models"].values():
        model["options"] |= {"steps": 16, "channels": [8, 16, 32], "inner_patches": 8}
        model["training"] |= {"epochs": 5, "lr": 0.01}
    cohort = given["cohort"]
    cohort["simulate"] |= {"patients": 12, "size_px": [1200, 1400]}
    return committed_study(
        "segment_example", folder, models=given["models"], cohort=cohort, splits={"folds": 2, "inner": 0.2},
        compare={"reference": "unet", "resamples": 200},
    )  # fmt: skip


def test_from_outlines_to_a_segmenter_its_scores_and_its_masks(snakemake: Snakemake, tmp_path: Path) -> None:
    study = _small(tmp_path)
    snakemake(study, tmp_path, "--cores", "2")
    home = tmp_path / "results/studies/segment_example"
    cohort = tmp_path / "results/cohorts/segment_example"
    assert (home / "report.html").is_file() and "Segmentation" in (home / "report.html").read_text()
    # nothing is embedded where no task asks for it
    assert not (home / "bags").exists() and not (cohort / "features").exists() and not (cohort / "tiles").exists()

    def dice(task: str) -> pd.DataFrame:
        table = pd.read_csv(home / f"metrics/{task}.csv")
        assert set(table["class"]) == {"stroma", "glands", "tumour", "mean"}
        assert set(table["metric"]) == {"dice", "iou", "precision", "recall", "dice_pooled"}
        return table[(table["metric"] == "dice") & (table["class"] == "mean")].set_index("model")

    found, null = dice("tissue_types"), dice("tissue_types_null")
    assert list(found.index) == ["prior", "colour", "unet", "h2g"] and (found["n"] == 12).all()
    assert found.loc["unet", "low"] > found.loc["prior", "high"], found  # what was drawn is found
    # of outlines of other slides nothing is learned but where tissue is
    assert null.loc["unet", "estimate"] < found.loc["unet", "low"]
    assert abs(null.loc["unet", "estimate"] - null.loc["colour", "estimate"]) < 0.12, null
    compared = pd.read_csv(home / "comparison/tissue_types.csv").set_index("model")
    assert set(compared["reference"]) == {"unet"} and compared.loc["prior", "high"] < 0

    rows = pd.read_parquet(home / "predictions/tissue_types/unet.parquet")
    assert len(rows) == 12 * 3 and rows["slide_id"].nunique() == 12
    run = home / "runs/tissue_types/unet/r0f0"
    tested = sorted(pd.read_parquet(run / "predictions.parquet")["slide_id"].unique())
    assert sorted(f.stem for f in (run / "overlays").glob("*.png")) == tested
    outlines = run / "outlines" / f"{tested[0]}.geojson"
    assert read_geojson(outlines, None)
    drawn = {f["properties"]["classification"]["name"] for f in json.loads(outlines.read_text())["features"]}
    assert drawn <= {"stroma", "glands", "tumour"}

    # a rerun does nothing, and a run that is asked for again has the same bytes
    before = (run / "predictions.parquet").read_bytes(), (run / "weights.safetensors").read_bytes()
    assert "Nothing to be done" in (again := snakemake(study, tmp_path)).stdout + again.stderr
    (run / "run.json").unlink()
    words = ("--study", home / "study.yaml", "--task", "tissue_types", "--model", "unet")
    assert histostudy("train", *words, cwd=tmp_path).returncode == 0
    assert before == ((run / "predictions.parquet").read_bytes(), (run / "weights.safetensors").read_bytes())
