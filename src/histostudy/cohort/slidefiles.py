"""Slide files of a cohort: on this machine, or known from results that came without them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from histostudy.cohort.tables import ROW, VARIABLE
from histostudy.errors import TableError, at
from histostudy.hashcache import HashCache
from histostudy.stages import record_of

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)


def glances_of(slides: pd.DataFrame, folder: Path, source: str, hashes: HashCache, *, check: bool = True) -> list[str]:
    """A glance at each slide: of its file, or the one noted by the slides stage where the file is not here.

    Who restores a study seldom has its slides. What was made of them holds without; a job that would have to read one
    of them stops and says so. A file of another name than was noted is another slide.

    Parameters
    ----------
    slides : DataFrame
        `slide_id`, `path` and the table's row of each.
    folder : Path
        The slides stage's, with its records.
    source : str
        The slide table, for messages.
    hashes : HashCache
        What was seen before.
    check : bool
        Ask the disk of each slide, and say which are not here; a cluster's jobs take what was seen just before.

    Raises
    ------
    TableError
        If a slide is not here, and nothing is known of it.
    """
    paths = dict(zip(slides["slide_id"], slides["path"], strict=True))
    here = {s: path for s, path in paths.items() if path and (not check and hashes.knows(path) or Path(path).is_file())}
    seen = dict(zip(here, hashes.glances(here.values(), again=check), strict=True))
    gone = slides[~slides["slide_id"].isin(list(seen))]
    for row in gone.to_dict("records"):
        noted = noted_of(folder, row["slide_id"], row["path"])
        if noted is None:
            raise _missing(row["path"], int(row[ROW]), source, nobody=len(gone) == len(slides))
        seen[row["slide_id"]] = noted["glance"]
    if check and len(gone):
        logger.warning(
            "%d of %d slide files are not here (the first: %s): what was made of them is taken as it is",
            len(gone), len(slides), gone["path"].iloc[0],
        )  # fmt: skip
    return [seen[slide] for slide in paths]


def noted_of(folder: Path, slide_id: str, path: str) -> dict[str, str] | None:
    """What the slides stage noted of a file of this name: its `glance` and `fingerprint`; None where it did not."""
    record = record_of(folder, slide_id)
    if record is None or not path or record.get("file_name") != Path(path).name:
        return None
    return {key: str(record[key]) for key in ("glance", "fingerprint")}


def _missing(path: str, row: int, source: str, *, nobody: bool) -> TableError:
    """The error for a slide without a file; where none has one, the table or the mount is wrong."""
    where = at(source, row=row, column="path")
    if not path:
        return TableError("no path", where=where, todo="give it one, or write why not in the column `exclude`")
    if unknown := VARIABLE.search(path):
        what, name = f"environment variable {unknown.group()} is not set", unknown.group(1).strip("{}")
        return TableError(what, where=where, todo=f"export {name}=...")
    what = f"none of the slide files is there (the first: {path})" if nobody else f"no slide file {path}"
    todo = "mend the path (relative ones are relative to the table's own folder; environment variables may be used), "
    return TableError(what, where=where, todo=todo + "mount the disk, or write why not in the column `exclude`")
