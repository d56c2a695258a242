"""The two tables of a cohort: read as text, checked cell by cell, joined."""

from __future__ import annotations

import csv
import gzip
import io
import logging
import math
import os
import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from histostudy.cohort.flow import Flow
from histostudy.cohort.identifiers import check_id, is_missing
from histostudy.errors import TableError, at

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

#: Where a row stood in its file (2 is the first below the header); for messages, not for analysis.
ROW = "table_row"
#: An environment variable in a path; one that is left in it is not set.
VARIABLE = re.compile(r"\$(\w+|\{[^}]*\})")
#: What `exclude` may say besides a reason in words.
YES, NO = frozenset({"1", "1.0", "true", "yes", "y", "x", "t"}), frozenset({"0", "0.0", "false", "no", "n", "f"})


@dataclass(frozen=True)
class Cohort:
    """Patients and their slides, joined.

    Attributes
    ----------
    slides : DataFrame
        One row a slide, sorted by `slide_id`: `slide_id`, `patient_id`, `path` (empty: none given), `mpp`
        (float, um per pixel; NaN: none given), `table_row`, and the other columns as text.
    patients : DataFrame
        One row a patient, sorted by `patient_id`: text, NaN where missing, and `table_row`.
    flow : Flow
        Slides and patients left out so far, with reasons.
    source : str
        The patient table's name, for messages.
    """

    slides: pd.DataFrame
    patients: pd.DataFrame
    flow: Flow
    source: str = "patients.csv"


def read_text(path: str | Path) -> str:
    """Text of a table: plain, .gz, or a .zip of one file.

    Raises
    ------
    TableError
        If the file is missing, a folder, or not UTF-8 (a byte order mark is fine).
    """
    path = Path(path)
    try:
        if path.suffix == ".gz":
            data = gzip.decompress(path.read_bytes())
        elif path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                names = [n for n in archive.namelist() if not n.endswith("/")]
                if len(names) != 1:
                    raise TableError(f"a zip of {len(names)} files", where=path, todo="unpack the one meant")
                data = archive.read(names[0])
        else:
            data = path.read_bytes()
    except FileNotFoundError:
        raise TableError("no such file", where=path, todo=_did_you_mean(path)) from None
    except IsADirectoryError:
        raise TableError("is a folder", where=path, todo="name the table in it") from None
    except (gzip.BadGzipFile, zipfile.BadZipFile, EOFError) as error:
        raise TableError(f"damaged archive ({error})", where=path, todo="fetch it again") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise TableError(
            "not UTF-8 text", where=at(path, row=line), todo="save the table as CSV (UTF-8), not as a workbook"
        ) from None


def _did_you_mean(path: Path) -> str:
    try:
        names = [p.name for p in path.parent.iterdir()]
    except OSError:
        return f"there is no folder {path.parent} either: check the path"
    close = get_close_matches(path.name, names, n=1)
    return f"did you mean {close[0]!r}?" if close else "check the path in the study file"


def read_table(path: str | Path, required: Iterable[str] = ()) -> pd.DataFrame:
    """Read a table as text: comma, semicolon or tab (told from the header), quoted cells as usual.

    Parameters
    ----------
    path : str or Path
        ``.csv``, ``.tsv`` or ``.txt``, also ``.gz`` or ``.zip``; or ``.parquet``.
    required : iterable of str
        Columns that must be there.

    Returns
    -------
    DataFrame
        Text columns, stripped, NaN where missing, in the order of the file, and `table_row` (int).

    Raises
    ------
    TableError
        Naming file, row and column: no file, no header, no row, a row that is too long or too short, two
        columns of one name, a required column that is not there.
    """
    import pandas as pd

    path = Path(path)
    if path.suffix == ".parquet" and path.is_file():
        frame = pd.read_parquet(path).drop(columns=ROW, errors="ignore")
        header = [str(c) for c in frame.columns]
        text = frame.astype("string").fillna("").to_numpy(dtype=object)
        rows = [[str(cell) for cell in row] for row in text]
        lines = list(range(2, len(rows) + 2))
    else:
        header, rows, lines = _parse(path, read_text(path))
    for name in header:
        if header.count(name) > 1:
            raise TableError(f"two columns are called {name!r}", where=path, todo="rename one")
    for name in required:
        if name not in header:
            close = get_close_matches(name, header, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}?" if close else f"its columns are {_some(header)}"
            raise TableError(f"no column {name!r}", where=path, todo=hint)
    if not rows:
        raise TableError("no rows below the header", where=path, todo="fill in the table")
    columns: dict[str, object] = {}
    for j, name in enumerate(header):
        cells = [row[j].strip() for row in rows]
        columns[name] = pd.array([None if is_missing(c) else c for c in cells], dtype="str")
    columns[ROW] = lines
    return pd.DataFrame(columns)


