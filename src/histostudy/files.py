"""Files written whole or not at all, and their fingerprints."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

SAMPLE_BYTES = 1 << 20


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it into place when the block ends without an error.

    The temporary name keeps the suffix, so that writers which look at it (matplotlib, pandas) work.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes files nobody else can read
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path` atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as sorted, indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_table(path: str | Path, table: pd.DataFrame) -> None:
    """Write a table atomically, as parquet or CSV by its suffix, without the row index."""
    path = Path(path)
    with atomic(path) as temporary:
        if path.suffix == ".parquet":
            table.to_parquet(temporary, index=False)
        else:
            table.to_csv(temporary, index=False, float_format="%.10g", lineterminator="\n")


def frame_to_json(frame: pd.DataFrame) -> dict[str, Any]:
    """A table as JSON-like columns and rows; numbers keep ten digits after the point, NaN becomes null."""
    return json.loads(frame.to_json(orient="split", index=False, double_precision=10))


def frame_from_json(value: dict[str, Any]) -> pd.DataFrame:
    """The table that `frame_to_json` wrote."""
    import pandas as pd

    frame = pd.DataFrame(value["data"], columns=value["columns"])
    # a column of nulls alone was one of numbers, none of them defined
    return frame.astype(dict.fromkeys(frame.columns[frame.isna().all()], float)) if len(frame) else frame


def sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fingerprint(path: str | Path) -> str:
    """Fingerprint of a large file: SHA-256 of its size, first, middle and last mebibyte.

    A gigapixel slide is read in milliseconds and a replaced or truncated one is noticed; a change of some
    pixels in the middle that keeps the size is not, so results carry `sha256`, slides this.
    """
    path = Path(path)
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as stream:
        for start in sorted({0, max(0, size // 2 - SAMPLE_BYTES // 2), max(0, size - SAMPLE_BYTES)}):
            stream.seek(start)
            digest.update(stream.read(SAMPLE_BYTES))
    return digest.hexdigest()


def files_of(path: str | Path) -> list[Path]:
    """A file, or every file below a folder, in the order of their names."""
    path = Path(path)
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def listing(path: str | Path) -> list[list[str | int]]:
    """Name, size and time of a file, or of every file below a folder, in the order of their names."""
    return [[str(file), (stat := file.stat()).st_size, stat.st_mtime_ns] for file in files_of(path)]


def digest_of(value: Any) -> str:
    """Short stable digest (16 hex digits) of a JSON-like value; the order of keys does not matter."""
    text = json.dumps(value, sort_keys=True, default=str, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
