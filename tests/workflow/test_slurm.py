"""A study on a cluster is the study on this machine: a real Slurm, of one node with two GPUs that are none."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import slurm
from studies import ROOT, Snakemake

pytestmark = [pytest.mark.workflow, pytest.mark.slow]
PROFILES = ("--profile", str(ROOT / "profiles/slurm"), "--workflow-profile", str(ROOT / "profiles/slurm-ci"))
#: Longer than any of the small workflows takes on a busy machine; a run that waits for a job for ever ends here.
LIMIT_SECONDS = 400


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[slurm.Cluster]:
    if (reason := slurm.why_not()) is not None:
        pytest.skip(reason)
    with slurm.cluster(tmp_path_factory.mktemp("slurm")) as up:
        yield up


@pytest.fixture(scope="module")
def local(cluster: slurm.Cluster, snakemake: Snakemake, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the default study, run here."""
    folder = tmp_path_factory.mktemp("local")
    shutil.copy(ROOT / "config/config.yaml", folder / "study.yaml")
    snakemake(folder / "study.yaml", folder)
    return folder


@pytest.fixture(scope="module")
def remote(cluster: slurm.Cluster, snakemake: Snakemake, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the default study, run by Slurm; embedding and training ask for a GPU."""
    folder = tmp_path_factory.mktemp("remote")
    shutil.copy(ROOT / "config/config.yaml", folder / "study.yaml")
    snakemake(folder / "study.yaml", folder, *PROFILES, "--set-resources", "embed:gpu=1", "train:gpu=1")
    return folder


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in (folder / "results").rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_results_are_those_of_a_local_run(local: Path, remote: Path) -> None:
    here, there = _hashes(local), _hashes(remote)
    assert sorted(here) == sorted(there)
    assert len(here) > 300
    assert {name for name in here if here[name] != there[name]} == set()
    # the records among them: which job made what, by what and from what
    records = [json.loads(line) for line in (remote / "results/studies/simulated/provenance.jsonl").open()]
    assert {"train", "evaluate", "report"} <= {line["record"]["rule"] for line in records}


def test_the_clusters_results_are_good_here(remote: Path, snakemake: Snakemake) -> None:
    assert "Nothing to be done" in snakemake(remote / "study.yaml", remote, "--dry-run").stdout
    # and without Snakemake's own memory of the run, as in a clone
    shutil.rmtree(remote / ".snakemake")
    assert "Nothing to be done" in snakemake(remote / "study.yaml", remote, "--dry-run").stdout


def test_every_gpu_job_saw_one_device_of_its_own(cluster: slurm.Cluster, remote: Path) -> None:
    steps = [step for step in cluster.steps() if step.job.startswith("rule_")]
    asked = [step for step in steps if step.job.startswith(("rule_embed", "rule_train"))]
    runs = sorted((remote / "results/studies/simulated/runs").rglob("runs.parquet"))
    shards = sorted((remote / "results/cohorts/simulated/features").rglob("shard-*.parquet"))
    assert len([step for step in asked if step.word == "began"]) == len(runs) + len(shards)
    assert {len(step.devices) for step in asked} == {1}
    assert {step.devices for step in steps if step not in asked} == {()}
    busy: set[str] = set()
    most = 0
    for step in asked:
        (device,) = step.devices
        if step.word == "began":
            assert device not in busy, f"{step.job} was given a device that another job had"
            busy.add(device)
        else:
            busy.remove(device)
        most = max(most, len(busy))
    assert most == slurm.GPUS


def _workflow(folder: Path, text: str) -> list[str]:
    """A small workflow in a folder, and the command that runs it on the cluster."""
    (folder / "Snakefile").write_text(textwrap.dedent(text))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(folder / "Snakefile"), "--directory", str(folder)]
    return [*command, *PROFILES]


HUNGRY = """
    rule hungry:
        output:
            "eaten.txt",
        params:
            program="import sys, time; food = b'x' * 600_000_000; time.sleep(8); print(len(food))",
        shell:
            "echo {resources.mem_mb} >> asked.txt; "
            "'{sys.executable}' -c {params.program:q} > {output}"
"""


def test_a_job_killed_for_memory_is_tried_again_with_more(cluster: slurm.Cluster, tmp_path: Path) -> None:
    command = _workflow(tmp_path, "import sys\n" + textwrap.dedent(HUNGRY))
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_SECONDS)
    assert done.returncode == 0, done.stderr[-3000:]
    # the profile's: attempt * 400
    assert (tmp_path / "asked.txt").read_text().split() == ["400", "800"]
    assert (tmp_path / "eaten.txt").read_text() == "600000000\n"
    kept = (tmp_path / ".snakemake/slurm_logs").rglob("*.log")
    assert "exceeded memory limit" in "".join(log.read_text() for log in kept)


SLEEPY = """
    rule sleepy:
        output:
            "done.txt",
        resources:
            # forever, where it is not lost
            seconds=lambda wildcards, attempt: 3600 if attempt == 1 else 1,
        shell:
            "echo begun >> begun.txt; echo half > {output}; sleep {resources.seconds}; echo whole > {output}"
"""


@pytest.mark.parametrize("lost", ["job", "node"])
@pytest.mark.parametrize("retries", [1, 0])
def test_a_lost_job_is_noticed(cluster: slurm.Cluster, tmp_path: Path, lost: str, retries: int) -> None:
    begun = tmp_path / "begun.txt"
    command = [*_workflow(tmp_path, SLEEPY), "--retries", str(retries)]
    log = tmp_path / "snakemake.log"
    with log.open("w") as stream:
        run = subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True)
    try:
        cluster.wait(lambda: begun.exists() or run.poll() is not None, LIMIT_SECONDS)
        (job,) = cluster.jobs("RUNNING")
        if lost == "job":
            subprocess.run(["scancel", "--signal=KILL", "--full", job], check=True)
        else:
            cluster.lose_node()
            cluster.start_node()
        code = run.wait(LIMIT_SECONDS)
    finally:
        if run.poll() is None:
            os.killpg(run.pid, 9)
    said = log.read_text()
    assert begun.read_text().split() == ["begun"] * (1 + retries)
    if retries:
        assert code == 0, said[-3000:]
        assert "Trying to restart job" in said
        assert (tmp_path / "done.txt").read_text() == "whole\n"
    else:
        assert code == 1, said[-3000:]
        assert f"SLURM-job '{job}' failed" in said, said[-3000:]
        # what the job left half-written is nobody's result
        assert not (tmp_path / "done.txt").exists()
