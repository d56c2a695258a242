"""Hashes of files, remembered by size and time, so that planning a cohort does not read it again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from histostudy.files import read_json, sha256, write_json

#: Where the hashes of this working directory are kept: beside Snakemake's own records, in no result.
CACHE = Path(".snakemake") / "histostudy" / "hashes.json"
SAMPLE_BYTES = 16 << 10
THREADS = 8


def glance(path: str | Path) -> str:
    """Hash of a file's size and its first, middle and last 16 KiB.

    Cheap enough for every slide of a cohort at every plan, the same wherever the file lies and whenever it was written.
    A job that reads the file takes a fuller look (`histostudy.files.fingerprint`, `histostudy.files.sha256`).
    """
    size = os.stat(path).st_size
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as stream:
        for start in sorted({0, max(0, size // 2 - SAMPLE_BYTES // 2), max(0, size - SAMPLE_BYTES)}):
            stream.seek(start)
            digest.update(stream.read(SAMPLE_BYTES))
    return digest.hexdigest()


class HashCache:
    """Hashes of files by absolute path; one whose size or time changed is read again.

    Parameters
    ----------
    file : Path
        Where they are kept between processes. One that is missing or damaged is an empty one.
    """

    def __init__(self, file: Path = CACHE) -> None:
        self.file = file
        self._changed = False
        try:
            self._known: dict[str, dict[str, list[int | str]]] = read_json(file)
        except (FileNotFoundError, ValueError):
            self._known = {}

    def knows(self, path: str | Path) -> bool:
        """Whether somebody took a glance at this file before."""
        return os.path.abspath(path) in self._known.get("glance", {})

    def glances(self, paths: Iterable[str | Path], *, again: bool = True) -> list[str]:
        """`glance` of each file, in order; those not known are read by several threads.

        Parameters
        ----------
        paths : iterable of path
        again : bool
            Ask the disk whether a known file has changed: a cluster's jobs plan again what was looked at just before.
        """
        return self._of("glance", glance, list(paths), again)

    def sha256s(self, paths: Iterable[str | Path]) -> list[str]:
        """SHA-256 of each file, in order."""
        return self._of("sha256", sha256, list(paths))

    def save(self) -> None:
        """Keep what is known of files that still exist; nothing is written where nothing changed."""
        if not self._changed:
            return
        here = {
            kind: {p: entry for p, entry in files.items() if os.path.exists(p)} for kind, files in self._known.items()
        }
        write_json(self.file, here)
        self._changed = False

    def _of(
        self, kind: str, read: Callable[[str | Path], str], paths: list[str | Path], again: bool = True
    ) -> list[str]:
        known = self._known.setdefault(kind, {})
        keys = [os.path.abspath(path) for path in paths]
        stats = {i: os.stat(paths[i]) for i, key in enumerate(keys) if again or key not in known}
        stale = [
            i for i, stat in stats.items() if known.get(keys[i], [None])[:2] != [stat.st_size, stat.st_mtime_ns]
        ]  # fmt: skip
        with ThreadPoolExecutor(THREADS) as pool:  # a network disk answers many questions at once
            for i, digest in zip(stale, pool.map(read, [paths[i] for i in stale]), strict=True):
                known[keys[i]] = [stats[i].st_size, stats[i].st_mtime_ns, digest]
        self._changed |= bool(stale)
        return [str(known[key][2]) for key in keys]
