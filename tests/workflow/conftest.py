"""Run whole studies the way a user does, in a folder of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from studies import ROOT, Snakemake


@pytest.fixture(scope="session")
def snakemake() -> Snakemake:
    """Run snakemake on a study file in a folder; returns the finished process with its output as text."""

    def call(study: Path, folder: Path, *options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder),
            "--cores", "2", "--configfile", str(study), *options,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if check and done.returncode:
            pytest.fail(f"snakemake ended with {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}")
        return done

    return call
