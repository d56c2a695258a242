"""A tiny study of two scales, read at its decoder's scale: parents from the tiles to a model that sees them."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import yaml
from studies import Snakemake

pytestmark = pytest.mark.workflow


def test_a_study_of_two_scales_runs_whole(snakemake: Snakemake, tmp_path: Path) -> None:
    quick = {"epochs": 2, "min_epochs": 1}
    small = {"hidden": 8, "layers": 1, "heads": 2, "feedforward": 16, "attention": 4, "pretrain_epochs": 1}
    study = tmp_path / "scales.yaml"
    study.write_text(
        yaml.safe_dump(
            {
                "study": "scales",
                "cohort": {
                    "name": "scales",
                    "simulate": {"patients": 12, "slides_extra": 0.2, "pen_share": 0, "size_px": [1200, 1500]},
                },
                "tiles": {"mpp": 1.0, "size": 64, "scales": [2.0, 4.0], "jpeg_scale": "fast"},
                "splits": {"folds": 2},
                "tasks": [{"name": "subtype", "kind": "classification", "target": "subtype"}],
                "models": {
                    "abmil": {"aggregator": "abmil", "training": quick},
                    "mixed": {"aggregator": "mixed_magnification", "options": small, "training": quick},
                },
                "compare": {"reference": "abmil", "resamples": 100},
            }
        )
    )
    snakemake(study, tmp_path)
    cohort, home = tmp_path / "results/cohorts/scales", tmp_path / "results/studies/scales"
    files = sorted((cohort / "features/1um+2um+4um_64px/builtin-fast").glob("*.h5"))
    assert len(files) >= 12
    with h5py.File(files[0]) as file:
        tiles = len(file["features"])
        assert tiles > len(file["features@2"]) > len(file["features@4"]) > 0
        assert len(file["parent@2"]) == len(file["parent@4"]) == tiles
    scales = np.load(home / "bags/coarser/scales.npy")
    assert set(scales.tolist()) == {2.0, 4.0}
    assert set(pd.read_csv(home / "metrics/subtype.csv")["model"]) >= {"abmil", "mixed"}
