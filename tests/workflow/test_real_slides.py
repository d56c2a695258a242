"""Real slides through tissue, tiles, features, figures and quality control; every bad slide says why."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from studies import Snakemake, committed_study, copy_files, histostudy

pytestmark = pytest.mark.workflow

#: Edge case to the status and reason it must end with, as it is and with a scale in slides.csv.
ENDS = {
    "CMU-1-Small-Region": ("ok", ""),
    "TCGA-CR-7395-01A-01-TS1": ("failed", "no_mpp"),
    "CropBreastSlide": ("failed", "implausible_mpp"),
    "CMU-1-small": ("failed", "coarser_than_tiles"),
    "camelyon_multiframe_jpeg": ("failed", "coarser_than_tiles"),
    "test3-DAPI-2-387": ("failed", "fluorescence"),
    "broken": ("failed", "unreadable"),
}
RESCUED = {"TCGA-CR-7395-01A-01-TS1": 0.25, "CropBreastSlide": 0.5}


@pytest.fixture(scope="module")
def edge_study(shared_data: Path, snakemake: Snakemake, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed study on six regions and all edge cases, one of them twice: with a scale in the table."""
    folder = tmp_path_factory.mktemp("edge")
    slides = shared_data / "slides"
    data = folder / "data" / "monuseg_and_edge_cases"
    copy_files([*sorted((slides / "monuseg").glob("*.tiff"))[:6], *(slides / "edge_cases").iterdir()], data / "slides")
    done = histostudy("cohort", "folder", data / "slides", "-o", data / "slides.csv")
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(data / "slides.csv")
    rescued = table[table["slide_id"].isin(RESCUED)].copy()
    rescued["mpp"] = rescued["slide_id"].map(RESCUED)
    rescued["slide_id"] += "-rescued"
    pd.concat([table, rescued]).to_csv(data / "slides.csv", index=False)
    cohort = {"name": "edge", "slides": "../../data/monuseg_and_edge_cases/slides.csv", "max_failed": 0.5}
    study = committed_study("monuseg_and_edge_cases", folder, cohort=cohort)
    snakemake(study, folder)
    return folder


def test_every_edge_case_ends_with_its_status_and_reason(edge_study: Path) -> None:
    index = pd.read_parquet(edge_study / "results/cohorts/edge/features/0.5um_224px/builtin/index.parquet")
    index = index.set_index("slide_id")
    assert {s: (index.loc[s, "status"], index.loc[s, "reason"]) for s in ENDS} == ENDS
    assert (index.loc[[s for s in index.index if s.startswith("TCGA-") and "CR-7395" not in s], "status"] == "ok").all()


def test_a_scale_in_the_table_rescues_and_the_index_says_so(edge_study: Path) -> None:
    index = pd.read_parquet(edge_study / "results/cohorts/edge/slides.parquet").set_index("slide_id")
    for slide, mpp in RESCUED.items():
        row = index.loc[f"{slide}-rescued"]
        assert (row["status"], row["mpp"], row["mpp_source"]) == ("ok", mpp, "table")
    assert index.loc["CMU-1-Small-Region", "mpp_source"] == "metadata"


def test_tiles_are_at_the_exact_scale(edge_study: Path) -> None:
    folder = edge_study / "results/cohorts/edge/tiles/0.5um_224px"
    index = pd.read_parquet(next(folder.glob("shard-*.parquet"))).query("status == 'ok'")
    assert len(index)
    for row in index.to_dict("records"):
        with h5py.File(folder / row["file"]) as tiles:
            assert tiles.attrs["size_px0"] == pytest.approx(224 * 0.5 / tiles.attrs["mpp_slide"], rel=1e-6)
            assert len(np.unique(tiles["coords"][:], axis=0)) == row["n_tiles"] == len(tiles["coords"])


def test_the_report_names_every_bad_slide(edge_study: Path) -> None:
    page = (edge_study / "results/studies/monuseg_and_edge_cases/report.html").read_text()
    for slide in ENDS:
        assert slide in page
    assert "http://" not in page.replace("http://www.w3.org", "") and "<script src" not in page


def test_whole_sections_run_and_nothing_is_left_to_do(shared_data: Path, snakemake: Snakemake, tmp_path: Path) -> None:
    data = tmp_path / "data" / "her2st"
    copy_files([shared_data / "slides/her2st/HER2ST-C2.svs", shared_data / "slides/her2st/HER2ST-C3.svs"], data / "s")
    assert histostudy("cohort", "folder", data / "s", "-o", data / "slides.csv").returncode == 0
    study = committed_study("her2st_tiles", tmp_path)
    snakemake(study, tmp_path)
    index = pd.read_parquet(tmp_path / "results/cohorts/her2st/features/1um_224px/builtin/index.parquet")
    assert index["status"].tolist() == ["ok", "ok"]
    assert index["n_tiles"].between(100, 250).all()
    assert "Nothing to be done" in snakemake(study, tmp_path, "--dry-run").stdout
