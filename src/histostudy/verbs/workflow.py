"""`histostudy run`: snakemake, with a study file checked first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from histostudy.errors import ConfigError
from histostudy.studyfile import load_study


def run_workflow(study: Path, cores: int, extra: list[str]) -> int:
    """Run snakemake on a study from the folder that holds the Snakefile; returns its exit code.

    Raises
    ------
    ConfigError
        If the study file is wrong, or this is not a checkout with a Snakefile.
    """
    load_study(study)
    if not Path("Snakefile").is_file():
        raise ConfigError("no Snakefile here", where=Path.cwd(), todo="run from the folder of the histostudy checkout")
    command = [sys.executable, "-m", "snakemake", "--cores", str(cores), "--configfile", str(study), *extra]
    return subprocess.run(command, check=False).returncode
