"""The study of labelled tiles, whole: textures that were drawn are told apart, shuffled ones are not."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from studies import Snakemake, committed_study

pytestmark = pytest.mark.workflow


@pytest.fixture(scope="module")
def home(snakemake: Snakemake, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the example with fewer patients and without its network."""
    folder = tmp_path_factory.mktemp("tile_types")
    tiles = {"each": 3, "side_um": 112, "purity": 0.8}
    drawn = {"patients": 12, "slides_extra": 0, "size_px": [1400, 1600], "pen_share": 0, "labelled_tiles": tiles}
    task = {"kind": "tile_classification", "table": "tiles.csv"}
    shots = {"classifier": "prototypes", "options": {"shots": [1, 2], "draws": 20, "standardise": True}}
    study = committed_study(
        "tile_types_example", folder, cohort={"name": "tile_types", "simulate": drawn},
        tasks=[{"name": "tissue_type"} | task, {"name": "shuffled", "permute": 1} | task],
        models={"probe": {"classifier": "linear_probe"}, "shots": shots},
        compare={"reference": "probe", "resamples": 200},
    )  # fmt: skip
    snakemake(study, folder)
    return folder / "results/studies/tile_types_example"


def test_what_was_drawn_is_found_and_what_was_shuffled_is_not(home: Path) -> None:
    def auroc(task: str) -> pd.DataFrame:
        table = pd.read_csv(home / f"metrics/{task}.csv")
        return table[table["metric"] == "auroc"].set_index("model")

    found, null = auroc("tissue_type"), auroc("shuffled")
    assert list(found.index) == ["prior", "colour", "probe", "shots"]
    assert found.loc["prior", "estimate"] == 0.5 and found.loc["probe", "low"] > 0.9
    assert (null["estimate"] - 0.5).abs().max() < 0.2
    assert (found["patients"] == 12).all() and (found["n"] > 60).all()
    compared = pd.read_csv(home / "comparison/tissue_type.csv")
    assert set(compared["model"]) == {"prior", "colour", "shots"} and (compared["reference"] == "probe").all()


def test_a_row_is_a_tile_and_no_stage_of_whole_slides_ran(home: Path) -> None:
    predictions = pd.read_parquet(home / "predictions/tissue_type/probe.parquet")
    table = pd.read_csv(home.parents[1] / "cohorts/tile_types/simulated/tiles.csv")
    assert predictions["tile_id"].is_unique and set(predictions["tile_id"]) == set(table["tile_id"])
    owner = table.set_index("tile_id")["patient_id"]
    assert (predictions["patient_id"] == predictions["tile_id"].map(owner)).all()
    cohort = home.parents[1] / "cohorts/tile_types"
    assert not [name for name in ("tissue", "tiles", "features") if (cohort / name).exists()]
    assert not (home / "bags").exists()


def test_the_page_tells_of_tiles_and_shots(home: Path) -> None:
    page = (home / "report.html").read_text()
    assert (
        "SimpleShot" in page
        and "tiles of 12 patients" in page
        and (home / "figures/tissue_type_few_shot.svg").is_file()
    )
