"""Work on a shard of slides: what still holds is kept, the rest is done again, a bad slide is a row."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histostudy.errors import BadSlideError, StudyError
from histostudy.files import digest_of, read_json, sha256, write_json
from histostudy.log import progress

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

#: Folder of one small JSON a finished slide: the workflow deletes an index before it makes it again, not these.
RECORDS = ".records"

Work = Callable[[Mapping[str, Any]], tuple[str | None, dict[str, Any]]]


def run_shard(
    rows: pd.DataFrame,
    work: Work,
    *,
    out_dir: Path,
    identity_of: Callable[[Mapping[str, Any]], Any],
    what: str = "slides",
) -> pd.DataFrame:
    """Run `work` for each slide of `rows` whose file does not already hold, and return the shard's index.

    Parameters
    ----------
    rows : DataFrame
        One row a slide, with at least `slide_id`; worked through in the order of `slide_id`.
    work : callable
        Takes a row, writes the slide's file under `out_dir`, returns its name (None: no file) and the
        columns to put in the index. Raises `BadSlideError` for a slide that cannot be used; any other error
        is the machine's and stops the shard.
    out_dir : Path
        Where the files lie.
    identity_of : callable
        Takes a row, returns a JSON-like value of all that the file depends on.
    what : str
        Name of the work, for the progress bar.

    Returns
    -------
    DataFrame
        `slide_id`, `status` (``ok`` or ``failed``), `reason`, `detail`, `file`, `sha256`, `identity`, and
        what `work` returned.
    """
    import pandas as pd

    index: list[dict[str, Any]] = []
    kept = 0
    for row in progress(rows.sort_values("slide_id").to_dict("records"), what, total=len(rows)):
        slide_id = row["slide_id"]
        identity = digest_of(identity_of(row))
        old = record_of(out_dir, slide_id)
        if old is not None and old["identity"] == identity and _still_holds(old, out_dir):
            index.append(old)
            kept += 1
            continue
        base = {"slide_id": slide_id, "status": "ok", "reason": "", "detail": "", "file": "", "sha256": ""}
        try:
            name, stats = work(row)
        except BadSlideError as bad:
            logger.warning("%s: %s", slide_id, bad)
            base |= {"status": "failed", "reason": bad.reason, "detail": bad.detail}
        else:
            if name is not None:
                base |= {"file": name, "sha256": sha256(out_dir / name)}
            base |= stats
        base["identity"] = identity
        write_json(out_dir / RECORDS / f"{slide_id}.json", _plain(base))
        index.append(base)
    if kept:
        logger.info("%s: %d of %d kept from an earlier run", what, kept, len(rows))
    return pd.DataFrame(index)


def record_of(folder: Path, slide_id: str) -> dict[str, Any] | None:
    """What a stage noted of a slide when it was done; None where it never was."""
    record = folder / RECORDS / f"{slide_id}.json"
    return read_json(record) if record.exists() else None


def slides_with_tiles(slides_index: pd.DataFrame, tiles_index: pd.DataFrame) -> pd.DataFrame:
    """Slides that have tiles, as the stages that read their pixels work through them.

    Parameters
    ----------
    slides_index : DataFrame
        `slide_id`, `path`, `mpp`, `fingerprint` of each slide.
    tiles_index : DataFrame
        `slide_id`, `status`, `file`, `sha256` of each slide's tiles.

    Returns
    -------
    DataFrame
        `slide_id`, `tiles_file`, `tiles_identity` (its checksum), `path`, `mpp`, `fingerprint`.
    """
    ready = tiles_index.loc[tiles_index["status"] == "ok", ["slide_id", "file", "sha256"]]
    ready = ready.rename(columns={"file": "tiles_file", "sha256": "tiles_identity"})
    return ready.merge(slides_index[["slide_id", "path", "mpp", "fingerprint"]], on="slide_id", validate="1:1")


def as_written(path: Path, digest: str) -> Path:
    """The path of a file that still has the checksum its index says.

    Raises
    ------
    StudyError
        If somebody changed the file since: an index must not vouch for what it has not seen.
    """
    if not path.is_file() or sha256(path) != digest:
        raise StudyError(
            "is gone, or not as its stage wrote it", where=path, todo="delete it and its stage's index, and run again"
        )
    return path


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with numpy's numbers as Python's, and NaN as None, for JSON."""
    plain = {key: value.item() if hasattr(value, "item") else value for key, value in row.items()}
    return {key: None if isinstance(value, float) and value != value else value for key, value in plain.items()}


def _still_holds(row: Mapping[str, Any], out_dir: Path) -> bool:
    """Whether the file of an index row is there with the checksum it was written with."""
    if not row["file"]:
        return True
    path = out_dir / row["file"]
    return path.is_file() and sha256(path) == row["sha256"]
