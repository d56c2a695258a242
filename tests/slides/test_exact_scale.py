"""A tile has exactly the scale asked for: against a slow area average in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slides.drawn_slides import painted

from histostudy.slides.base import Slide
from histostudy.slides.reader import open_slide
from histostudy.slides.resample import block_mean, resample, source_side


class ArraySlide(Slide):
    """Levels held in memory."""

    backend = "array"

    def __init__(self, levels: list[np.ndarray], mpp: float) -> None:
        from pathlib import Path

        super().__init__(Path("array"))
        self.levels = levels
        self.level_dimensions = tuple((a.shape[1], a.shape[0]) for a in levels)
        self.level_downsamples = tuple(levels[0].shape[1] / a.shape[1] for a in levels)
        self.mpp, self.mpp_source = mpp, "table"
        self.read: list[int] = []

    def _read(self, level: int, x: int, y: int, w: int, h: int) -> np.ndarray:
        self.read.append(level)
        return self.levels[level][y : y + h, x : x + w].copy()

    def close(self) -> None:
        pass


def slow_area_mean(image: np.ndarray, x: float, y: float, size: int, step: float) -> np.ndarray:
    """Each output pixel the mean of the source under it, by a loop over overlaps."""

    def weights(start: float, length: int) -> np.ndarray:
        w = np.zeros((size, length))
        for i in range(size):
            low, high = start + i * step, start + (i + 1) * step
            for j in range(int(low), min(int(np.ceil(high)), length)):
                w[i, j] = max(0.0, min(high, j + 1) - max(low, j))
        return w / w.sum(axis=1, keepdims=True)

    wy, wx = weights(y, image.shape[0]), weights(x, image.shape[1])
    return np.stack([wy @ image[..., c].astype(np.float64) @ wx.T for c in range(3)], axis=2)


@settings(max_examples=25, deadline=None)
@given(step=st.floats(1.05, 6.0), size=st.integers(16, 64))
def test_resample_is_the_area_mean(step: float, size: int) -> None:
    side = source_side(size, step)
    source = painted(side, side)
    got = resample(source, step, size)
    assert got.shape == (size, size, 3)
    assert np.abs(got - slow_area_mean(source, 0, 0, size, step)).max() <= 1.0


@settings(max_examples=20, deadline=None)
@given(step=st.floats(0.95, 1.05), size=st.integers(16, 300))
def test_resample_always_has_the_size(step: float, size: int) -> None:
    side = source_side(size, step)
    assert resample(np.zeros((side, side, 3), np.uint8), step, size).shape == (size, size, 3)


def test_the_issue_example_reads_its_area() -> None:
    """A 0.2271 slide asked for 0.5: 224 px cover 224 * 0.5 / 0.2271 = 493.2 level-0 px."""
    image = painted(700, 700)
    slide = ArraySlide([image], 0.2271)
    got = slide.read_mpp(60, 110, 224, 0.5)
    want = slow_area_mean(image, 60, 110, 224, 0.5 / 0.2271)
    assert np.abs(got - want).max() <= 1.0
    rounded = slow_area_mean(image, 60, 110, 224, 2.0)  # what rounding the scale would give
    assert np.abs(got - rounded).mean() > 3


def test_same_scale_is_the_stored_pixels() -> None:
    image = painted(400, 400)
    slide = ArraySlide([image], 0.5)
    np.testing.assert_array_equal(slide.read_mpp(33, 57, 224, 0.5), image[57 : 57 + 224, 33 : 33 + 224])


@pytest.mark.parametrize(("mpp", "level"), [(0.25, 0), (0.5, 0), (0.99, 0), (1.0, 1), (1.7, 1), (4.0, 2), (16, 2)])
def test_the_level_is_never_coarser_than_asked(mpp: float, level: int) -> None:
    image = painted(800, 803)  # 803 / 200 = 4.015: level 2 is a little coarser than four times
    slide = ArraySlide([image, image[::4, ::4][:200, :200], image[::16, ::16]], 0.25)
    slide.read_mpp(0, 0, 16, mpp * (1.02 if level else 1.0))
    assert set(slide.read) == {level}


def test_a_slightly_coarser_slide_is_enlarged() -> None:
    image = painted(400, 400)
    tile = ArraySlide([image], 0.51).read_mpp(0, 0, 224, 0.5)
    assert tile.shape == (224, 224, 3)
    assert np.abs(tile.astype(int).mean() - image[:220, :220].mean()) < 1


@pytest.mark.parametrize("k", [1, 2, 3, 7])
def test_block_mean(k: int) -> None:
    image = painted(50, 61)
    got = block_mean(image, k)
    for r in range(got.shape[0]):
        for c in range(got.shape[1]):
            block = image[r * k : (r + 1) * k, c * k : (c + 1) * k].reshape(-1, 3)
            assert np.abs(got[r, c] - block.mean(axis=0)).max() <= 0.51


@settings(max_examples=20, deadline=None)
@given(step=st.floats(0.9, 1.05), size=st.integers(32, 200))
def test_near_one_the_picture_does_not_shift(step: float, size: int) -> None:
    """A ramp of one grey level a pixel shows where each pixel was taken."""
    side = source_side(size, step)
    ramp = np.repeat(np.arange(side, dtype=np.uint8)[None, :, None], side, axis=0).repeat(3, axis=2)
    got = resample(ramp, step, size)[5, 2:-2, 0]
    want = (np.arange(size) + 0.5) * step - 0.5
    assert np.abs(got - want[2:-2]).max() <= 0.8


@pytest.mark.parametrize("mpp", [0.1, 0.5, 1.3, 8.0])
def test_thumbnail_is_the_area_mean(mpp: float, monkeypatch: pytest.MonkeyPatch) -> None:
    image = painted(500, 640)
    slide = ArraySlide([image], 0.5)
    whole, effective = slide.thumbnail(mpp)
    assert effective == pytest.approx(0.5 * 640 / whole.shape[1])
    if mpp > 0.5:
        assert effective == pytest.approx(mpp, rel=0.02)
        n = min(30, *whole.shape[:2])
        want = slow_area_mean(image, 0, 0, n, effective / 0.5)
        assert np.abs(whole[: n - 1, : n - 1] - want[:-1, :-1]).max() <= 1.0
    else:
        np.testing.assert_array_equal(whole, image)
    banded = []
    for rows in (40, 77):
        monkeypatch.setattr("histostudy.slides.base.BAND_PIXELS", 640 * rows)
        banded.append(slide.thumbnail(mpp)[0])
    np.testing.assert_array_equal(*banded)
    assert np.abs(banded[0].astype(float) - whole).mean() < 2


def test_tiles_come_in_the_order_asked(make_slide) -> None:
    corners = np.array([[500, 300], [0, 0], [300, 10], [500, 300]])
    with open_slide(make_slide()) as slide:
        tiles = list(slide.read_tiles(corners, 100, 0.8))
        for corner, tile in zip(corners.tolist(), tiles, strict=True):
            np.testing.assert_array_equal(tile, slide.read_mpp(*corner, 100, 0.8))


def test_no_scale_no_tiles(make_slide) -> None:
    from histostudy.slides.reader import open_raw

    with open_raw(make_slide(mpp=None)) as slide, pytest.raises(ValueError, match="mpp"):
        slide.read_mpp(0, 0, 10, 0.5)
