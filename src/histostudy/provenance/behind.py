"""Files that lie behind an index: one a slide, none of them an output that Snakemake knows of.

An index that holds says nothing of a file that somebody changed since, or that a pull did not bring. So each plan takes
a look at the sizes and times of the files that indexes name; only one that differs from the last look is read.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypedDict

from histostudy.errors import StudyError
from histostudy.files import read_json, write_json
from histostudy.hashcache import HashCache
from histostudy.provenance.records import SNAKEMAKE, record_path

#: What was seen last: of each index its size and time, and those of its files, with the checksums it has of them.
SEEN = SNAKEMAKE / "histostudy" / "behind.json"


class Look(TypedDict):
    """What was seen of a shard."""

    index: list[int]
    files: dict[str, list[int]]
    sha256: dict[str, str]


def check(indexes: Iterable[str | Path], cache: HashCache) -> None:
    """Look at the files that shards' indexes name, and remember what they are.

    A shard without its index is made again, and so is one whose job was killed: neither is anything to complain of. The
    first look at a shard reads no file of it: a pull has compared what it brought.

    Parameters
    ----------
    indexes : iterable of path
        Of the shards of stages that write one file a slide, there or not: tables with `file`, beside the index, and
        its `sha256`.
    cache : HashCache
        Hashes of files that differ from the last look, so that each is read once.

    Raises
    ------
    StudyError
        If a file is gone, or is not what its index says; nothing is remembered then.
    """
    known: Mapping[str, Look] = read_json(SEEN) if SEEN.is_file() else {}
    # as other versions wrote it, by folder, it is nothing to go by
    seen = {index: look for index, look in known.items() if index.endswith(".parquet")}
    bad: list[tuple[Path, Path]] = []
    for index in map(Path, indexes):
        before = seen.pop(str(index), None)
        stat = _stat(index)
        if not stat or record_path(str(index), "incomplete").exists():
            continue
        now = _look(index, stat, before)
        wrong = [name for name, there in now["files"].items() if not there]
        if before is not None:
            other = [name for name, there in now["files"].items() if there and _differs(name, now, before)]
            digests = cache.sha256s(index.parent / name for name in other)
            wrong += [name for name, digest in zip(other, digests, strict=True) if digest != now["sha256"][name]]
        bad += [(index.parent / name, index) for name in wrong]
        seen[str(index)] = now
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


def _look(index: Path, stat: list[int], before: Look | None) -> Look:
    """The files of a shard as they are; its index is read where it differs from the last look."""
    if before is not None and before["index"] == stat:
        named = before["sha256"]
    else:
        named = _named(index)
    return {"index": stat, "files": {name: _stat(index.parent / name) for name in named}, "sha256": named}


def _differs(name: str, now: Look, before: Look) -> bool:
    """Whether a file, or what its index says of it, is another than at the last look; a new one is."""
    return any(now[what].get(name) != before[what].get(name) for what in ("files", "sha256"))


def _named(index: Path) -> dict[str, str]:
    """Files that an index names, with its checksums of them; a failed slide has none."""
    import pandas as pd

    try:
        table = pd.read_parquet(index, columns=["file", "sha256"])
    except (ValueError, OSError) as error:
        raise StudyError("is no index of files", where=index, todo="delete it, to make it again") from error
    table = table[table["file"].fillna("") != ""]
    return dict(zip(table["file"], table["sha256"], strict=True))


def _stat(path: Path) -> list[int]:
    """Size and time of a file; nothing of one that is not there."""
    try:
        stat = os.stat(path)
    except FileNotFoundError:
        return []
    return [stat.st_size, stat.st_mtime_ns]
