"""A study without slides: published risks and a network of a table, from three CSV files to the report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from studies import Snakemake

pytestmark = pytest.mark.workflow
N, FOLDS = 120, 3
IDS = [f"p{i:03d}" for i in range(N)]


def _study(folder: Path, *, without: str | None = None) -> Path:
    """Patients whose hazard follows one latent; published risks and a table that both know it."""
    rng = np.random.default_rng(4)
    latent = rng.normal(size=N)
    died, left = rng.exponential(900 * np.exp(-1.5 * latent)), rng.uniform(200, 3000, N)
    patients = {"patient_id": IDS, "os_days": np.ceil(np.minimum(died, left)), "os_event": (died <= left).astype(int)}
    pd.DataFrame(patients | {"fold": np.arange(N) % FOLDS}).to_csv(folder / "patients.csv", index=False)
    risks = pd.DataFrame({"patient_id": IDS, "fold": np.arange(N) % FOLDS, "risk": latent + rng.normal(0, 0.3, N)})
    risks[risks["patient_id"] != without].to_csv(folder / "risks.csv", index=False)
    genes = rng.normal(size=(N, 8)) + np.outer(latent, [1.5, 1.5, -1.5, 0, 0, 0, 0, 0])
    table = pd.DataFrame(genes, columns=[f"g{k}" for k in range(8)]).assign(patient_id=IDS)
    table.iloc[5:].to_csv(folder / "rna.csv", index=False)  # five patients without expression
    training = {"epochs": 15, "lr": 0.01, "loss": "cox", "epoch": "last"}
    snn = {"aggregator": "snn", "modalities": ["rna"], "options": {"width": 16, "blocks": 1}, "training": training}
    task = {"kind": "survival", "time": "os_days", "event": "os_event", "horizons": [365]}
    study = {
        "study": "tables_only",
        "cohort": {"name": "tables_only", "patients": "patients.csv"},
        "splits": {"column": "fold"},
        "tasks": [{"name": "os"} | task, {"name": "os_null", "permute": 1} | task],
        "modalities": {"rna": {"table": "rna.csv"}},
        "models": {"published": {"predictions": "risks.csv"}, "snn": snn},
        "compare": {"reference": "published", "resamples": 200},
    }
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(study, sort_keys=False))
    return file


def test_from_three_tables_to_the_report(snakemake: Snakemake, tmp_path: Path) -> None:
    snakemake(_study(tmp_path), tmp_path, "--cores", "1")
    home = tmp_path / "results/studies/tables_only"
    names = ["report.html", "splits.csv", "table_one.csv", "cohort_flow.json", "tables/modalities.csv"]
    names += [f"{kind}/{task}.csv" for kind in ("metrics", "comparison") for task in ("os", "os_null")]
    assert [name for name in names if not (home / name).is_file()] == []
    assert not (tmp_path / "results/cohorts/tables_only/features").exists()

    def concordance(task: str) -> pd.DataFrame:
        metrics = pd.read_csv(home / f"metrics/{task}.csv")
        return metrics[metrics["metric"] == "c_harrell"].set_index("model")

    found, null = concordance("os"), concordance("os_null")
    assert set(found.index) == {"prior", "published", "snn"}  # no mean of tiles where there are none
    assert (found["n"] == N).all()
    assert found.loc["published", "low"] > 0.7 and found.loc["snn", "low"] > 0.6, found
    assert found.loc["prior", "estimate"] == 0.5
    assert null.loc["snn", "low"] < 0.5 < null.loc["snn", "high"] and abs(null.loc["snn", "estimate"] - 0.5) < 0.12
    assert null.loc["published", "low"] < 0.5 < null.loc["published", "high"]
    splits = pd.read_csv(home / "splits.csv").query("part == 'test'")
    assert dict(zip(splits["patient_id"], splits["fold"], strict=True)) == {p: i % FOLDS for i, p in enumerate(IDS)}
    counts = pd.read_csv(home / "tables/modalities.csv").set_index("modality")
    assert counts.loc["rna", ["columns", "patients", "missing"]].tolist() == [8, N - 5, 5]
    assert "snn" in (home / "report.html").read_text()


def test_published_risks_without_one_patient_are_one_clear_line(snakemake: Snakemake, tmp_path: Path) -> None:
    target = "results/studies/tables_only/runs/os/published/runs.parquet"
    done = snakemake(_study(tmp_path, without="p007"), tmp_path, "--cores", "1", target, check=False)
    assert done.returncode != 0
    logs = [file.read_text() for file in (tmp_path / "logs").rglob("*published*.log")]
    lines = [line for text in [done.stderr, *logs] for line in text.splitlines() if line.startswith("error: ")]
    assert lines and all(words in lines[0] for words in ("risks.csv", "p007", "fold 1")), (lines, done.stderr[-2000:])
    assert "Traceback" not in done.stderr + "".join(logs)
