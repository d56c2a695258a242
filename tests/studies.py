"""What tests of whole studies share: verbs, and copies of committed studies in a folder of their own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
Snakemake = Callable[..., subprocess.CompletedProcess[str]]


def histostudy(*words: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a verb of the command line."""
    command = [sys.executable, "-m", "histostudy.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def committed_study(name: str, folder: Path, **changes: object) -> Path:
    """Copy a committed study file to where its relative paths lead into `folder`, with changed sections."""
    target = folder / "config" / "studies" / f"{name}.yaml"
    target.parent.mkdir(parents=True, exist_ok=True)
    study = yaml.safe_load((ROOT / "config" / "studies" / f"{name}.yaml").read_text())
    target.write_text(yaml.safe_dump(study | changes, sort_keys=False))
    return target


def copy_files(sources: list[Path], folder: Path) -> Path:
    """Copy files into a new folder."""
    folder.mkdir(parents=True)
    for source in sources:
        shutil.copy(source, folder / source.name)
    return folder
