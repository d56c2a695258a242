"""Tiles around spots: where they lie, which are left out, and what is done again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histostudy.errors import BadSlideError, TableError
from histostudy.study import Tiles
from histostudy.tiles.lattice import Lattice
from histostudy.tiles.spots import corner_of, lay_spots
from histostudy.tiles.stage import tile_slides
from histostudy.tiles.store import read_tiles

LATTICE = Lattice(1000, 800, 0.25, 0.5, 50)  # tiles of 100 px at level 0


def spots(*rows: tuple[str, float, float]) -> pd.DataFrame:
    names = [f"x{i}" for i in range(len(rows))]
    return pd.DataFrame(rows, columns=["slide_id", "x_px0", "y_px0"]).assign(spot_id=names)


@given(st.floats(0, 1e5), st.floats(1, 2000))
def test_a_tile_is_centred_on_its_spot_to_half_a_pixel(centre: float, side: float) -> None:
    corner = corner_of(np.array([[centre, 0.0]]), side)
    assert corner.dtype == np.int64
    assert abs(corner[0, 0] + side / 2 - centre) <= 0.5 + 1e-6


def test_tiles_lie_around_the_spots_of_the_slide_in_rows() -> None:
    table = spots(("s", 500, 300), ("s", 60, 300), ("t", 500, 500), ("s", 200.4, 100), ("s", 200.4, 100))
    laid = lay_spots("s", LATTICE, table, identity="abc")
    assert laid.coords.tolist() == [[150, 50], [10, 250], [450, 250]]  # spots at one place share a tile
    assert laid.coords.dtype == np.int64 and laid.grid.tolist() == [[1, 0], [0, 2], [4, 2]]
    assert (laid.tissue_fraction == 1).all() and len(laid.tissue_fraction) == 3
    assert laid.attrs["slide_id"] == "s" and laid.attrs["identity"] == "abc" and laid.attrs["size_px0"] == 100


def test_a_tile_that_sticks_out_of_the_slide_is_left_out() -> None:
    table = spots(("s", 50, 50), ("s", 49, 400), ("s", 950, 750), ("s", 951, 750), ("s", 500, 751), ("s", 500, 20))
    assert lay_spots("s", LATTICE, table).coords.tolist() == [[0, 0], [900, 700]]
    for wrong in (spots(("s", 20, 20)), spots(("t", 500, 500))):
        with pytest.raises(BadSlideError, match="no_tiles: none of [01] spots has a tile of 100 px in the slide"):
            lay_spots("s", LATTICE, wrong)


def stage(tmp_path: Path, text: str) -> pd.DataFrame:
    (tmp_path / "spots.csv").write_text("spot_id,slide_id,x_px0,y_px0\n" + text)
    slides = pd.DataFrame(
        {"slide_id": ["a", "b", "c"], "status": "ok", "mpp": 0.25, "width_px0": 1000, "height_px0": 800}
    )
    tissue = pd.DataFrame({"slide_id": ["a", "b", "c"], "status": "ok", "file": "x.geojson", "sha256": "s"})
    settings = Tiles(mpp=0.5, size=50, spots=tmp_path / "spots.csv")
    return tile_slides(slides, tissue, tmp_path / "no_tissue", settings, tmp_path / "tiles")


def test_stage_asks_for_no_tissue_and_redoes_the_slide_whose_spots_moved(tmp_path: Path) -> None:
    one = "1,a,500,300\n2,a,200,300\n3,b,500,400\n"
    index = stage(tmp_path, one)  # there is no tissue file to read
    assert index["status"].tolist() == ["ok", "ok", "failed"] and index["n_tiles"].tolist() == [2, 1, 0]
    assert index.loc[2, "reason"] == "no_tiles" and index["size_px0"].tolist()[:2] == [100, 100]
    tiles = read_tiles(tmp_path / "tiles/a.h5")
    assert tiles.coords.tolist() == [[150, 250], [450, 250]]
    assert tiles.attrs["identity"] == index.loc[0, "identity"]
    written = {name: (tmp_path / f"tiles/{name}.h5").stat().st_mtime_ns for name in "ab"}
    pd.testing.assert_frame_equal(stage(tmp_path, one), index)
    moved = stage(tmp_path, one.replace("3,b,500,400", "3,b,500,410"))
    assert (moved["identity"] == index["identity"]).tolist() == [True, False, True]
    assert read_tiles(tmp_path / "tiles/b.h5").coords.tolist() == [[450, 360]]
    assert (tmp_path / "tiles/a.h5").stat().st_mtime_ns == written["a"]


def test_a_bad_table_of_spots_stops_the_stage(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"spots.csv row 3 column spot_id: spot '1' is there twice"):
        stage(tmp_path, "1,a,500,300\n1,b,500,300\n")
