"""What may be an identifier, and which cells of a table mean that nothing is known."""

from __future__ import annotations

from pathlib import Path

from histostudy.errors import TableError, at

#: Cells that say "missing": an empty cell, the codes of R, Excel and pandas, and those of TCGA's tables.
MISSING = frozenset(
    {
        *("", "na", "n/a", "#n/a", "nan", "null", "<na>"),
        *("[not available]", "[not applicable]", "[not evaluated]", "[unknown]", "[discrepancy]"),
        *("[completed]", "[pending]", "[not reported]", "not available", "not reported"),
    }
)
MAX_ID_LENGTH = 200


def is_missing(cell: str) -> bool:
    """Whether a cell (already stripped) says that nothing is known."""
    return cell.lower() in MISSING


def check_id(value: str, source: str | Path, row: int, column: str) -> str:
    """Return an identifier that is safe as a file name, or raise.

    Identifiers are text: ``001`` and ``1`` are two slides. They name files, so they may not climb out of a
    folder.

    Raises
    ------
    TableError
        For a missing identifier, one with a slash, backslash or control character, one that begins with a
        dot, or one longer than 200 bytes.
    """
    where = at(source, row=row, column=column)
    if is_missing(value):
        raise TableError(f"no {column}", where=where, todo=f"give every row a {column}, or delete the row")
    if any(c in "/\\" or ord(c) < 32 or ord(c) == 127 for c in value) or value.startswith("."):
        raise TableError(
            f"{value!r} cannot be a {column}",
            where=where,
            todo="an id names a file: no slash, backslash or control character, and no dot at the beginning",
        )
    if len(value.encode()) > MAX_ID_LENGTH:
        raise TableError(f"a {column} of {len(value)} characters", where=where, todo="shorten it to 200 bytes")
    return value
