"""The table of spots."""

from __future__ import annotations

from pathlib import Path

import pytest

from histostudy.cohort.spots import read_spots
from histostudy.errors import TableError

HEADER = "spot_id,slide_id,x_px0,y_px0"


def put(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "spots.csv"
    path.write_text(text)
    return path


def test_spots_are_read_with_ids_as_text_and_sorted(tmp_path: Path) -> None:
    table = read_spots(put(tmp_path, f"{HEADER},array_row\n002,b,3.5,4,1\n001,b,1,2,1\n9,a,7,8,2\n"))
    assert list(table.columns) == ["spot_id", "slide_id", "x_px0", "y_px0"]
    assert table["spot_id"].tolist() == ["9", "001", "002"] and table["slide_id"].tolist() == ["a", "b", "b"]
    assert table["x_px0"].tolist() == [7.0, 1.0, 3.5] and table["y_px0"].dtype == float


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("spot,slide_id,x_px0,y_px0\na,s,1,2\n", "no column 'spot_id'; did you mean 'spot'"),
        ("spot_id,slide_id,x_px0\na,s,1\n", "no column 'y_px0'"),
        (f"{HEADER}\na,s,1,2\nb,s,1,2\na,t,5,5\n", "row 4 column spot_id: spot 'a' is there twice"),
        (f"{HEADER}\na,s,1,2\nb,s,left,2\n", "row 3 column x_px0: 'left' is not a place in pixels"),
        (f"{HEADER}\na,s,1,\n", "row 2 column y_px0"),
        (f"{HEADER}\na,s,1,inf\n", "row 2 column y_px0: 'inf' is not a place"),
        (f"{HEADER}\n", "no rows"),
        (f"{HEADER}\n,s,1,2\n", "row 2 column spot_id"),
        (f"{HEADER}\na,,1,2\n", "row 2 column slide_id"),
    ],
)
def test_bad_spots_are_one_line(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(TableError, match=match) as caught:
        read_spots(put(tmp_path, text))
    assert "spots.csv" in str(caught.value) and "\n" not in str(caught.value) and caught.value.todo
