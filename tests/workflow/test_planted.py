"""Studies of drawn features: what was planted is found, a site's leak shows, and nothing is found of nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from studies import Snakemake, committed_study

pytestmark = pytest.mark.workflow


def _run(snakemake: Snakemake, folder: Path, name: str, **changes: object) -> Path:
    snakemake(committed_study(name, folder, **changes), folder, "--cores", "2")
    return folder / "results" / "studies" / name


def _scores(home: Path, task: str, metric: str) -> pd.DataFrame:
    table = pd.read_csv(home / "metrics" / f"{task}.csv")
    return table[table["metric"] == metric].set_index("model")


def test_a_site_counts_as_skill_only_where_it_sits_on_both_sides(snakemake: Snakemake, tmp_path: Path) -> None:
    leaky = _scores(_run(snakemake, tmp_path, "planted_site_leaky"), "os", "c_harrell")
    preserved = _run(snakemake, tmp_path, "planted_site_preserved")
    gap = leaky["estimate"] - _scores(preserved, "os", "c_harrell")["estimate"]
    assert gap["abmil"] > 0.05 and gap["mean"] > 0.05  # models of the tiles, which carry their site's look
    assert abs(gap["clinical"]) < 0.03  # age, stage and grade do not
    assert json.loads((preserved / "leakage.json").read_text())["ok"]


def test_the_planted_hazard_ratios_and_genes_are_found(snakemake: Snakemake, tmp_path: Path) -> None:
    models = {"mean_cox": {"aggregator": "mean", "training": {"loss": "cox"}}}
    home = _run(snakemake, tmp_path, "planted_survival", models=models, modalities={}, compare={"resamples": 500})
    curves = json.loads((home / "tables" / "os_curves.json").read_text())["cox"]
    cox = pd.DataFrame(curves["data"], columns=curves["columns"])
    cox = cox[(cox["model"] == "mean_cox") & (cox["analysis"] == "multivariable")].set_index("term")
    two = cox.loc["high_grade (per unit)"]  # planted: 2
    assert two["low"] < 2 < two["high"] and two["low"] > 1
    genes = pd.read_csv(home / "metrics" / "genes.csv").query("metric == 'pearson' and gene != 'all'")
    truth = json.loads((tmp_path / "results/cohorts/planted/simulated/truth.json").read_text())["expression"]
    mine = genes[genes["model"] == "mean_cox"].set_index("gene")
    assert (mine.loc[list(truth["r"]), "q"] < 0.05).all()
    others = mine.drop(index=[*truth["r"], *truth["through_what_is_shared"]])
    assert (others["q"] < 0.05).mean() <= 0.1
    assert "Planted and found" in (home / "report.html").read_text()


def test_of_shuffled_outcomes_every_model_is_at_chance(snakemake: Snakemake, tmp_path: Path) -> None:
    home = _run(snakemake, tmp_path, "planted_null", compare={"resamples": 500})
    for task, metric in (("os_null", "c_harrell"), ("subtype_null", "auroc")):
        table = _scores(home, task, metric).drop(index="prior")
        assert ((table["low"] < 0.5) & (table["high"] > 0.5)).all()