def _parse(path: Path, text: str) -> tuple[list[str], list[list[str]], list[int]]:
    first = next((line for line in text.splitlines() if line.strip()), "")
    if not first:
        raise TableError("the file is empty", where=path, todo="fill in the table")
    delimiter = max("\t;,", key=lambda d: (first.count(d), d == ","))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    rows: list[list[str]] = []
    lines: list[int] = []
    start = 1
    try:
        for cells in reader:
            line, start = start, reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if not header:
                header = [c.strip() or f"unnamed_{j}" for j, c in enumerate(cells)]
                continue
            if len(cells) != len(header):
                raise TableError(
                    f"{len(cells)} cells below {len(header)} columns",
                    where=at(path, row=line),
                    todo="put quotes around a cell that holds the separator, or add the missing cells",
                )
            rows.append(cells)
            lines.append(line)
    except csv.Error as error:
        raise TableError(str(error), where=at(path, row=reader.line_num), todo="check the quotes") from None
    return header, rows, lines


def _some(names: Iterable[str], most: int = 8) -> str:
    names = list(names)
    return ", ".join(map(str, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def number(cell: str, source: str | Path, row: int, column: str, what: str = "a number") -> float:
    """The finite number in a cell.

    Raises
    ------
    TableError
        If the cell is no number, or infinite.
    """
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        hint = "write decimals with a point" if re.fullmatch(r"-?\d+,\d+", cell) else "or leave the cell empty"
        raise TableError(f"{cell!r} is not {what}", where=at(source, row=row, column=column), todo=f"mend it, {hint}")
    return value


def _check_ids(table: pd.DataFrame, column: str, path: Path) -> None:
    cells = table[column].fillna("")
    for value, row in zip(cells, table[ROW], strict=True):
        check_id(value, path, row, column)


def read_slides(path: str | Path) -> pd.DataFrame:
    """Read and check the slide table.

    Columns: `slide_id`, `patient_id`; optional `path` (environment variables and ``~`` expanded, a path with a variable
    that is not set left as it is; relative to the table's own folder first, then the working directory), `mpp`, `site`,
    `stain`, `exclude` (yes, or a reason). Whether the slide files are there is asked before work starts, see
    `histostudy.cohort.slidefiles`.

    Returns
    -------
    DataFrame
        As `Cohort.slides`, with the excluded slides still in it; `path` is where the file lies on this machine,
        `path_given` what the table says.

    Raises
    ------
    TableError
        For bad or duplicate ids, or an mpp that is no positive number.
    """
    path = Path(path)
    table = read_table(path, required=("slide_id", "patient_id"))
    for column in ("slide_id", "patient_id"):
        _check_ids(table, column, path)
    _refuse_duplicates(table, "slide_id", path)
    if "mpp" in table:
        table["mpp"] = [_mpp(c, path, r) for c, r in zip(table["mpp"], table[ROW], strict=True)]
    else:
        table["mpp"] = math.nan
    table["path_given"] = table["path"].fillna("") if "path" in table else ""
    table["path"] = [_resolve(cell, path) for cell in table["path_given"]]
    return table.sort_values("slide_id", ignore_index=True)


def _mpp(cell: object, path: Path, row: int) -> float:
    if not isinstance(cell, str):
        return math.nan
    value = number(cell, path, row, "mpp", "a size in micrometres per pixel")
    if value <= 0:
        raise TableError(f"mpp of {cell}", where=at(path, row=row, column="mpp"), todo="give um per pixel, above 0")
    return value


def _resolve(cell: str, table: Path) -> str:
    expanded = os.path.expanduser(os.path.expandvars(cell))
    if not cell or VARIABLE.search(expanded):
        return expanded
    beside = table.parent / expanded
    if not beside.exists() and Path(expanded).exists():
        return expanded
    return os.path.normpath(beside)


def _refuse_duplicates(table: pd.DataFrame, column: str, path: Path) -> None:
    """One row an id; where two rows of an id differ, say in what."""
    again = table[column].duplicated()
    if not again.any():
        return
    second = table[again].iloc[0]
    first = table[table[column] == second[column]].iloc[0]
    where = at(path, row=int(second[ROW]), column=column)
    for other in table.columns.drop([column, ROW]):
        if not (first[other] == second[other] or (first[other] != first[other] and second[other] != second[other])):
            raise TableError(
                f"{second[column]!r} is in row {first[ROW]} too, with another {other!r} "
                f"({_cell(first[other])}, here {_cell(second[other])})",
                where=where,
                todo=f"keep one row for each {column}",
            )
    raise TableError(f"{second[column]!r} is in row {first[ROW]} too", where=where, todo="delete one of the two rows")


def _cell(value: object) -> str:
    return repr(value) if isinstance(value, str) else "empty"


def read_patients(path: str | Path) -> pd.DataFrame:
    """Read and check the patient table: `patient_id`, outcomes, covariates, optional `site`.

    Returns
    -------
    DataFrame
        As `Cohort.patients`. Columns stay text: what a column must be is the task's to say (`outcome_of`).

    Raises
    ------
    TableError
        For bad ids, and for a patient with two rows (naming the label in which they differ).
    """
    path = Path(path)
    table = read_table(path, required=("patient_id",))
    _check_ids(table, "patient_id", path)
    _refuse_duplicates(table, "patient_id", path)
    return table.sort_values("patient_id", ignore_index=True)


def join(slides: pd.DataFrame, patients: pd.DataFrame | None = None, source: str = "patients.csv") -> Cohort:
    """Join slides and patients; what falls out is counted with its reason.

    Parameters
    ----------
    slides, patients : DataFrame
        As `read_slides` and `read_patients` return them. Without `patients` (a study without tasks) they are
        those of the slide table.
    source : str
        The patient table's name, for messages.

    Raises
    ------
    TableError
        If no slide is left.
    """
    import pandas as pd

    if patients is None:
        patients = pd.DataFrame({"patient_id": sorted(set(slides["patient_id"]))}, dtype="str")
        patients[ROW] = 0
    flow = Flow()
    flow.start("tables", slides, extra_patients=set(patients["patient_id"]) - set(slides["patient_id"]))
    reasons = _exclusions(slides)
    flow.drop("excluded in the slide table", reasons)
    slides = slides[~slides["slide_id"].isin(reasons)]
    known = slides["patient_id"].isin(patients["patient_id"])
    flow.drop(
        "joined",
        dict.fromkeys(slides.loc[~known, "slide_id"], "patient not in the patient table"),
        lonely="patient without a slide",
    )
    if not known.any():
        examples = (
            f"slides have {_some(slides['patient_id'], 2) or 'none'}, patients {_some(patients['patient_id'], 2)}"
        )
        raise TableError("no slide has a patient in this table", where=source, todo=f"compare the ids: {examples}")
    slides = slides[known].reset_index(drop=True)
    patients = patients[patients["patient_id"].isin(slides["patient_id"])].reset_index(drop=True)
    if "site" not in patients and "site" in slides:
        patients = _site_of_slides(slides, patients)
    return Cohort(slides, patients, flow, source)


def _patients_alone(patients: pd.DataFrame, source: str) -> Cohort:
    """A cohort of tables: nobody has a slide, and nobody is left out for it."""
    slides = patients.iloc[:0].reindex(columns=["slide_id", "patient_id", "path", "mpp", ROW])
    flow = Flow()
    flow.start("patients", slides, extra_patients=set(patients["patient_id"]))
    return Cohort(slides, patients, flow, source)


def _exclusions(slides: pd.DataFrame) -> dict[str, str]:
    """Slides that the table excludes, with the reason it gives."""
    if "exclude" not in slides:
        return {}
    marked = slides[slides["exclude"].notna() & ~slides["exclude"].str.lower().isin(NO)]
    plain = "marked in the slide table"
    return {s: plain if e.lower() in YES else e for s, e in zip(marked["slide_id"], marked["exclude"], strict=True)}


def _site_of_slides(slides: pd.DataFrame, patients: pd.DataFrame) -> pd.DataFrame:
    """Give every patient the site of his slides; none where they come from two."""
    known = slides.dropna(subset=["site"]).groupby("patient_id")["site"]
    sites = known.first().where(known.nunique() == 1)
    several = int(sites.isna().sum())
    if several:
        logger.warning("%d patients have slides of two sites and so no site; add `site` to the patients", several)
    return patients.assign(site=patients["patient_id"].map(sites).astype("str"))


def read_cohort(slides: str | Path | None, patients: str | Path | None = None) -> Cohort:
    """Read, check and join both tables; without slides all patients are kept."""
    if slides is None:
        return _patients_alone(read_patients(str(patients)), str(patients))
    return join(
        read_slides(slides),
        None if patients is None else read_patients(patients),
        source="patients.csv" if patients is None else str(patients),
    )
