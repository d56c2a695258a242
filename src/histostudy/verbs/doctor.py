"""`histostudy doctor`: what this machine and a study file lack, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
from pathlib import Path

import typer

from histostudy.errors import StudyError

LOCK = Path("envs/requirements.lock")
#: Free disk below which a study of real slides is likely to stop, bytes.
LITTLE_DISK = 5 << 30


def examine(study: Path | None) -> int:
    """Print one line a check; returns 0 if nothing must be fixed, 2 otherwise."""
    lines = [*_environment(), _disk(), _device(), *([] if study is None else _study(study))]
    for good, text in lines:
        typer.echo(f"{'ok  ' if good else 'FIX '} {text}")
    return 0 if all(good for good, _ in lines) else 2


def _environment() -> list[tuple[bool, str]]:
    if not LOCK.is_file():
        return [(False, f"no {LOCK} here: run from the folder of the histostudy checkout")]
    wrong = []
    for name, wanted in re.findall(r"^([\w.-]+)==(\S+)", LOCK.read_text(encoding="utf-8"), re.MULTILINE):
        try:
            have = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            have = "none"
        if have.split("+")[0] != wanted:
            wrong.append(f"{name} {have} (the lock says {wanted})")
    if wrong:
        return [(False, f"{len(wrong)} packages differ from {LOCK}, first {wrong[0]}: run `make install`")]
    return [(True, f"packages are those of {LOCK}")]


def _disk() -> tuple[bool, str]:
    free = shutil.disk_usage(".").free
    return free > LITTLE_DISK, f"{free / 2**30:.0f} GiB of disk free" + (
        "" if free > LITTLE_DISK else ": make room for features and results"
    )


def _device() -> tuple[bool, str]:
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU (models and encoders run on CPU)"
    return True, f"{os.cpu_count()} cores, {device}"


def _study(path: Path) -> list[tuple[bool, str]]:
    from histostudy.plan import make_plan
    from histostudy.studyfile import read_study_file

    try:
        plan = make_plan(read_study_file(path), path)
    except StudyError as error:
        return [(False, str(error))]
    study = plan.study
    return [
        (True, f"{path}: study {study.study!r}, {len(study.tasks)} tasks, {len(study.models)} models"),
        (True, f"slides in {len(plan.shards)} of {plan.n_shards} shards"),
    ]
