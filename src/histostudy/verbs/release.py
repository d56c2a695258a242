"""The verbs that pin a version of a study and bring one back: git for what is small, DVC for the rest."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

from histostudy.errors import ConfigError, StudyError
from histostudy.layout import Layout
from histostudy.provenance.pipeline import artifact_name, data_of, study_files
from histostudy.study import Study
from histostudy.studyfile import read_study_file

logger = logging.getLogger(__name__)

VERSION = re.compile(r"v?(\d+)(?:\.(\d+))?(?:\.(\d+))?")


class ReleaseError(StudyError):
    """A version cannot be pinned or brought back as things are."""


class Versioned:
    """A study of a checkout that git and DVC keep versions of.

    Parameters
    ----------
    name : str
        The study's name.
    root : Path
        The checkout.

    Raises
    ------
    ConfigError
        If no study file of the checkout has this name.
    """

    def __init__(self, name: str, root: Path = Path()) -> None:
        self.root = root
        found = {read_study_file(root / file).get("study"): file for file in study_files(root)}
        if name not in found:
            known = ", ".join(sorted(str(key) for key in found))
            raise ConfigError(f"no study {name!r} in config/", todo=f"known: {known}")
        self.file = found[name]
        self.study = Study.model_validate(read_study_file(root / self.file))
        self.name = name

    @property
    def stages(self) -> list[str]:
        """The study's stages in `dvc.yaml`, in their order."""
        return [*([f"features@{self.study.cohort.name}"] if self.study.has_slides else []), f"study@{self.name}"]

    @property
    def written(self) -> list[str]:
        """What a run of the study changes in the tree that git keeps."""
        return ["dvc.lock", *(f"{Layout(self.study).summary}.{suffix}" for suffix in ("json", "csv"))]

    def call(self, *command: str, refused: str = "", todo: str = "") -> str:
        """Run a tool of this environment in the checkout and return what it printed.

        Raises
        ------
        ReleaseError
            With `refused` and the last line the tool said, if it failed.
        """
        environment = os.environ | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
        source = self.root.resolve() / "src"
        if source.is_dir():  # the code of this checkout, not of the one that is installed
            environment["PYTHONPATH"] = str(source)
        done = subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines() or [f"{command[0]} failed"]
            raise ReleaseError(f"{refused or ' '.join(command[:2])}: {said[-1]}", todo=todo or "see what it says")
        return done.stdout

    @property
    def tracked(self) -> tuple[list[str], list[str]]:
        """The `.dvc` files that hold the study's data, and what of its data neither DVC nor git keeps."""
        held, lost = [], []
        for path in dict.fromkeys(data_of(self.study, self.file)):
            notes = [p.with_name(f"{p.name}.dvc") for p in (path, *path.parents) if p.name]
            note = next((note for note in notes if (self.root / note).is_file()), None)
            if note is not None:
                held.append(str(note))
            elif not self.call("git", "ls-files", "--", str(path)).strip():
                lost.append(str(path))
        return list(dict.fromkeys(held)), lost

    def unsaved(self) -> list[str]:
        """Results that differ from what DVC keeps, and would be lost by a checkout of others."""
        status = json.loads(self.call("dvc", "status", "--json", *self.stages))
        outs = [part.get("changed outs", {}) for parts in status.values() for part in parts if isinstance(part, dict)]
        return [path for found in outs for path in found if (self.root / path).exists()]

    def changed(self) -> list[str]:
        """Files that differ from the last commit or that git does not know, but for what a run writes."""
        lines = self.call("git", "status", "--porcelain", "--untracked-files=all").splitlines()
        return [line[3:] for line in lines if line[3:].strip('"') not in self.written]

    def left_to_do(self) -> str:
        """What Snakemake would still do; nothing where all results hold."""
        said = self.call("snakemake", "--cores", "1", "--configfile", str(self.file), "--dry-run", refused="the plan")
        return "" if "Nothing to be done" in said else next((line for line in said.splitlines() if line), "jobs")

    def tag(self, version: str) -> str:
        """The tag of a version: ``study/<name>/<version>``."""
        return f"study/{self.name}/{version}"

    def existing(self, version: str) -> str:
        """The tag of a version that was released.

        Raises
        ------
        ReleaseError
            If there is none, with those there are.
        """
        tags = self.call("git", "tag", "--list", self.tag("*")).split()
        if self.tag(version) not in tags:
            known = ", ".join(tag.rpartition("/")[2] for tag in tags)
            raise ReleaseError(f"no version {version} of {self.name}", todo=f"known: {known or 'none'}")
        return self.tag(version)


