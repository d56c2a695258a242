"""Parents lie on lattices with the same corner, and their cells are whole blocks of children."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histostudy.errors import ConfigError
from histostudy.files import sha256
from histostudy.scale_keys import multiple, scale_settings
from histostudy.study import Tiles
from histostudy.studyfile import checked
from histostudy.tiles.coarser import coarser_tiles
from histostudy.tiles.lattice import Lattice
from histostudy.tiles.store import TileSet, read_tiles, write_tiles


@settings(max_examples=60, deadline=None)
@given(
    slide_mpp=st.floats(0.2, 0.6), mpp=st.sampled_from([0.5, 0.6, 1.0]), size=st.integers(32, 260),
    overlap=st.integers(0, 16), factors=st.sampled_from([(2,), (2, 4), (3,), (2, 6), (4, 8)]), seed=st.integers(0, 99),
)  # fmt: skip
def test_parents_are_blocks_of_children(slide_mpp, mpp, size, overlap, factors, seed) -> None:
    lattice = Lattice(5000, 3700, slide_mpp, mpp, size, overlap, tolerance=0.5)
    keep = np.random.default_rng(seed).random(len(lattice)) < 0.3
    grid, coords = lattice.grid[keep], lattice.coords[keep]
    found = coarser_tiles(lattice, grid, [mpp * k for k in factors])
    for k, coarse in zip(factors, found, strict=True):
        np.testing.assert_array_equal(coarse.grid[coarse.parent], grid // k)
        assert len(np.unique(coarse.grid, axis=0)) == len(coarse) == len(np.unique(grid // k, axis=0))
        assert np.array_equal(coarse.grid, sorted(coarse.grid.tolist(), key=lambda c: (c[1], c[0])))
        # a child's corner lies in its parent's cell, and that of the first child is the parent's own
        step = k * lattice.stride_px0
        past = coords - coarse.coords[coarse.parent]
        assert (past >= -0.5).all() and (past <= step + 0.5).all()
        first = (grid % k == 0).all(axis=1)
        assert not past[first].any()
        # strides are whole multiples: child (k i + a) lies a strides from its parent, to the rounding of a pixel
        assert np.abs(past - (grid % k) * lattice.stride_px0).max(initial=0) <= 1
    for (k, fine), (m, coarse) in zip(
        zip(factors, found, strict=True), zip(factors[1:], found[1:], strict=True), strict=False
    ):
        np.testing.assert_array_equal(fine.grid // (m // k), coarse.grid[_rows(coarse.grid, fine.grid // (m // k))])


def _rows(grid: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    place = {tuple(cell): row for row, cell in enumerate(grid.tolist())}
    return np.array([place[tuple(cell)] for cell in wanted.tolist()], int)


@pytest.mark.parametrize(
    ("scales", "words"),
    [
        ([1.1], "2.2 times 0.5"), ([0.5], "1 times 0.5"), ([1.0, 2.5], "2.5 times 1"), ([2.0, 1.0], "0.5 times 2"),
        ([0.25], "0.5 times 0.5"), ([1.0, 1.0], "1 times 1"),
    ],
)  # fmt: skip
def test_scales_that_do_not_align_are_one_error(scales, words) -> None:
    with pytest.raises(ConfigError, match=words):
        checked(Tiles, mpp=0.5, scales=scales)


def test_scales_that_align() -> None:
    assert checked(Tiles, mpp=0.5, scales=[1.0, 2.0]).scales == [1.0, 2.0]
    assert checked(Tiles, mpp=0.1, scales=[0.3, 0.6]).scales == [0.3, 0.6]  # 0.3 / 0.1 is not 3 in floating point
    assert multiple(0.1, 0.3) == 3
    with pytest.raises(ConfigError, match="spots"):
        checked(Tiles, scales=[1.0], spots=Path("spots.csv"))


def test_settings_without_scales_are_those_of_before() -> None:
    old = Tiles().model_dump(mode="json", exclude={"scales", "jpeg_scale"})
    assert scale_settings(Tiles().model_dump(mode="json")) == old
    assert scale_settings(Tiles(jpeg_scale="fast").model_dump(mode="json")) == old
    assert scale_settings(Tiles(scales=[1.0]).model_dump(mode="json")) == old | {"scales": [1.0]}


def test_the_file_holds_them_and_nothing_without_them(tmp_path: Path) -> None:
    lattice = Lattice(3000, 2000, 0.25, 0.5, 100)
    attrs = {**lattice.facts(), "slide_id": "s", "identity": "x"}
    plain = TileSet(lattice.coords, lattice.grid, np.ones(len(lattice), np.float32), attrs)
    with_scales = replace(plain, coarser=coarser_tiles(lattice, lattice.grid, [1.0, 10.0]))
    none = replace(plain, coarser=coarser_tiles(lattice, lattice.grid, []))
    for name, tiles in (("plain", plain), ("none", none), ("scales", with_scales)):
        write_tiles(tmp_path / f"{name}.h5", tiles)
    assert sha256(tmp_path / "plain.h5") == sha256(tmp_path / "none.h5")
    back = read_tiles(tmp_path / "scales.h5")
    np.testing.assert_array_equal(back.coords, plain.coords)
    assert [c.mpp for c in back.coarser] == [1.0, 10.0]  # by number, not by name
    for got, want in zip(back.coarser, with_scales.coarser, strict=True):
        np.testing.assert_array_equal(got.coords, want.coords)
        np.testing.assert_array_equal(got.parent, want.parent)
    assert read_tiles(tmp_path / "plain.h5").coarser == ()
