"""The verb that sets two released versions of a study side by side, without touching the checkout."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from histostudy.errors import ConfigError
from histostudy.files import write_text
from histostudy.layout import Layout
from histostudy.provenance.environment import LOCK, PINNED
from histostudy.provenance.pipeline import data_of
from histostudy.verbs.release import ReleaseError, Versioned

if TYPE_CHECKING:
    from histostudy.report.context import FigureItem
    from histostudy.report.versions import CodeChange, StudyVersion

T = TypeVar("T")

logger = logging.getLogger(__name__)

#: The name of what lies in the checkout now.
WORKSPACE = "workspace"
#: What counts as code.
CODE = ("src", "workflow", "Snakefile")
#: A larger SVG holds images and is shown as its PNG; a larger PNG is reduced.
LARGE_BYTES = 400_000
#: Pixels across a figure that is reduced: half of the page, on a screen of two pixels a point.
REDUCED_PX = 1000


def compare_versions(name: str, first: str, second: str, root: Path = Path(), out: Path | None = None) -> Path:
    """Write one page that compares two versions of a study.

    Parameters
    ----------
    name : str
        The study.
    first, second : str
        Versions as given to `histostudy.verbs.release.release`, or ``workspace`` for the results in the checkout.
    root : Path
        The checkout; nothing in it changes.
    out : Path, optional
        The page (default: ``<study>_<first>_<second>.html`` in the working directory).

    Returns
    -------
    Path
        The page.

    Raises
    ------
    ReleaseError
        If there is no such version, or its results are neither in DVC's cache nor in the remote.
    """
    from histostudy.report.versions import render_versions

    one = Versioned(name, root)
    sides = [_Side(one, version) for version in (first, second)]
    code = _code(one, *sides)
    before, after = (side.gather() for side in sides)
    page = out or Path(f"{name}_{first}_{second}.html")
    write_text(page, render_versions(name, before, after, code))
    logger.info("%s: %s and %s compared, %.1f MB", name, first, second, page.stat().st_size / 1e6)
    return page


class _Side:
    """One of the versions, read where git and DVC keep it."""

    def __init__(self, one: Versioned, version: str) -> None:
        self.one, self.version = one, version
        #: What git calls it; empty for the working tree.
        self.revision = "" if version == WORKSPACE else one.existing(version)
        self._files: Any = None
        self._listed: dict[Path, list[str]] = {}

    @property
    def files(self) -> Any:
        """The files of the version: those of git, and those of DVC from its cache or the remote."""
        if self._files is None:
            from dvc.api import DVCFileSystem

            self._files = DVCFileSystem(str(self.one.root.resolve()), rev=self.revision)
        return self._files

    def read(self, path: Path | str) -> bytes | None:
        """The bytes of a file; None where the version has no such file.

        Raises
        ------
        ReleaseError
            If the version has it, but neither the cache nor the remote.
        """
        if not self.revision:
            file = self.one.root / path
            return file.read_bytes() if file.is_file() else None
        there = Path(path)
        if there.name not in self.names(there.parent):
            return None
        return self._asked(path, lambda: self.files.read_bytes(str(path)))

    def names(self, folder: Path) -> list[str]:
        """Names of what is in a folder, sorted; none where there is no such folder."""
        if folder not in self._listed:
            self._listed[folder] = sorted(self._listing(folder))
        return self._listed[folder]

    def _listing(self, folder: Path) -> list[str]:
        if not self.revision:
            there = self.one.root / folder
            return [path.name for path in there.iterdir()] if there.is_dir() else []

        def ask() -> list[str]:
            try:
                return [path.rsplit("/", 1)[-1] for path in self.files.ls(str(folder), detail=False)]
            except FileNotFoundError:
                return []

        return self._asked(folder, ask)

    def _asked(self, path: Path | str, ask: Callable[[], T]) -> T:
        from dvc.exceptions import DvcException
        from dvc_data.index import DataIndexDirError

        try:
            return ask()
        except (DvcException, DataIndexDirError, FileNotFoundError):
            raise ReleaseError(
                f"{self.version} has it, but neither DVC's cache nor the remote",
                where=path,
                todo="check the remote (dvc remote list), or dvc push where the version was made",
            ) from None

    def text(self, path: Path | str) -> str:
        """The text of a file; empty where the version has no such file."""
        return (self.read(path) or b"").decode("utf-8")

    def gather(self) -> StudyVersion:
        """All that is compared."""
        from histostudy.report.versions import StudyVersion

        layout = Layout(self.one.study)
        resolved = self.text(layout.home / "study.yaml") or self.text(self.one.file)
        parameters = yaml.safe_load(resolved) or {}
        cohort = layout.root / "cohorts" / str((parameters.get("cohort") or {}).get("name", ""))
        summary = self.read(layout.summary.with_name(f"{self.one.name}.csv"))
        return StudyVersion(
            name=self.version,
            commit=self.one.call("git", "rev-parse", "--short", f"{self.revision}^{{commit}}").strip()
            if self.revision
            else "",
            parameters=parameters,
            environment=self._environment(layout),
            metrics=_table(summary),
            flow=json.loads(self.text(layout.home / "cohort_flow.json") or "{}"),
            tables=self._tables(layout),
            pipeline=self._pipeline(),
            slides=self._slides(cohort / "slides.parquet"),
            figures=self._figures(layout.home / "figures", parameters),
        )

    def _environment(self, layout: Layout) -> dict[str, str]:
        """What the results were made with, as their crate says; and every package of the lock."""
        crate = json.loads(self.text(layout.home / "ro-crate-metadata.json") or "{}")
        made = {
            f"{part['name']} (run)": str(part["version"])
            for part in crate.get("@graph", [])
            if str(part.get("@id", "")).startswith("#software/") and "version" in part and part["name"] != "commit"
        }
        return made | {f"{package} (lock)": version for package, version in PINNED.findall(self.text(LOCK))}

    def _tables(self, layout: Layout) -> dict[str, str]:
        """Hash of what the study reads: git's or DVC's own, else of the bytes."""
        found = {}
        for path in dict.fromkeys(data_of(self.one.study, self.one.file)):
            notes = [p.with_name(f"{p.name}.dvc") for p in (path, *path.parents) if p.name]
            note = next((text for note in notes if (text := self.text(note))), "")
            if note:
                found[str(path)] = f"md5 {yaml.safe_load(note)['outs'][0].get('md5', '')}"
            elif hashed := self._git_hash(path):
                found[str(path)] = f"git {hashed}"
        if self.one.study.cohort.simulate is not None:
            for name in self.names(layout.source):
                if name.endswith(".csv") and (data := self.read(layout.source / name)) is not None:
                    found[str(layout.source / name)] = f"sha256 {hashlib.sha256(data).hexdigest()}"
        return found

    def _git_hash(self, path: Path) -> str:
        """Git's hash of a file or folder of the version; of the workspace's files, not its folders."""
        if self.revision:
            line = self.one.call("git", "ls-tree", self.revision, "--", str(path)).split()
            return line[2] if line else ""
        return self.one.call("git", "hash-object", str(path)).strip() if (self.one.root / path).is_file() else ""

    def _pipeline(self) -> dict[str, tuple[str, int | None]]:
        """Hash and bytes of every dependency and output of the study's stages."""
        stages = (yaml.safe_load(self.text("dvc.lock")) or {}).get("stages", {})
        return {
            f"{stage} {what}: {part['path']}": (str(part.get("md5", "")), part.get("size"))
            for stage in self.one.stages
            for what in ("deps", "outs")
            for part in stages.get(stage, {}).get(what, [])
        }

    def _slides(self, path: Path) -> dict[str, str] | None:
        """Status and fingerprint of each slide, where the cohort has a table of them."""
        data = self.read(path)
        if data is None:
            return None
        import pandas as pd

        table = pd.read_parquet(io.BytesIO(data))
        shown = [column for column in ("status", "reason", "fingerprint") if column in table]
        rows = table[["slide_id", *shown]].sort_values("slide_id").to_dict("records")
        return {str(row["slide_id"]): " ".join(str(row[column]) for column in shown) for row in rows}

    def _figures(self, folder: Path, parameters: dict[str, Any]) -> dict[str, FigureItem]:
        """Figures by their stem: the SVG, or the PNG where the SVG is large or not there."""
        from histostudy.report.context import FigureItem
        from histostudy.verbs.report import WIDE

        tasks = sorted((str(task["name"]) for task in parameters.get("tasks") or []), key=len, reverse=True)
        found: dict[str, FigureItem] = {}
        names = self.names(folder)
        for stem in sorted({Path(name).stem for name in names}):
            task = next((task for task in tasks if stem.startswith(f"{task}_")), None)
            figure = stem.removeprefix(f"{task}_")
            words, wide = figure.replace("_", " "), figure in WIDE
            title = f"{task}: {words}" if task else words
            vector = self.read(folder / f"{stem}.svg") if f"{stem}.svg" in names else None
            if f"{stem}.png" in names and (vector is None or len(vector) > LARGE_BYTES):
                image = self.read(folder / f"{stem}.png") or b""
                large = len(image) > LARGE_BYTES
                data = _reduced(image) if large else image
                found[stem] = FigureItem(title, "", data, "jpeg" if large else "png", task, wide)
            elif vector is not None:
                found[stem] = FigureItem(title, "", vector, "svg", task, wide)
        return found