def release(name: str, version: str, root: Path = Path()) -> str:
    """Pin a version of a study: its data, results and models in DVC's remote, the rest in git.

    Parameters
    ----------
    name, version : str
        The study; the version, such as ``v1`` or ``1.2.0``.
    root : Path
        The checkout.

    Returns
    -------
    str
        The tag.

    Raises
    ------
    ReleaseError
        If the tree is dirty, `dvc status` is not clean, the plan is not empty, the version exists, DVC has no remote,
        or neither git nor DVC keeps the study's tables. Nothing is changed then.
    """
    one, number = Versioned(name, root), _number(version)
    data, lost = one.tracked
    if lost:
        raise ReleaseError("neither git nor DVC keeps this file", where=lost[0], todo=f"dvc add {lost[0]}")
    if changed := one.changed():
        raise ReleaseError(f"{len(changed)} file(s) are not committed", where=changed[0], todo="commit or remove them")
    if one.call("git", "tag", "--list", one.tag(version), f"{artifact_name(name)}@{number}").strip():
        raise ReleaseError(f"there is a version {version} of {name}", todo="choose the next one")
    if not one.call("dvc", "remote", "list").strip():
        raise ReleaseError("DVC has no remote to push to", todo="dvc remote add --default storage PATH_OR_URL")
    if left := one.left_to_do():
        raise ReleaseError(f"the study is not finished ({left})", todo=f"dvc repro {one.stages[-1]}")
    if status := json.loads(one.call("dvc", "status", "--json", *one.stages)):
        raise ReleaseError(f"dvc status is not clean: {next(iter(status))}", todo=f"dvc repro {one.stages[-1]}")
    one.call("dvc", "push", *one.stages, *data, refused="dvc push", todo="check the remote: dvc remote list")
    one.call("git", "add", "--force", "--", *(file for file in one.written if (root / file).exists()))
    if one.call("git", "diff", "--cached", "--name-only").strip():
        one.call(
            "git", "commit", "--quiet", "--message", f"{name} {version}", todo="set git's user.name and user.email"
        )
    one.call("git", "tag", "--annotate", one.tag(version), "--message", f"{name} {version}")
    one.call("gto", "register", artifact_name(name), "--version", number, "--message", f"{name} {version}")
    logger.info("%s: pushed, tagged %s, models registered as %s", name, version, artifact_name(name))
    return one.tag(version)


def restore(name: str, version: str, root: Path = Path(), into: Path | None = None) -> str:
    """Bring a version of a study back, and prove that nothing of it is left to do.

    Parameters
    ----------
    name, version : str
        As given to `release`.
    root : Path
        The checkout.
    into : Path, optional
        A new folder for it (a git worktree, sharing DVC's cache). Default: the checkout itself moves to the tag.

    Returns
    -------
    str
        The tag.

    Raises
    ------
    ReleaseError
        If there is no such version, the tree is dirty, the data are not in the remote, or something is left to do.
    """
    one = Versioned(name, root)
    tag = one.existing(version)
    if into is None:
        if changed := one.changed():
            raise ReleaseError(f"{len(changed)} file(s) are not committed", where=changed[0], todo="commit them first")
        if unsaved := one.unsaved():
            raise ReleaseError(
                "these results are kept nowhere else",
                where=unsaved[0],
                todo=f"dvc commit {one.stages[-1]}, or use --into",
            )
        # what a run wrote since is in the way of the checkout, and of no version
        one.call("git", "checkout", "--quiet", "--force", tag)
        there = Versioned(name, root)
    else:
        one.call("git", "worktree", "add", "--detach", str(into.resolve()), tag, todo="name a folder that is not there")
        there = Versioned(name, into)
        there.call("dvc", "cache", "dir", "--local", one.call("dvc", "cache", "dir").strip())
    there.call(
        "dvc",
        "pull",
        "--force",
        *there.stages,
        *there.tracked[0],
        refused="dvc pull",
        todo="check the remote: dvc remote list",
    )
    if left := there.left_to_do():
        raise ReleaseError(f"{tag} is here, but not whole ({left})", todo="see `snakemake --dry-run`")
    logger.info("%s is here: nothing is left to do", tag)
    return tag


def _number(version: str) -> str:
    """A version as the registry wants it: ``v1`` -> ``v1.0.0``."""
    match = VERSION.fullmatch(version)
    if match is None:
        raise ConfigError(f"version {version!r} is not a number", todo="such as v1 or 1.2.0")
    return "v" + ".".join(part or "0" for part in match.groups())
