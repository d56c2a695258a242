"""Files that lie behind an index: one a slide, none of them an output that Snakemake knows of.

An index that holds says nothing of a file that somebody changed since. So each plan takes a look at their sizes and
times; only where these differ from the last look, and the slide's record is the same, is a file read.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from histostudy.errors import StudyError
from histostudy.files import read_json, sha256, write_json
from histostudy.layout import shard_of
from histostudy.provenance.records import SNAKEMAKE, record_path
from histostudy.stages import RECORDS

#: What was seen last: folder -> file -> its size and time, and those of its slide's record.
SEEN = SNAKEMAKE / "histostudy" / "behind.json"
Look = Mapping[str, list[int]]


def check(folders: Iterable[Path], shards: int) -> None:
    """Look at the files of stages' folders, and remember what they are.

    A file that changed together with its record (another version, checked out) is as good as a new one; a shard
    without its index is made again, and so is one whose job was killed: neither is anything to complain of.

    Parameters
    ----------
    folders : iterable of Path
        Of stages that write one file a slide.
    shards : int
        Number of shards of the cohort.

    Raises
    ------
    StudyError
        If a file is gone, or is not what its slide's record says; nothing is remembered then.
    """
    known = read_json(SEEN) if SEEN.is_file() else {}
    seen = dict(known)
    bad: list[tuple[Path, Path]] = []
    for folder in folders:
        before: Look = known.get(str(folder), {})
        now = dict(_look(folder, before))
        gone = {name: old for name, old in before.items() if name not in now}
        for name, old in (gone | {name: before[name] for name in now if name in before}).items():
            slide = Path(name).stem
            index = folder / f"shard-{shard_of(slide, shards)}.parquet"
            if now.get(name) == old or not index.is_file() or record_path(str(index), "incomplete").exists():
                continue
            record = folder / RECORDS / f"{slide}.json"
            if _stat(record) == old[2:] and (name in gone or read_json(record)["sha256"] != sha256(folder / name)):
                bad.append((folder / name, index))
        seen[str(folder)] = now
    if bad:
        file, index = bad[0]
        more = f", and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise StudyError(
            f"is gone, or not as its stage wrote it{more}",
            where=file,
            todo=f"bring it back (dvc checkout --force), or delete {index} to make it again",
        )
    if seen != known:
        write_json(SEEN, seen)


def _look(folder: Path, before: Look) -> Iterator[tuple[str, list[int]]]:
    """Files of a folder that a slide's record names, with their sizes and times, and those of the records."""
    if not (folder / RECORDS).is_dir():
        return
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if not entry.is_dir() and not entry.name.startswith("shard-"))
    for name in names:
        stat, old = _stat(folder / name), before.get(name)
        if old is not None and stat == old[:2]:
            yield name, old
            continue
        record = folder / RECORDS / f"{Path(name).stem}.json"
        if record.is_file() and read_json(record)["file"] == name:
            yield name, [*stat, *_stat(record)]


def _stat(path: Path) -> list[int]:
    """Size and time of a file; nothing of one that is not there."""
    try:
        stat = os.stat(path)
    except FileNotFoundError:
        return []
    return [stat.st_size, stat.st_mtime_ns]
