"""What killed processes left among the results: files half-written, under names that nobody asks for."""

from __future__ import annotations

import fcntl
import logging
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import IO

from histostudy.provenance.records import SNAKEMAKE

logger = logging.getLogger(__name__)

#: Held open by every run, and by a cluster's jobs.
RUNNING = SNAKEMAKE / "histostudy" / "running"
_HELD: list[IO[str]] = []
#: Names that `histostudy.files.atomic` gives: of the stem, eight letters, and the suffix.
TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}(\.\w+)?")


def begin() -> None:
    """Let other runs in the working directory know of this one, for as long as its process lives."""
    RUNNING.parent.mkdir(parents=True, exist_ok=True)
    _HELD.append(RUNNING.open("a"))
    _share()


def alone() -> bool:
    """Whether no other run has begun in the working directory that has not ended.

    The system lets go of what a killed process held; Snakemake's own locks stay then, or are cleared for everybody.
    """
    try:
        fcntl.flock(_HELD[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # another's, or a disk that knows no locks: nobody is alone there
        return False
    finally:
        _share()
    return True


def _share() -> None:
    with suppress(OSError):
        fcntl.flock(_HELD[-1], fcntl.LOCK_SH)


def sweep(folder: Path, before: float) -> list[Path]:
    """Delete the temporary files that killed processes left in a folder and below; returns them.

    One that somebody else deletes or moves into place meanwhile is no error, and one that may not be deleted stays.

    Parameters
    ----------
    folder : Path
    before : float
        Only those not written to since this time, in seconds since the epoch: others may be in somebody's hands.
    """
    left = [Path(top) / name for top, _, names in os.walk(folder) for name in names if TEMPORARY.fullmatch(name)]
    return sorted(path for path in left if _deleted(path, before))


def _deleted(path: Path, before: float) -> bool:
    """Delete a file as old as that; whether it was one, and could be."""
    try:
        if path.stat().st_mtime >= before:
            return False
        path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        logger.warning("%s: left over, and cannot be deleted: %s", path, error.strerror)
        return False
    return True