def _reduced(image: bytes) -> bytes:
    """An image small enough to stand beside another, as JPEG."""
    from PIL import Image

    with Image.open(io.BytesIO(image)) as opened:
        flat = Image.new("RGB", opened.size, "white")
        pixels = opened.convert("RGBA")
        flat.paste(pixels, mask=pixels.getchannel("A"))
    flat.thumbnail((REDUCED_PX, 4 * REDUCED_PX))
    buffer = io.BytesIO()
    flat.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _table(data: bytes | None) -> Any:
    if data is None:
        return None
    import pandas as pd

    return pd.read_csv(io.BytesIO(data), dtype={"task": str, "model": str, "metric": str})


def _code(one: Versioned, first: _Side, second: _Side) -> CodeChange:
    """Commits that only one version has, and files of code that differ."""
    from histostudy.report.versions import CodeChange

    ends = [side.revision or "HEAD" for side in (first, second)]
    said = one.call("git", "log", "--left-right", "--format=%m%x09%h%x09%an%x09%s", "...".join(ends))
    commits = []
    for line in said.splitlines():
        mark, commit, author, subject = line.split("\t", 3)
        commits.append((first.version if mark == "<" else second.version, commit, author, subject))
    between = [side.revision for side in (first, second) if side.revision]
    # against the working tree git goes from the version to it, whichever is named first
    turned = ["-R"] if not first.revision and second.revision else []
    if not between:
        raise ConfigError(f"both versions are the {WORKSPACE}", todo="name a released version")
    said = one.call("git", "diff", "--numstat", "--no-renames", *turned, *between, "--", *CODE)
    files: list[tuple[str, int | None, int | None]] = []
    for line in said.splitlines():
        added, removed, file = line.split("\t", 2)
        files.append((file, None if added == "-" else int(added), None if removed == "-" else int(removed)))
    return CodeChange(commits, files)
