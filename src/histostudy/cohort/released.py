"""Reading the tables that papers released: wide tables of numbers, rows of slides, CLAM's folds, censorship."""

from __future__ import annotations

import io
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from histostudy.cohort.barcodes import parse_barcode
from histostudy.cohort.identifiers import check_id
from histostudy.cohort.tables import ROW, number, read_table, read_text
from histostudy.errors import TableError, at

if TYPE_CHECKING:
    import pandas as pd

#: Days of a month in MCAT's and PORPOISE's tables.
MONTH = Decimal("30.4375")


def tested_in(folder: Path) -> pd.DataFrame:
    """The fold that tests each patient, from a folder of ``splits_<k>.csv`` (train and val; val is tested).

    Returns
    -------
    DataFrame
        patient_id and fold (the number, as text).

    Raises
    ------
    TableError
        If there are no folds, a patient is on both sides of one, or tested by two.
    """
    import pandas as pd

    rows = []
    for path in sorted(folder.glob("splits_*.csv")):
        table = read_table(path, ("train", "val"))
        both = set(table["val"].dropna()) & set(table["train"].dropna())
        if both:
            raise TableError(f"{min(both)} is in train and in val", where=path, todo="use the published folds")
        rows += [(patient, path.stem.removeprefix("splits_")) for patient in table["val"].dropna()]
    out = pd.DataFrame(rows, columns=["patient_id", "fold"], dtype="str")
    if out.empty or out["patient_id"].duplicated().any():
        what = "no folds here" if out.empty else "a patient is tested twice"
        raise TableError(what, where=folder, todo="expected splits_<k>.csv with the columns train and val")
    return out


def wide(path: Path, key: str | None, *, unique: bool = True, suffixes: tuple[str, ...] = ()) -> pd.DataFrame:
    """A table of many columns of numbers, sorted by its ids.

    Parameters
    ----------
    path : Path
    key : str or None
        Column of the ids (default: the first), which becomes `patient_id`.
    unique : bool
        One row an id, and all columns numbers; else those that end in one of `suffixes`.
    suffixes : tuple of str

    Raises
    ------
    TableError
        If it is no such table.
    """
    import pandas as pd

    text = read_text(path)
    try:
        head = pd.read_csv(io.StringIO(text), nrows=0).columns
        name = head[0] if key is None else key
        table = pd.read_csv(io.StringIO(text), dtype={name: "str"}, float_precision="round_trip", low_memory=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise TableError(f"no table ({error})", where=path, todo="fetch it again") from None
    if name not in table:
        raise TableError(f"no column {name!r}", where=path, todo=f"its first columns are {', '.join(head[:5])}")
    table = table.rename(columns={name: "patient_id"})
    for column, kind in table.dtypes.drop("patient_id").items():
        if (unique or str(column).endswith(suffixes)) and kind.kind not in "iuf":
            raise TableError("not all cells are numbers", where=at(path, column=str(column)), todo="mend the column")
    table = ids(table, path)
    if unique and table["patient_id"].duplicated().any():
        twice = table.loc[table["patient_id"].duplicated(), "patient_id"].iloc[0]
        raise TableError(f"{twice} is there twice", where=at(path, column=str(name)), todo="keep one row")
    return table.sort_values("patient_id", ignore_index=True)


def read_counts(path: Path) -> pd.DataFrame:
    """Counts of spots by genes, tab-separated: names of spots in the first column, of genes in the header.

    pandas takes ten times as long for a table of more columns than rows.

    Raises
    ------
    TableError
        If a count is no whole number, a row is short, or a spot or gene is there twice.
    """
    import pandas as pd

    header, *lines = read_text(path).splitlines() or [""]
    cells = [line.split("\t") for line in lines if line]
    genes, spots = header.split("\t")[1:], [row[0] for row in cells]
    for what, names in (("gene", genes), ("spot", spots)):
        if not names or len(set(names)) < len(names):
            raise TableError(f"no {what}, or one twice", where=path, todo="use the published counts")
    try:
        values = np.array([np.array(row[1:], dtype=np.int64) for row in cells])
    except ValueError as error:
        what = "a row is short" if "shape" in str(error) else "a count that is no whole number"
        raise TableError(what, where=path, todo="use the raw counts") from None
    if values.shape[1] != len(genes) or (values < 0).any():
        raise TableError("a row is short, or a count negative", where=path, todo="use the raw counts")
    return pd.DataFrame(values, spots, genes)


def ids(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The table, its `patient_id` checked."""
    rows = table[ROW] if ROW in table else range(2, len(table) + 2)
    for value, row in zip(table["patient_id"].fillna(""), rows, strict=True):
        check_id(value, path, int(row), "patient_id")
    return table


def one_row(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """One row a patient, sorted: rows of one patient must say the same."""
    values = table.drop(columns=ROW, errors="ignore").drop_duplicates()
    again = values["patient_id"].duplicated()
    if again.any():
        patient = values.loc[again, "patient_id"].iloc[0]
        same = values[values["patient_id"] == patient]
        column = next(c for c in same.columns if same[c].nunique(dropna=False) > 1)
        raise TableError(f"two values for patient {patient}", where=at(path, column=column), todo="keep one of them")
    return values.sort_values("patient_id", ignore_index=True)


def numbers(table: pd.DataFrame, column: str, path: Path) -> pd.Series:
    """The column as it is, each known cell a number."""
    rows = table[ROW] if ROW in table else range(2, len(table) + 2)
    for cell, row in zip(table[column], rows, strict=True):
        if isinstance(cell, str):
            number(cell, path, int(row), column)
    return table[column]


def events(table: pd.DataFrame, column: str, path: Path) -> pd.api.extensions.ExtensionArray:
    """Event from censorship (1 = censored); None where nobody knows."""
    import pandas as pd

    out = {"1": 0, "1.0": 0, "0": 1, "0.0": 1, "nan": None}
    for cell in table[column]:
        if str(cell) not in out:
            raise TableError(f"{cell!r} is not 0 or 1", where=at(path, column=column), todo="1 means censored")
    return pd.array([out[str(cell)] for cell in table[column]], dtype="Int64")


def days(months: pd.Series) -> list[str]:
    """Months as days, exactly."""
    return [format((Decimal(str(m)) * MONTH).normalize(), "f") for m in months]


def sites(patients: pd.Series) -> list[str | None]:
    """Tissue source site of each TCGA barcode."""
    return [b.site if (b := parse_barcode(p)) else None for p in patients]
