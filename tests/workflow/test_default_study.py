"""The default study: what was planted is found, what was not is not, and only what changed runs again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from studies import ROOT, Snakemake

pytestmark = pytest.mark.workflow


def _study(folder: Path, **changes: object) -> Path:
    """The default study with fewer resamples."""
    study = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    study["cohort"] = {"name": "simulated", "simulate": {"patients": 80}, "shard_size": 32}
    study["compare"] = {"reference": "abmil", "resamples": 500}
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(study | changes, sort_keys=False))
    return file


@pytest.fixture(scope="module")
def home(snakemake: Snakemake, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run; the first try is killed half-way, as a cluster or a lid would."""
    folder = tmp_path_factory.mktemp("simulated")
    study = _study(folder)
    command = [
        sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder),
        "--cores", "2", "--configfile", str(study),
    ]  # fmt: skip
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    features = folder / "results/cohorts/simulated/features/1um_224px/builtin"
    limit = time.monotonic() + 300
    while len(list(features.glob("[!.]*.h5"))) < 5 and time.monotonic() < limit and first.poll() is None:
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    before = {p: p.stat().st_mtime_ns for p in features.glob("[!.]*.h5")}
    assert 5 <= len(before) < 80
    snakemake(study, folder, "--unlock")
    snakemake(study, folder)
    again = [p.name for p, written in before.items() if p.stat().st_mtime_ns != written]
    assert len(again) <= 2, f"finished slides were done again: {again}"
    assert list(features.glob(".*.h5")) == [], "half a file is left"
    return folder / "results/studies/simulated"


def _metric(home: Path, task: str, metric: str) -> pd.DataFrame:
    table = pd.read_csv(home / "metrics" / f"{task}.csv")
    return table[table["metric"] == metric].set_index("model")


def test_the_results_tree_is_that_of_the_contract(home: Path) -> None:
    names = ["study.yaml", "splits.csv", "leakage.json", "cohort_flow.json", "table_one.csv", "report.html"]
    names += ["ro-crate-metadata.json", "provenance.jsonl"]
    assert [n for n in names if not (home / n).is_file()] == []
    for task in ("subtype", "os", "stroma", "genes"):
        run = home / "runs" / task / "abmil" / "r0f0"
        assert {p.name for p in run.iterdir()} >= {"weights.safetensors", "predictions.parquet", "history.csv"}
        assert pd.read_parquet(home / "predictions" / task / "abmil.parquet")["patient_id"].is_unique
        metrics = pd.read_csv(home / "metrics" / f"{task}.csv")
        assert list(metrics.columns)[:3] == ["task", "model", "metric"]
        assert {"estimate", "low", "high", "n", "events"} <= set(metrics.columns)
        comparison = pd.read_csv(home / "comparison" / f"{task}.csv")
        assert {"model", "reference", "difference", "low", "high", "p", "p_adjusted"} <= set(comparison.columns)
    assert list((home / "figures").glob("*.svg"))
    assert json.loads((home / "leakage.json").read_text())["ok"] is True


def test_what_was_planted_is_found(home: Path) -> None:
    subtype = _metric(home, "subtype", "auroc")
    best = subtype.loc[["max", "abmil"]]
    assert best["estimate"].max() > 0.8, subtype
    assert best.loc[best["estimate"].idxmax(), "low"] > 0.5
    survival = _metric(home, "os", "c_harrell")
    assert survival.loc[["mean", "abmil"], "estimate"].max() > 0.58, survival
    stroma = _metric(home, "stroma", "pearson")
    assert stroma.loc["abmil", "low"] > 0.5, stroma
    genes = pd.read_csv(home / "metrics/genes.csv").query("model == 'mean' and metric == 'pearson' and gene != 'all'")
    truth = json.loads((home.parents[1] / "cohorts/simulated/simulated/truth.json").read_text())
    driven = truth["expression"]["r"]
    estimates = genes.set_index("gene")["estimate"]
    assert estimates[sorted(driven)].mean() > 0.3, estimates
    assert abs(estimates.drop(sorted(driven)).mean()) < 0.2, estimates


def test_controls_know_nothing(home: Path) -> None:
    assert _metric(home, "subtype", "auroc").loc["prior", "estimate"] == 0.5
    assert _metric(home, "os", "c_harrell").loc["prior", "estimate"] == 0.5


def test_a_second_run_has_nothing_to_do(home: Path, snakemake: Snakemake) -> None:
    folder = home.parents[2]
    assert "Nothing to be done" in snakemake(folder / "study.yaml", folder, "--dry-run").stdout


def test_a_copy_elsewhere_has_nothing_to_do(home: Path, snakemake: Snakemake, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    shutil.copytree(home.parents[2], folder, ignore=shutil.ignore_patterns(".snakemake", "logs"))
    for file in folder.rglob("*"):  # as a checkout does: new times, in no order
        os.utime(file, (1e9 + len(file.name),) * 2)
    assert "Nothing to be done" in snakemake(folder / "study.yaml", folder, "--dry-run").stdout
    (folder / "results/studies/simulated/provenance.jsonl").unlink()
    shutil.rmtree(folder / ".snakemake")
    refused = snakemake(folder / "study.yaml", folder, "--dry-run", check=False)
    assert refused.returncode == 2 and "no record of how they were made" in refused.stderr


def test_one_changed_model_runs_again_and_nothing_else_does(home: Path, snakemake: Snakemake) -> None:
    folder = home.parents[2]
    models = {"mean": {"aggregator": "mean"}, "max": {"aggregator": "max"}}
    models["abmil"] = {"aggregator": "abmil", "training": {"lr": 0.0007}}
    study = _study(folder, models=models)
    plan = snakemake(study, folder, "--dry-run").stdout
    jobs = {line.split()[0]: int(line.split()[1]) for line in plan.split("Job stats:")[1].splitlines()[3:] if line}
    jobs = dict(list(jobs.items())[: list(jobs).index("total") + 1])
    once = dict.fromkeys(("all", "overview", "summary", "figures", "report"), 1)
    assert jobs == once | {"evaluate": 4, "train": 4, "total": 13}
    _study(folder)


def test_snakemakes_own_report_is_written(home: Path, snakemake: Snakemake) -> None:
    folder = home.parents[2]
    snakemake(folder / "study.yaml", folder, "--report", "snakemake.zip")
    assert (folder / "snakemake.zip").stat().st_size > 50_000


def test_bad_input_is_one_line_and_exit_code_2(home: Path, snakemake: Snakemake, tmp_path: Path) -> None:
    study = _study(tmp_path, tisue={"method": "otsu"})
    done = snakemake(study, tmp_path, check=False)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "tisue: unknown key, did you mean 'tissue'?" in errors[0]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "results").exists()
