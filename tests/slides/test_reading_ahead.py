"""Tiles in batches: the pixels of a tile read alone, whatever the order, the threads and the memory."""

from __future__ import annotations

import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from slides.drawn_slides import painted

from histostudy.errors import BadSlideError
from histostudy.slides.native_backend import NativeSlide
from histostudy.slides.prefetch import ordered
from histostudy.slides.reader import open_slide
from histostudy.slides.resample import block_mean
from histostudy.slides.scatter import cached

LATTICE = np.array([(x, y) for y in range(0, 620, 90) for x in range(0, 800, 90)])


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of 900 x 700 px with stored tiles of 128 px, mpp 0.5."""
    path = tmp_path_factory.mktemp("slide") / "slide.tiff"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(
            painted(700, 900), tile=(128, 128), compression="jpeg", photometric="ycbcr", subsampling=(2, 2),
            resolution=(2e4, 2e4), resolutionunit="CENTIMETER",
        )  # fmt: skip
    return path


def readers() -> int:
    return sum(thread.name.startswith("reader") for thread in threading.enumerate())


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_tiles_are_those_of_openslide(slide_path: Path, data: st.DataObject) -> None:
    """Places in any order, inside and outside, at any scale, with any memory and number of threads."""
    size = data.draw(st.integers(16, 300))
    mpp = 0.5 * data.draw(st.sampled_from([1.0, 2.0, 4.0, 0.9, 1.001, 1.7, 3.01]) | st.floats(0.8, 5))
    places = data.draw(st.lists(st.tuples(st.integers(-300, 950), st.integers(-300, 750)), min_size=1, max_size=12))
    aligned = data.draw(st.booleans())
    corners = np.array(places) // (4 if aligned else 1) * (4 if aligned else 1)
    workers, batch = data.draw(st.integers(0, 3)), data.draw(st.integers(1, 5))
    with open_slide(slide_path, backend="native") as ours, open_slide(slide_path, backend="openslide") as oracle:
        assert isinstance(ours, NativeSlide)
        ours._cache_bytes = data.draw(st.sampled_from([1, 600_000, 1 << 28]))
        got = list(ours.read_batches(corners, size, mpp, batch, workers=workers))
        assert [len(b) for b in got[:-1]] == [batch] * (len(got) - 1)
        want = [oracle.read_mpp(x, y, size, mpp) for x, y in corners.tolist()]
        np.testing.assert_array_equal(np.concatenate(got), np.stack(want))


@pytest.mark.parametrize("backend", ["native", "openslide", "fastslide"])
@pytest.mark.parametrize("mpp", [0.5, 1.0, 0.8])
def test_threads_change_no_pixel(slide_path: Path, backend, mpp) -> None:
    with open_slide(slide_path, backend=backend) as slide:
        alone = np.stack(list(slide.read_tiles(LATTICE, 90, mpp)))
        for workers in (1, 2, 5):
            np.testing.assert_array_equal(np.stack(list(slide.read_tiles(LATTICE, 90, mpp, workers=workers))), alone)
    assert readers() == 0


@pytest.mark.parametrize("workers", [0, 3])
def test_each_stored_tile_is_decoded_once_at_any_scale(slide_path: Path, workers) -> None:
    with open_slide(slide_path) as slide:
        assert isinstance(slide, NativeSlide)
        for mpp, side in ((0.5, 90), (1.0, 45), (0.8, 50)):
            slide.decoded = 0
            list(slide.read_tiles(LATTICE, side, mpp, workers=workers))
            assert slide.decoded == 7 * 5  # columns and rows of stored tiles under the lattice


def test_little_memory_costs_decodes_not_pixels(slide_path: Path) -> None:
    with open_slide(slide_path) as slide:
        assert isinstance(slide, NativeSlide)
        want = np.stack(list(slide.read_tiles(LATTICE, 90, 0.5)))
        slide._cache_bytes, slide.decoded = 1, 0
        np.testing.assert_array_equal(np.stack(list(slide.read_tiles(LATTICE, 90, 0.5))), want)
        assert slide.decoded > 7 * 5


def test_tiles_are_yours(slide_path: Path) -> None:
    with open_slide(slide_path) as slide:
        want = np.stack(list(slide.read_tiles(LATTICE, 90, 0.5)))
        kept = []
        for tile in slide.read_tiles(LATTICE, 90, 0.5, workers=2):
            kept.append(tile.copy())
            tile[:] = 0
        np.testing.assert_array_equal(np.stack(kept), want)


@pytest.mark.parametrize(("mpp", "k"), [(1.0, 2), (2.0, 4), (4.0, 8)])
def test_the_fast_scale_is_near_the_mean(slide_path: Path, mpp, k) -> None:
    """To the slide's edges; the last stored column and row are partly padding."""
    with open_slide(slide_path) as slide:
        whole = slide.read_level(0, 0, 0, 900, 700)
        width, height = 900 // k * k, 700 // k * k
        want = block_mean(whole[:height, :width], k)
        side = 48
        corners = np.array(
            [(x * k, y * k) for y in (0, height // k - side) for x in (0, 7, width // k - side)]
        )  # fmt: skip
        for (x, y), tile in zip(corners // k, slide.read_tiles(corners, side, mpp, fast_scale=True), strict=True):
            apart = np.abs(tile.astype(int) - want[y : y + side, x : x + side])
            assert apart.mean() < 1.5 and (apart > 40).mean() < 0.01
        assert (next(slide.read_tiles(np.array([[920, 0]]), side, mpp, fast_scale=True)) == 255).all()


@pytest.mark.parametrize("pixels", [1 << 26, 30_000])
@pytest.mark.parametrize("downsample", [1.5, 2.0, 3.3, 7.9, 9.0])
def test_the_whole_slide_at_the_fast_scale_is_near_the_exact_one(
    slide_path: Path, downsample: float, pixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one piece and in bands; as large, and to the slide's edges as well."""
    monkeypatch.setattr("histostudy.slides.base.BAND_PIXELS", pixels)
    with open_slide(slide_path) as slide:
        exact = slide.shrunk(downsample)
        fast = slide.shrunk(downsample, fast_scale=True)
    assert fast.shape == exact.shape == (round(700 / downsample), round(900 / downsample), 3)
    apart = np.abs(fast.astype(int) - exact)
    if downsample < 2:
        assert not apart.any()
    assert apart.mean() < 2 and (apart > 40).mean() < 0.01
    assert apart[-1].mean() < 15 and apart[:, -1].mean() < 15  # colour bleeds from padding


def test_the_fast_scale_decodes_smaller_and_needs_room(slide_path: Path) -> None:
    with open_slide(slide_path) as slide:
        shrinks = [slide._reading(LATTICE, 32, mpp, True).shrink for mpp in (0.5, 0.99, 1.0, 1.9, 2.0, 3.9, 4.0, 9.0)]
        assert shrinks == [1, 1, 2, 2, 4, 4, 8, 8]
        assert slide._reading(LATTICE, 32, 4.0).shrink == 1
        np.testing.assert_array_equal(
            np.stack(list(slide.read_tiles(LATTICE, 32, 0.9, fast_scale=True))),
            np.stack(list(slide.read_tiles(LATTICE, 32, 0.9))),
        )
    with open_slide(slide_path, backend="openslide") as slide:
        assert slide._reading(LATTICE, 32, 4.0, True).shrink == 1


@pytest.mark.parametrize("workers", [0, 1, 4])
@pytest.mark.parametrize("fast", [False, True])
def test_a_damaged_tile_ahead_is_an_error_not_a_hang(slide_path: Path, tmp_path: Path, workers, fast) -> None:
    damaged = tmp_path / "damaged.tiff"
    with tifffile.TiffFile(slide_path) as tiff:
        offset, count = tiff.pages[0].dataoffsets[30], tiff.pages[0].databytecounts[30]
    data = bytearray(slide_path.read_bytes())
    data[offset : offset + count] = bytes(count)
    damaged.write_bytes(data)
    with open_slide(damaged) as slide:
        assert slide.backend == "native"
        with pytest.raises(BadSlideError, match="unreadable"):
            list(slide.read_tiles(LATTICE, 45, 1.0, workers=workers, fast_scale=fast))
        above = LATTICE[LATTICE[:, 1] < 128 * 3]  # stored row 4 holds the damage
        assert len(list(slide.read_tiles(above, 32, 0.5, workers=workers))) == len(above)
    assert readers() == 0


@pytest.mark.parametrize("backend", ["native", "openslide"])
def test_closing_early_ends_the_threads(slide_path: Path, backend) -> None:
    with open_slide(slide_path, backend=backend) as slide:
        tiles = slide.read_tiles(np.tile(LATTICE, (40, 1)), 90, 0.5, workers=3)
        next(tiles)
        assert readers() > 0
        tiles.close()
        assert readers() == 0


def test_a_lost_disk_ahead_is_not_a_bad_slide(slide_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    with open_slide(slide_path) as slide:
        monkeypatch.setattr("os.pread", lost)
        with pytest.raises(OSError, match="Input/output"):
            list(slide.read_tiles(LATTICE, 45, 1.0, workers=2))


def test_what_is_ahead_is_bounded() -> None:
    begun: list[int] = []

    def task(i: int) -> int:
        begun.append(i)
        time.sleep(0.001 * (i % 3))
        return i

    tasks = ordered((partial(task, i) for i in range(100)), 3, ahead=5)
    assert [next(tasks) for _ in range(10)] == list(range(10))
    time.sleep(0.05)
    assert len(begun) <= 10 + 5 + 1
    tasks.close()
    assert len(begun) < 100


def test_adjoining_stored_tiles_are_one_read(slide_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    reads: list[int] = []
    pread = os.pread

    def counted(file: int, size: int, offset: int) -> bytes:
        reads.append(offset)
        return pread(file, size, offset)

    with open_slide(slide_path) as slide:
        monkeypatch.setattr(os, "pread", counted)
        list(slide.read_tiles(LATTICE, 90, 0.5))
    assert len(reads) < 7 * 5 / 3 and reads == sorted(reads)


def test_decoders_write_through_the_cache() -> None:
    for shape in ((1, 90, 90, 3), (256, 256, 3), (7, 5, 3)):
        memory = cached(shape)
        assert memory.shape == shape and memory.flags.c_contiguous and memory.ctypes.data % 32 == 16
