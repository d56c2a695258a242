"""The fast backend gives OpenSlide's pixels, knows what it does not know, and decodes each tile once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from slides.drawn_slides import painted

from histostudy.errors import BadSlideError, StudyError
from histostudy.slides.native_backend import NativeSlide, open_native
from histostudy.slides.openslide_backend import OpenSlideSlide, over_white
from histostudy.slides.reader import open_raw, open_slide


def same_everywhere(path: Path, boxes: int = 8) -> None:
    """Whole upper levels, and boxes of level 0 across tile edges and the slide's own."""
    rng = np.random.default_rng(0)
    with open_raw(path, backend="native") as ours, open_raw(path, backend="openslide") as oracle:
        assert ours.level_dimensions == oracle.level_dimensions
        for level, (w, h) in enumerate(ours.level_dimensions):
            if level > 0 or w * h < 3e6:
                np.testing.assert_array_equal(ours.read_level(level, 0, 0, w, h), oracle.read_level(level, 0, 0, w, h))
        w, h = ours.level_dimensions[0]
        corners = rng.integers(-50, (w, h), (boxes, 2)).tolist() + [[-20, -20], [w - 100, h - 100], [w + 5, h + 5]]
        for x, y in corners:
            np.testing.assert_array_equal(ours.read_level(0, x, y, 301, 223), oracle.read_level(0, x, y, 301, 223))


@pytest.mark.parametrize(
    "options",
    [
        {"photometric": "rgb"},
        {"photometric": "ycbcr", "subsampling": (2, 2)},
        {"photometric": "ycbcr", "subsampling": (1, 1)},
        {"photometric": "ycbcr", "subsampling": (2, 1), "tile": (128, 240)},
    ],
)
def test_drawn_slides_are_identical(make_slide, options) -> None:
    same_everywhere(make_slide(**options))


def test_real_slides_are_identical(shared_data: Path) -> None:
    slides = shared_data / "slides"
    paths = [slides / "her2st" / "HER2ST-C2.svs", *sorted((slides / "regions").glob("*.tiff"))]
    paths += sorted((slides / "monuseg").glob("*.tiff"))[::6]
    paths += [slides / "edge_cases" / n for n in ("CMU-1-Small-Region.svs", "CMU-1-small.tiff", "CropBreastSlide.tiff")]
    for path in paths:
        same_everywhere(path)


def test_outside_is_white(make_slide) -> None:
    with open_slide(make_slide()) as slide:
        box = slide.read_level(0, 890, 690, 40, 30)
        assert (box[10:] == 255).all() and (box[:, 10:] == 255).all() and (box[:10, :10] != 255).any()
        assert (slide.read_level(1, 5000, 0, 7, 9) == 255).all()


def test_what_is_read_is_yours(make_slide) -> None:
    with open_slide(make_slide()) as slide:
        first = slide.read_level(0, 0, 0, 256, 256)
        first[:] = 0
        assert slide.read_level(0, 0, 0, 256, 256).any()


def test_row_major_decodes_each_stored_tile_once(make_slide) -> None:
    with open_slide(make_slide()) as slide:
        assert isinstance(slide, NativeSlide)
        slide.decoded = 0
        corners = np.array([(x, y) for y in range(0, 500, 100) for x in range(0, 800, 100)])
        tiles = list(slide.read_tiles(corners, 100, 0.5))
        assert len(tiles) == len(corners)
        assert slide.decoded == 4 * 2  # 4 columns and 2 rows of stored tiles lie under them


def test_a_small_cache_only_costs_time(make_slide) -> None:
    path = make_slide()
    oracle = OpenSlideSlide(path)
    small = open_native(oracle, cache_bytes=1)
    assert small is not None
    with small, open_raw(path, backend="openslide") as whole:
        np.testing.assert_array_equal(small.read_level(0, 100, 50, 700, 600), whole.read_level(0, 100, 50, 700, 600))
        assert len(small._cache) == 1


@pytest.mark.parametrize("compression", ["deflate", "lzw"])
def test_other_compressions_are_left_to_openslide(make_slide, compression) -> None:
    path = make_slide(compression=compression, levels=1)
    with open_slide(path) as slide:
        assert slide.backend == "openslide"
    with pytest.raises(StudyError, match="backend 'auto'"):
        open_slide(path, backend="native")


