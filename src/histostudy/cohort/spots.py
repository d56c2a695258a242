"""Spots of sections: places of measured expression, around which tiles are cut."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from histostudy.cohort.tables import ROW, number, read_table
from histostudy.errors import TableError, at

if TYPE_CHECKING:
    import pandas as pd


def read_spots(path: str | Path) -> pd.DataFrame:
    """Read the table of spots.

    Returns
    -------
    DataFrame
        `spot_id`, `slide_id`, `x_px0`, `y_px0` (float, the centre in level-0 pixels), sorted by `slide_id`, then
        `spot_id`.

    Raises
    ------
    TableError
        Naming file, row and column: a column that is missing, a spot listed twice, a place that is no number.
    """
    import pandas as pd

    table = read_table(path, required=("spot_id", "slide_id", "x_px0", "y_px0"))
    for column in ("spot_id", "slide_id"):
        for row in table.loc[table[column].isna(), ROW].tolist()[:1]:
            raise TableError(f"no {column}", where=at(path, row=row, column=column), todo="give every row one")
    twice = table[table["spot_id"].duplicated()]
    if len(twice):
        raise TableError(
            f"spot {twice['spot_id'].iloc[0]!r} is there twice",
            where=at(path, row=int(twice[ROW].iloc[0]), column="spot_id"),
            todo="name every spot once",
        )
    out = pd.DataFrame({"spot_id": table["spot_id"].astype(str), "slide_id": table["slide_id"].astype(str)})
    for column in ("x_px0", "y_px0"):
        cells = zip(table[column], table[ROW], strict=True)
        out[column] = [number(str(cell), path, int(row), column, "a place in pixels") for cell, row in cells]
    return out.sort_values(["slide_id", "spot_id"], ignore_index=True)
