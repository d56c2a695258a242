"""A small study whose model learns from changed tiles: from slides to its runs, each by its own pairs."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import yaml
from studies import Snakemake

pytestmark = pytest.mark.workflow

RECIPE = {"histaug": {"tiles": 3, "versions": 2, "steps": 20, "width": 8, "blocks": 1}}
STUDY = {
    "study": "changed",
    "cohort": {"name": "changed", "simulate": {"patients": 12, "size_px": [1000, 1200]}},
    "tissue": {"method": "classical"},
    "tiles": {"mpp": 1.0, "size": 112},
    "splits": {"folds": 2},
    "tasks": [{"name": "subtype", "kind": "classification", "target": "subtype"}],
    "models": {"changed": {"aggregator": "abmil", "recipe": RECIPE, "training": {"epochs": 2}}},
}
RUNS = "results/studies/changed/runs/subtype/changed/runs.parquet"


def test_pairs_are_made_and_learnt_from(snakemake: Snakemake, tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(STUDY))
    snakemake(study, tmp_path, "--rerun-incomplete", RUNS)
    folder = tmp_path / "results/cohorts/changed/features/1um_112px/builtin/pairs/i0.2_t3_v2"
    index = pd.read_parquet(folder / "shard-0.parquet")
    assert (index["status"] == "ok").all() and (index["n_tiles"] == 3).all()
    assert len(list(folder.glob("*.h5"))) == len(index) >= 12
    for run in ("r0f0", "r0f1"):
        history = pd.read_csv((tmp_path / RUNS).parent / run / "history.csv")
        assert history[["histaug_generated", "histaug_original", "histaug_changed"]].notna().all(axis=None)
    assert "Nothing to be done" in snakemake(study, tmp_path, "--dry-run", RUNS).stdout

    # other changes are other pairs; what was there stays
    recipe = {"histaug": RECIPE["histaug"] | {"intensity": 0.5}}
    models = {"changed": STUDY["models"]["changed"] | {"recipe": recipe}}
    study.write_text(yaml.safe_dump(STUDY | {"models": models}))
    plan = snakemake(study, tmp_path, "--dry-run", RUNS).stdout
    jobs = {line.split()[0]: line.split()[1] for line in plan.split("Job stats:")[1].splitlines()[3:7] if line}
    assert jobs == {"pairs": "1", "train": "1", "total": "2"}
