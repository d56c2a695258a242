"""Slide files of a cohort: on this machine, or known from results that came without them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from histostudy.cohort.tables import ROW
from histostudy.errors import TableError, at
from histostudy.hashcache import HashCache

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)


def glances_of(slides: pd.DataFrame, folder: Path, source: str, hashes: HashCache, *, check: bool = True) -> list[str]:
    """A glance at each slide: of its file, or the one noted by the slides stage where the file is not here.

    Who restores a study seldom has its slides. What was made of them holds without; a job that would have to read one
    of them stops and says so.

    Parameters
    ----------
    slides : DataFrame
        `slide_id`, `path` and the table's row of each.
    folder : Path
        The slides stage's, with the indexes of its shards.
    source : str
        The slide table, for messages.
    hashes : HashCache
        What was seen before.
    check : bool
        Ask the disk of each slide, and say which are not here; a cluster's jobs take what was seen just before.

    Raises
    ------
    TableError
        If a slide is not here, and no result is.
    """
    paths = dict(zip(slides["slide_id"], slides["path"], strict=True))
    here = {s: path for s, path in paths.items() if path and (not check and hashes.knows(path) or Path(path).is_file())}
    seen = dict(zip(here, hashes.glances(here.values(), again=check), strict=True))
    gone = slides[~slides["slide_id"].isin(list(seen))]
    if len(gone):
        noted = _noted(folder)
        unknown = gone[~gone["slide_id"].isin(list(noted))]
        if len(unknown):
            raise _missing(unknown.iloc[0], source, nobody=len(gone) == len(slides))
        if check:
            logger.warning(
                "%d of %d slide files are not here (the first: %s): what was made of them is taken as it is",
                len(gone), len(slides), gone["path"].iloc[0],
            )  # fmt: skip
        seen |= {slide: noted[slide] for slide in gone["slide_id"]}
    return [seen[slide] for slide in paths]


def _noted(folder: Path) -> dict[str, str]:
    """Glances that the slides stage took, by slide."""
    import pandas as pd

    noted: dict[str, str] = {}
    for index in folder.glob("shard-*.parquet"):
        table = pd.read_parquet(index)
        if "glance" in table:  # as other versions wrote it, it says nothing of use
            noted |= dict(zip(table["slide_id"], table["glance"], strict=True))
    return noted


def _missing(row: pd.Series, source: str, *, nobody: bool) -> TableError:
    """The error for a slide without a file; where none has one, the table or the mount is wrong."""
    if not row["path"]:
        what, todo = "no path", "give it one, or write why not in the column `exclude`"
    elif nobody:
        what = f"none of the slide files is there (the first: {row['path']})"
        todo = "paths are relative to the table's own folder; environment variables may be used"
    else:
        what, todo = f"no slide file {row['path']}", "mend the path, or write why in the column `exclude`"
    return TableError(what, where=at(source, row=int(row[ROW]), column="path"), todo=todo)
