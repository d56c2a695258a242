"""A checkout whose studies are released: the real records and DVC, on a workflow given as a text."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

import histostudy
from histostudy.provenance.pipeline import pipeline_text

IGNORED = "/results/**\n!/results/**/\n!/results/summary/*\n/.snakemake/\n__pycache__/\n"


def run(folder: Path, *command: str) -> str:
    """Run a tool of this environment and return what it printed."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        command, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def study_text(name: str, **more: object) -> str:
    """A study file of a simulated cohort `c`."""
    return yaml.safe_dump({"study": name, "cohort": {"name": "c", "simulate": {"patients": 12}}} | more)


def make_checkout(folder: Path, snakefile: str, script: str = "") -> Path:
    """A checkout with the studies `other` and `s` and the given workflow, committed, with DVC but no remote."""
    for name in ("config/studies", "workflow", "profiles/default"):
        (folder / name).mkdir(parents=True)
    package = Path(histostudy.__file__).parent
    shutil.copytree(package, folder / "src/histostudy", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "Snakefile").write_text(snakefile)
    (folder / "workflow/Snakefile").touch()
    (folder / "workflow/make.py").write_text(script)
    (folder / "profiles/default/profile.yaml").write_text("max-checksum-file-size: 100GB\n")
    (folder / ".gitignore").write_text(IGNORED)
    (folder / "config/config.yaml").write_text(study_text("other"))
    (folder / "config/studies/s.yaml").write_text(study_text("s"))
    (folder / "dvc.yaml").write_text(pipeline_text(folder))
    run(folder, "git", "init", "--quiet", "--initial-branch", "main")
    for key, value in (("user.name", "Somebody"), ("user.email", "somebody@example.org")):
        run(folder, "git", "config", key, value)
    run(folder, "dvc", "init", "--quiet")
    run(folder, "dvc", "config", "core.analytics", "false")
    run(folder, "git", "add", ".")
    run(folder, "git", "commit", "--quiet", "-m", "start")
    return folder
