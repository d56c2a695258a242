"""The lattice: inside, complete, without duplicates, at the exact scale; tissue shares against a slow loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histostudy.errors import BadSlideError
from histostudy.tiles.lattice import Lattice

lattices = st.builds(
    Lattice,
    width_px0=st.integers(1, 9000),
    height_px0=st.integers(1, 9000),
    slide_mpp=st.floats(0.1, 0.5),
    mpp=st.floats(0.5, 2.5),
    size=st.integers(64, 512),
    overlap=st.integers(0, 63),
)


@settings(max_examples=150, deadline=None)
@given(lattices)
def test_tiles_are_inside_without_duplicates_and_row_major(lattice: Lattice) -> None:
    coords, grid = lattice.coords, lattice.grid
    assert len(coords) == len(grid) == len(lattice)
    assert len(np.unique(coords, axis=0)) == len(coords)
    if not len(coords):
        return
    assert coords.min() == 0
    assert (coords.max(axis=0) + lattice.size_px0 <= (lattice.width_px0 + 1e-6, lattice.height_px0 + 1e-6)).all()
    order = np.lexsort((grid[:, 0], grid[:, 1]))
    assert (order == np.arange(len(grid))).all()


@settings(max_examples=150, deadline=None)
@given(lattices)
def test_no_drift_and_no_tile_left_out(lattice: Lattice) -> None:
    for starts, length in ((lattice.columns_px0, lattice.width_px0), (lattice.rows_px0, lattice.height_px0)):
        n = len(starts)
        assert np.abs(starts - np.arange(n) * lattice.stride_px0).max(initial=0) <= 0.5 + 1e-6
        following = math.floor(n * lattice.stride_px0 + 0.5)
        assert following + math.ceil(lattice.size_px0 - 1e-6) > length


def test_exact_scale() -> None:
    lattice = Lattice(10_000, 8_000, 0.2271, 0.5, 224)
    assert lattice.size_px0 == pytest.approx(224 * 0.5 / 0.2271) == pytest.approx(493.17, abs=0.01)
    assert lattice.columns_px0[:4].tolist() == [0, 493, 986, 1480]
    assert lattice.mpp_effective == 0.5
    assert len(Lattice(448, 448, 0.25, 0.5, 224)) == 1
    assert len(Lattice(447, 448, 0.25, 0.5, 224)) == 0


def test_a_coarser_slide_is_refused_beyond_the_tolerance() -> None:
    assert Lattice(1000, 1000, 0.52, 0.5, 224).mpp_effective == 0.52
    with pytest.raises(BadSlideError) as bad:
        Lattice(1000, 1000, 0.53, 0.5, 224)
    assert bad.value.reason == "coarser_than_tiles"
    with pytest.raises(BadSlideError):
        Lattice(1000, 1000, 0.501, 0.5, 224, tolerance=0.0)


def test_overlap_shares_pixels() -> None:
    assert Lattice(1000, 300, 0.5, 0.5, 256, overlap=64).columns_px0.tolist() == [0, 192, 384, 576]
    with pytest.raises(ValueError, match="overlap"):
        Lattice(1000, 300, 0.5, 0.5, 256, overlap=256)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 1000),
    slide_mpp=st.floats(0.2, 0.5),
    size=st.integers(40, 120),
    overlap=st.integers(0, 30),
    downsample=st.floats(1.0, 9.0),
)
def test_tissue_fraction_against_a_slow_loop(
    seed: int, slide_mpp: float, size: int, overlap: int, downsample: float
) -> None:
    lattice = Lattice(900, 700, slide_mpp, 0.5, size, overlap)
    shape = (math.ceil(700 / downsample), math.ceil(900 / downsample))
    mask = np.random.default_rng(seed).random(shape) < 0.4
    got = lattice.tissue_fraction(mask, downsample)
    side = lattice.size_px0
    for k in range(0, len(lattice), 7):
        x, y = lattice.coords[k] / downsample
        n = side / downsample
        area = 0.0
        for r in range(int(y), min(math.ceil(y + n), shape[0])):
            for c in range(int(x), min(math.ceil(x + n), shape[1])):
                if mask[r, c]:
                    area += (min(y + n, r + 1) - max(y, r)) * (min(x + n, c + 1) - max(x, c))
        assert got[k] == pytest.approx(area / n**2, abs=1e-5)


def test_all_and_nothing() -> None:
    lattice = Lattice(5000, 4000, 0.25, 0.5, 224)
    assert lattice.tissue_fraction(np.ones(lattice.mask_shape, bool)).min() == pytest.approx(1)
    assert lattice.tissue_fraction(np.zeros(lattice.mask_shape, bool)).max() == 0


def test_the_mask_of_a_huge_slide_is_bounded() -> None:
    height, width = Lattice(400_000, 200_000, 0.1, 0.25, 128).mask_shape
    assert max(height, width) <= 6000