def test_jpeg_2000_svs_is_left_to_openslide(shared_data: Path) -> None:
    with open_slide(shared_data / "slides/edge_cases/TCGA-CR-7395-01A-01-TS1.svs", mpp=0.5) as slide:
        assert slide.backend == "openslide"
        assert slide.read_level(0, 0, 0, 300, 200).shape == (200, 300, 3)


def test_missing_tiles_are_left_to_openslide(make_slide) -> None:
    path = make_slide(levels=1)
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages[0].tags["TileByteCounts"]
        place, size = tag.valueoffset, tag.dtype.itemsize if hasattr(tag.dtype, "itemsize") else 4
    data = bytearray(path.read_bytes())
    data[place + size * 2 : place + size * 3] = bytes(size)
    path.write_bytes(data)
    assert open_native(OpenSlideSlide(path)) is None


def test_a_slide_cut_short_is_unreadable(make_slide) -> None:
    path = make_slide()
    with tifffile.TiffFile(path) as tiff:
        ends = [max(np.add(p.dataoffsets, p.databytecounts)) for p in tiff.pages]
    data = path.read_bytes()
    path.write_bytes(data[: max(ends) - 2000])
    with pytest.raises(BadSlideError) as bad, open_slide(path) as slide:
        slide.read_level(1, 0, 0, *slide.level_dimensions[1])
    assert bad.value.reason == "unreadable"


def test_a_damaged_tile_is_unreadable_not_grey(make_slide) -> None:
    path = make_slide(levels=1)
    with tifffile.TiffFile(path) as tiff:
        offset, count = tiff.pages[0].dataoffsets[5], tiff.pages[0].databytecounts[5]
    data = bytearray(path.read_bytes())
    data[offset : offset + count] = bytes(count)
    path.write_bytes(data)
    with open_slide(path) as slide:
        assert slide.backend == "native"
        assert slide.read_level(0, 0, 0, 200, 200).any()
        with pytest.raises(BadSlideError, match="unreadable"):
            slide.read_level(0, 256, 256, 200, 200)


def test_a_lost_disk_is_not_a_bad_slide(make_slide, monkeypatch) -> None:
    import os

    def lost(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    with open_slide(make_slide()) as slide:
        monkeypatch.setattr(os, "pread", lost)
        with pytest.raises(OSError, match="Input/output"):
            slide.read_level(0, 300, 300, 10, 10)


def test_broken_file_and_missing_file(tmp_path: Path) -> None:
    junk = tmp_path / "junk.svs"
    junk.write_bytes(b"not a slide" * 100)
    for backend in ("auto", "openslide", "fastslide"):
        with pytest.raises(BadSlideError, match="unreadable"):
            open_slide(junk, backend=backend)
    with pytest.raises(StudyError, match="no such slide"):
        open_slide(tmp_path / "none.svs")


def test_fastslide_on_request_is_near(make_slide) -> None:
    image = painted(600, 600)
    path = make_slide(image=image, photometric="ycbcr", subsampling=(1, 1))
    with open_slide(path, backend="fastslide") as fast, open_slide(path) as slide:
        assert fast.backend == "fastslide" and fast.level_dimensions == slide.level_dimensions
        assert fast.mpp == pytest.approx(slide.mpp)
        a, b = fast.read_level(0, 30, 40, 300, 200), slide.read_level(0, 30, 40, 300, 200)
        assert np.abs(a.astype(int) - b).max() <= 16


def test_associated_images(shared_data: Path) -> None:
    with open_slide(shared_data / "slides/edge_cases/CMU-1-Small-Region.svs") as slide:
        images = slide.associated()
    assert set(images) == {"label", "macro", "thumbnail"}
    assert images["label"].shape == (463, 387, 3) and images["label"].dtype == np.uint8


def test_transparent_is_white() -> None:
    rgba = np.array([[[10, 20, 30, 0], [10, 20, 30, 255], [100, 100, 100, 128]]], np.uint8)
    assert over_white(rgba).tolist() == [[[255, 255, 255], [10, 20, 30], [177, 177, 177]]]
