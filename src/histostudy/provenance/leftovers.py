"""What killed processes left among the results: files half-written, under names that nobody asks for."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from histostudy.provenance.records import SNAKEMAKE

logger = logging.getLogger(__name__)

#: Names that `histostudy.files.atomic` gives: of the stem, eight letters, and the suffix.
TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}(\.\w+)?")


def alone() -> bool:
    """Whether this run is the only one in the working directory: of two studies, each holds a lock on its outputs."""
    return len(list((SNAKEMAKE / "locks").glob("*.output.lock"))) == 1


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
