"""A checkout of this repository with one small study of slides on disk, versioned by git and DVC."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from studies import ROOT

NAME = "small"
STUDY = Path("config/studies") / f"{NAME}.yaml"
DATA = Path("data") / NAME
#: What the workflow is; the checkout's only study is its own.
PARTS = ("Snakefile", "workflow", "src/histostudy", "profiles/default", "envs", ".gitignore", ".dvcignore")
#: Who commits in it.
SOMEBODY = {
    f"GIT_{role}_{key}": value
    for role in ("AUTHOR", "COMMITTER") for key, value in (("NAME", "Somebody"), ("EMAIL", "somebody@example.org"))
}  # fmt: skip

Job = tuple[str, ...]


def study(lr: float = 0.001, **changes: object) -> str:
    """The small study: one outcome, two models of their own learning rates, two folds, four shards of slides."""
    few = {"epochs": 3}
    content = {
        "study": NAME,
        "seed": 3,
        "cohort": {
            "name": NAME, "slides": f"../../{DATA}/slides.csv", "patients": f"../../{DATA}/patients.csv",
            "shard_size": 4,
        },
        "tissue": {"method": "classical"},
        "tiles": {"mpp": 1.0, "size": 112, "min_tissue": 0.5},
        "features": {"encoder": "builtin"},
        "splits": {"folds": 2, "inner": 0.25},
        "tasks": [{"name": "stroma", "kind": "regression", "target": "stroma_percent"}],
        "models": {
            "mean": {"aggregator": "mean", "training": few},
            "abmil": {"aggregator": "abmil", "training": few | {"lr": lr}},
        },
        "compare": {"reference": "abmil", "resamples": 100},
    }  # fmt: skip
    return yaml.safe_dump(content | changes, sort_keys=False)


class Checkout:
    """A folder that git and DVC know, where its own code runs.

    Parameters
    ----------
    folder : Path
        Its root.
    environment : dict of str to str, optional
        More of the environment of what runs there.
    """

    def __init__(self, folder: Path, environment: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.environment = os.environ | SOMEBODY | (environment or {})
        self.environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self.environment["PYTHONPATH"] = str(folder / "src")
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)  # compiled code lies about, as it does elsewhere

    def run(self, *command: str, code: int = 0) -> str:
        """Run a command there; returns what it printed."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
        return done.stdout + done.stderr

    def clone(self, to: Path, environment: dict[str, str] | None = None) -> Checkout:
        """Somebody else's clone: git's files alone."""
        self.run("git", "clone", "--quiet", str(self.folder), str(to))
        return Checkout(to, environment)

    def jobs(self) -> set[Job]:
        """What is left to do: the rule of each job and the values of its wildcards."""
        said = self.run("snakemake", "--cores", "2", "--configfile", str(STUDY), "--dry-run", "--quiet", "host")
        found = []
        for rule, facts in re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)*)", said, re.MULTILINE):
            wildcards = re.search(r"^    wildcards: (.*)$", facts, re.MULTILINE)
            values = re.findall(r"\w+=([^,\s]+)", wildcards[1]) if wildcards else []
            found.append((rule, *values))
        assert bool(found) != ("Nothing to be done" in said), said
        assert max(Counter(found).values(), default=1) == 1
        return set(found)

    def make(self, *options: str) -> None:
        """Run the study."""
        self.run("snakemake", "--cores", "2", "--configfile", str(STUDY), *options)

    def status(self) -> str:
        """What DVC says of the study and its data."""
        return self.run("dvc", "status")

    def hashes(self) -> dict[str, str]:
        """SHA-256 of every result; DVC's notes for git are none."""
        found = (path for path in (self.folder / "results").rglob("*") if path.name != ".gitignore")
        files = sorted(path for path in found if path.is_file())
        return {str(p.relative_to(self.folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

    @contextmanager
    def edited(self, file: Path | str, new: str) -> Iterator[None]:
        """Another content of a file for a while."""
        path = self.folder / file
        old, times = path.read_bytes(), path.stat()
        path.write_text(new)
        try:
            yield
        finally:
            path.write_bytes(old)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    def read(self, file: Path | str) -> str:
        """Text of a file."""
        return (self.folder / file).read_text()


def new_checkout(folder: Path) -> tuple[Checkout, str]:
    """A checkout whose study has not run, and the row of slides.csv that is left out, of a slide on disk."""
    from histostudy.provenance.pipeline import pipeline_text
    from histostudy.simulate.cohort import simulate_cohort
    from histostudy.simulate_keys import Simulate

    for part in PARTS:
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, folder / part)
    for compiled in list(folder.rglob("__pycache__")):
        shutil.rmtree(compiled)
    (folder / STUDY).parent.mkdir(parents=True)
    (folder / STUDY).write_text(study())
    # the default study, which nobody runs here
    (folder / "config/config.yaml").write_text(study(study="other", cohort={"name": "other", "simulate": {}}))
    drawn = Simulate(patients=12, slides_extra=0.1, size_px=(1400, 1600), sites=2, genes=3)
    simulate_cohort(drawn, 3, folder / DATA)
    lines = (folder / DATA / "slides.csv").read_text().splitlines(keepends=True)
    assert len(lines) == 14, "a header, twelve patients' slides, and one patient's second"
    patients = [line.split(",")[1] for line in lines]
    second = next(i for i, patient in enumerate(patients) if patient in patients[:i])
    (folder / DATA / "slides.csv").write_text("".join(lines[:second] + lines[second + 1 :]))
    (folder / "dvc.yaml").write_text(pipeline_text(folder))
    checkout = Checkout(folder)
    checkout.run("git", "init", "--quiet", "--initial-branch", "main")
    checkout.run("dvc", "init", "--quiet")
    checkout.run("dvc", "config", "core.analytics", "false")
    shutil.copy(ROOT / ".dvcignore", folder / ".dvcignore")
    checkout.run("dvc", "add", "--quiet", str(DATA))
    checkout.run("git", "add", ".")
    checkout.run("git", "commit", "--quiet", "--message", "a study")
    return checkout, lines[second]
