"""`histostudy doctor`: what this machine and a study file lack, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import typer

from histostudy.errors import StudyError
from histostudy.files import sha256
from histostudy.provenance.environment import compare, normalised, python_version, read_lock
from histostudy.provenance.versions import LOCK

#: Free disk below which a study of real slides is likely to stop, bytes.
LITTLE_DISK = 5 << 30
#: How many distributions that differ are named one by one.
SHOWN = 20
#: What is said of a check: as it should be, worth knowing, to be put right before a study runs.
OK, NOTE, FIX = "ok  ", "note", "FIX "
#: The machines that the lock's files are for.
MACHINE = "Linux x86_64"


def examine(study: Path | None, *, strict: bool = False) -> int:
    """Print one line a check.

    Parameters
    ----------
    study : Path, optional
        Study file to check too.
    strict : bool
        Fail where the machine differs from the lock.

    Returns
    -------
    int
        2 if something must be fixed before a study runs, 0 otherwise. Another version than the lock's is no such
        thing: the study runs, and its records say with what, but nobody can promise the same bytes. `strict` is for
        those who need that promise.
    """
    lock = _environment(LOCK)
    lines = [*lock, _disk(), *_device(), *([] if study is None else _study(study))]
    for level, text in lines:
        typer.echo(f"{level} {text}")
    return 2 if any(level == FIX for level, _ in lines) or (strict and any(level != OK for level, _ in lock)) else 0


def _environment(lock: Path) -> list[tuple[str, str]]:
    """What differs from the lock, and whether the bytes of results can be expected to be the same."""
    machine = f"{platform.system()} {platform.machine()}"
    here = f"Python {platform.python_version()} on {machine}"
    if not lock.is_file():
        return [(NOTE, f"{here}; no lock beside this package (it is not a checkout): versions were not compared")]
    pins = read_lock(lock)
    found = compare(pins)
    python = python_version(lock.parents[1])
    alike = platform.python_version().startswith(f"{python}.") and machine == MACHINE
    lines = [(OK if alike else NOTE, here + ("" if alike else f": the lock is for Python {python} on {MACHINE}"))]
    counts = f"{found.equal} of {len(pins)} packages are those of {lock.name} (SHA-256 {sha256(lock)[:16]})"
    if not found.same:
        counts += f", {len(found.other)} have another version, {len(found.missing)} are missing: run `make install`"
    lines.append((OK if found.same else NOTE, counts))
    needed = _required()
    stops = [name for name in found.missing if name in needed]
    differ = [(FIX if name in needed else NOTE, f"{name} is missing ({found.missing[name]})") for name in stops]
    differ += [(NOTE, f"{name} {have}, pinned {wanted}") for name, (have, wanted) in found.other.items()]
    differ += [(NOTE, f"{name} is missing ({v})") for name, v in found.missing.items() if name not in stops]
    shown = max(SHOWN, len(stops))
    lines += [(level, f"  {text}") for level, text in differ[:shown]]
    if len(differ) > shown:
        lines.append((NOTE, f"  and {len(differ) - shown} more"))
    if found.same and alike:
        lines.append(
            (OK, "results can be expected to have the bytes of other machines with this lock and this processor")
        )
    else:
        lines.append((NOTE, "results may differ in their bytes from those made with the lock"))
    return lines


def _required() -> set[str]:
    """What no verb runs without: the package's own requirements, extras left out."""
    try:
        wanted = importlib.metadata.requires("histostudy") or []
    except importlib.metadata.PackageNotFoundError:  # run from its source, not installed
        return set()
    plain = [text for text in wanted if "extra ==" not in text]
    return {normalised(match[0]) for text in plain if (match := re.match(r"[\w.-]+", text))}


def _disk() -> tuple[str, str]:
    free = shutil.disk_usage(".").free
    text = f"{free / 2**30:.0f} GiB of disk free"
    return (OK, text) if free > LITTLE_DISK else (FIX, f"{text}: make room for features and results")


def _device() -> list[tuple[str, str]]:
    """Cores and kernels, and each GPU with its driver: sums on another kind of processor round otherwise."""
    cores = f"{os.cpu_count()} cores"
    try:
        import torch
    except ImportError:  # the comparison with the lock says so
        return [(OK, cores)]
    cores += f", {torch.backends.cpu.get_cpu_capability()} kernels"
    if not torch.cuda.is_available():
        return [(OK, f"{cores}, no GPU (models and encoders run on CPU)")]
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return [
        (OK, f"{cores}, {', '.join(names)}; CUDA {torch.version.cuda}, driver {_driver()}; bytes hold for this GPU")
    ]


def _driver() -> str:
    """Version of the NVIDIA driver, or ``unknown``."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown"
    return (done.stdout.splitlines() or ["unknown"])[0].strip()


def _study(path: Path) -> list[tuple[str, str]]:
    from histostudy.plan import make_plan
    from histostudy.studyfile import read_study_file

    try:
        plan = make_plan(read_study_file(path), path)
    except StudyError as error:
        return [(FIX, str(error))]
    study = plan.study
    return [
        (OK, f"{path}: study {study.study!r}, {len(study.tasks)} tasks, {len(study.models)} models"),
        (OK, f"slides in {len(plan.shards)} of {plan.n_shards} shards"),
    ]
