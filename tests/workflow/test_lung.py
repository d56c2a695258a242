"""LUAD v LUSC from precomputed bags: our nested folds and the published ones, down to the table of metrics."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from studies import Snakemake, committed_study, histostudy

pytestmark = pytest.mark.workflow


@pytest.fixture(scope="module")
def lung(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lung cohort as a user makes it: bags one file a slide, tables from TCGA's own."""
    folder = tmp_path_factory.mktemp("lung")
    data = folder / "data" / "tcga_lung"
    tool = shared_data.parent / "tools" / "explode_hipt.py"
    bags = [shared_data / "tcga/hipt_bags" / f"TCGA-{c}.h5" for c in ("LUAD", "LUSC")]
    subprocess.run([sys.executable, tool, *bags, data / "features"], check=True, capture_output=True)
    (data / "splits").symlink_to(shared_data / "tcga/hipt_subtyping_splits/tcga_lung")
    done = histostudy("cohort", "tcga", data / "features", "-o", data, "--cdr", shared_data / "tcga/tcga_cdr.csv")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("name", ["tcga_lung_subtyping", "tcga_lung_subtyping_published"])
def test_lung_subtyping_reaches_what_a_linear_model_does(lung: Path, snakemake: Snakemake, name: str) -> None:
    snakemake(committed_study(name, lung), lung)
    home = lung / "results" / "studies" / name
    metrics = pd.read_csv(home / "metrics" / "subtype.csv").query("metric == 'auroc'").set_index("model")
    assert metrics.loc["prior", "estimate"] == 0.5
    # a plain linear model on the patient mean reaches 0.936; far above is a leak, far below a bug
    for model in ("mean", "abmil"):
        assert 0.92 < metrics.loc[model, "estimate"] < 0.965, metrics
        assert metrics.loc[model, "low"] < metrics.loc[model, "estimate"] < metrics.loc[model, "high"]
    assert metrics.loc["clinical", "estimate"] < 0.75
    predictions = pd.read_parquet(home / "predictions" / "subtype" / "abmil.parquet")
    assert predictions["patient_id"].is_unique
    if name == "tcga_lung_subtyping":
        assert metrics.loc["abmil", "n"] == len(predictions) == 911
