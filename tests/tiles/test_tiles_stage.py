"""Tissue outlines to tile files: the same whatever the contours' cut, the same bytes, TRIDENT's attributes."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from histostudy.errors import BadSlideError, FeatureError
from histostudy.files import sha256
from histostudy.study import Tiles
from histostudy.tiles.lattice import Lattice
from histostudy.tiles.stage import lay_tiles, tile_slides
from histostudy.tiles.store import read_tiles, write_tiles


def outline(path: Path, rings: list[list[list[float]]]) -> Path:
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"objectType": "annotation", "classification": {"name": "Tissue"}},
        }
        for ring in rings
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


WHOLE = [[300, 250], [3700, 400], [3300, 2700], [900, 2900], [300, 250]]


def cut(x: float) -> list[list[list[float]]]:
    """`WHOLE` in two contours that meet at a vertical line."""
    from shapely import Polygon, box

    shape = Polygon(WHOLE)
    parts = [shape.intersection(box(-10, -10, x, 9999)), shape.intersection(box(x, -10, 9999, 9999))]
    return [[list(p) for p in part.exterior.coords] for part in parts]


@pytest.fixture
def lattice() -> Lattice:
    return Lattice(4000, 3000, 0.25, 0.5, 112)


@pytest.mark.parametrize("x", [1000.0, 1741.3, 2500.5])
def test_two_contours_give_the_tiles_of_one(tmp_path: Path, lattice: Lattice, x: float) -> None:
    one = lay_tiles("s", lattice, outline(tmp_path / "one.geojson", [WHOLE]), min_tissue=0.5)
    two = lay_tiles("s", lattice, outline(tmp_path / "two.geojson", cut(x)), min_tissue=0.5)
    np.testing.assert_array_equal(one.coords, two.coords)
    np.testing.assert_allclose(one.tissue_fraction, two.tissue_fraction, atol=0.01)


def test_the_share_is_the_polygons(tmp_path: Path, lattice: Lattice) -> None:
    from shapely import Polygon, box

    tiles = lay_tiles("s", lattice, outline(tmp_path / "one.geojson", [WHOLE]), min_tissue=0.0)
    assert len(tiles) == len(lattice)
    shape, side = Polygon(WHOLE), lattice.size_px0
    true = [shape.intersection(box(x, y, x + side, y + side)).area / side**2 for x, y in tiles.coords.tolist()]
    assert np.abs(tiles.tissue_fraction - true).max() < 0.02


def test_min_tissue_only_removes(tmp_path: Path, lattice: Lattice) -> None:
    path = outline(tmp_path / "one.geojson", [WHOLE])
    counts = [len(lay_tiles("s", lattice, path, min_tissue=m)) for m in (0.0, 0.1, 0.5, 0.9, 1.0)]
    assert counts == sorted(counts, reverse=True) and counts[-1] > 0


def test_no_tiles_has_its_reason(tmp_path: Path, lattice: Lattice) -> None:
    speck = outline(tmp_path / "speck.geojson", [[[10, 10], [60, 10], [60, 60], [10, 10]]])
    with pytest.raises(BadSlideError, match="no_tiles: no tile has 50% tissue"):
        lay_tiles("s", lattice, speck, min_tissue=0.5)
    with pytest.raises(BadSlideError, match="less than a tile"):
        lay_tiles("s", Lattice(100, 100, 0.25, 0.5, 112), speck, min_tissue=0.5)


def test_file_round_trip_and_trident_attributes(tmp_path: Path) -> None:
    lattice = Lattice(4000, 3000, 0.2271, 0.5, 224, overlap=16)
    tiles = lay_tiles("s-1", lattice, outline(tmp_path / "o.geojson", [WHOLE]), min_tissue=0.5, identity="abc")
    write_tiles(tmp_path / "a.h5", tiles)
    write_tiles(tmp_path / "b.h5", tiles)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    back = read_tiles(tmp_path / "a.h5")
    np.testing.assert_array_equal(back.coords, tiles.coords)
    np.testing.assert_array_equal(back.grid, tiles.grid)
    np.testing.assert_array_equal(back.tissue_fraction, tiles.tissue_fraction)
    assert back.coords.dtype == np.int64 and back.grid.dtype == np.int32
    assert back.attrs["slide_id"] == "s-1" and back.attrs["identity"] == "abc"
    assert back.attrs["size_px0"] == pytest.approx(493.17, abs=0.01)
    with h5py.File(tmp_path / "a.h5") as file:
        trident = dict(file["coords"].attrs)
    assert trident["patch_size"] == 224 and trident["patch_size_level0"] == 493
    assert trident["level0_magnification"] == 44 and trident["target_magnification"] == 20
    assert (trident["level0_width"], trident["level0_height"], trident["overlap"]) == (4000, 3000, 16)


def test_what_is_no_tile_file(tmp_path: Path) -> None:
    (tmp_path / "junk.h5").write_bytes(b"junk")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["features"] = np.zeros(3)
    for name in ("junk.h5", "other.h5", "none.h5"):
        with pytest.raises(FeatureError, match=name):
            read_tiles(tmp_path / name)


def test_stage(tmp_path: Path) -> None:
    tissue_dir, out = tmp_path / "tissue", tmp_path / "tiles"
    tissue_dir.mkdir()
    outline(tissue_dir / "a.geojson", [WHOLE])
    slides = pd.DataFrame(
        {
            "slide_id": ["d", "c", "b", "a"],
            "status": ["failed", "ok", "ok", "ok"],
            "mpp": [np.nan, 0.5, 3.2, 0.25],
            "width_px0": pd.array([None, 4000, 4000, 4000], dtype="Int64"),
            "height_px0": pd.array([None, 3000, 3000, 3000], dtype="Int64"),
        }
    )
    tissue = pd.DataFrame(
        {
            "slide_id": ["a", "b", "c"],
            "status": ["ok", "ok", "failed"],
            "file": ["a.geojson", "a.geojson", ""],
            "sha256": [sha256(tissue_dir / "a.geojson")] * 2 + [""],
        }
    )
    tiles = Tiles(mpp=0.5, size=112)
    index = tile_slides(slides, tissue, tissue_dir, tiles, out)
    assert index[["slide_id", "status", "reason"]].to_numpy().tolist() == [
        ["a", "ok", ""],
        ["b", "failed", "coarser_than_tiles"],
    ]
    assert index.loc[0, "n_tiles"] == len(read_tiles(out / "a.h5")) > 50
    assert index.loc[0, "size_px0"] == 224.0 and index.loc[1, "n_tiles"] == 0
    stamp = (out / "a.h5").stat().st_mtime_ns
    again = tile_slides(slides, tissue, tissue_dir, tiles, out)
    pd.testing.assert_frame_equal(index, again)
    assert (out / "a.h5").stat().st_mtime_ns == stamp
    other = tile_slides(slides, tissue, tissue_dir, Tiles(mpp=0.5, size=112, min_tissue=0.9), out)
    assert other.loc[0, "n_tiles"] < index.loc[0, "n_tiles"]
    relabelled = tile_slides(slides, tissue, tissue_dir, Tiles(mpp=0.5, size=112, label="x"), out)
    assert relabelled.loc[0, "identity"] == index.loc[0, "identity"]
    assert len(tile_slides(slides, tissue.iloc[2:], tissue_dir, tiles, out)) == 0
