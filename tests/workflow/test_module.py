"""The workflow as a module of another one: its rules before and after ours, its own configuration and folder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from studies import ROOT

pytestmark = pytest.mark.workflow
N, FOLDS = 60, 3
HANDLERS = """
onsuccess:
    histostudy.save_records()

onerror:
    histostudy.save_records()
"""
SNAKEFILE = """
configfile: "settings/outer.yaml"

rule everything:
    input: "results/best.txt"

rule count:
    input: "settings/patients.csv"
    output: "results/count.txt"
    shell: "wc -l < {{input}} > {{output}}"

module histostudy:
    snakefile: {snakefile!r}
    config: {config}
    {more}

use rule * from histostudy as histostudy_*

rule best:
    input: "results/count.txt", metrics="results/studies/small/metrics/os.csv", page=rules.histostudy_report.output
    output: "results/best.txt"
    shell: "grep -c published {{input.metrics}} > {{output}}"
{handlers}"""


def _outer(folder: Path, *, more: str = "", handlers: str = HANDLERS, config: str = 'config["study"]') -> Path:
    """A workflow that takes a study of published risks as a module; its study names files beside its configuration."""
    rng = np.random.default_rng(1)
    settings = folder / "settings"
    settings.mkdir(parents=True)
    ids = [f"p{i:02d}" for i in range(N)]
    latent = rng.normal(size=N)
    time, left = rng.exponential(900 * np.exp(-latent)), rng.uniform(200, 3000, N)
    patients = {"patient_id": ids, "os_days": np.ceil(np.minimum(time, left)), "os_event": (time <= left).astype(int)}
    pd.DataFrame(patients | {"fold": np.arange(N) % FOLDS}).to_csv(settings / "patients.csv", index=False)
    risks = pd.DataFrame({"patient_id": ids, "fold": np.arange(N) % FOLDS, "risk": latent})
    risks.to_csv(settings / "risks.csv", index=False)
    task = {"name": "os", "kind": "survival", "time": "os_days", "event": "os_event", "horizons": [365]}
    study = {
        "study": "small",
        "cohort": {"name": "small", "patients": "patients.csv"},
        "splits": {"column": "fold"},
        "tasks": [task],
        "models": {"published": {"predictions": "risks.csv"}},
        "compare": {"reference": "published", "resamples": 100},
    }
    (settings / "outer.yaml").write_text(yaml.safe_dump({"study": study, "unknown_to_histostudy": 1}))
    inner = str(ROOT / "workflow" / "Snakefile")
    text = SNAKEFILE.format(snakefile=inner, config=config, more=more, handlers=handlers)
    (folder / "Snakefile").write_text(text)
    return folder


def _snakemake(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--max-checksum-file-size", "100GB", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


def test_another_workflow_runs_a_study_and_uses_its_result(tmp_path: Path) -> None:
    folder = _outer(tmp_path / "outer")
    planned = _snakemake(folder, "-n")
    assert planned.returncode == 0, planned.stderr
    assert "rule histostudy_train:" in planned.stdout + planned.stderr
    done = _snakemake(folder)
    assert done.returncode == 0, done.stderr[-4000:]
    assert int((folder / "results/best.txt").read_text()) >= 1
    records = [json.loads(line) for line in (folder / "results/studies/small/provenance.jsonl").open()]
    targets = {record["target"] for record in records}
    assert {"results/studies/small/report.html", "results/studies/small/metrics/os.csv"} <= targets
    assert not any(target.startswith("results/best") for target in targets), "the other workflow's results are its own"
    assert (folder / "results/studies/small/ro-crate-metadata.json").is_file()

    # the results and their records, elsewhere: nothing of the study is made again
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(folder, elsewhere, ignore=shutil.ignore_patterns(".snakemake"))
    again = _snakemake(elsewhere, "-n")
    assert again.returncode == 0 and "rule histostudy_" not in again.stdout + again.stderr, again.stderr
    (elsewhere / "results/studies/small/provenance.jsonl").unlink()
    shutil.rmtree(elsewhere / ".snakemake")
    refused = _snakemake(elsewhere, "-n")
    assert refused.returncode == 2 and "no record of how they were made" in refused.stderr


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"handlers": ""}, "histostudy.save_records()` under `onsuccess:`"),
        ({"handlers": "\n# onsuccess: histostudy.save_records(), onerror: histostudy.save_records()"}, "not be kept"),
        ({"more": 'prefix: "sub"'}, "leave out `prefix`"),
        ({"config": "{}"}, "study: Field required"),
        ({"config": 'config["study"] | {"modles": {}}'}, "modles"),
    ],
)
def test_what_cannot_work_is_one_line_before_any_work(tmp_path: Path, changes: dict[str, str], words: str) -> None:
    folder = _outer(tmp_path / "outer", **changes)
    done = _snakemake(folder)
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and words in lines[0], done.stderr
    assert not (folder / "results").exists()
