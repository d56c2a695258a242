"""Segmenters on drawn slides whose truth is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from histostudy.errors import ConfigError
from histostudy.tissue.density import relative_density
from histostudy.tissue.mask import clean, drop_small, fill_small, sections
from histostudy.tissue.pen import find_pen
from histostudy.tissue.registry import SEGMENTERS, segment

MPP = 8.0
INK = {"red": (205, 20, 40), "green": (40, 160, 130), "blue": (50, 100, 200), "black": (25, 25, 28)}
GLASS = {
    "white": ((245, 245, 245), (245, 245, 245)),
    "pink": ((236, 220, 236), (240, 214, 232)),
    "grey": ((200, 200, 202), (238, 238, 238)),
    "graded pink": ((246, 244, 246), (238, 205, 228)),
}


def draw(glass: str = "white", pen: str | None = None, size: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A slide of glass, an H&E-like section and perhaps a stroke of pen; its tissue and its pen."""
    rng = np.random.default_rng(0)
    left, right = (np.array(c, np.float32) for c in GLASS[glass])
    ramp = np.linspace(0, 1, size, dtype=np.float32)[None, :, None]
    light = np.repeat(left + ramp * (right - left), size, axis=0)
    tissue = np.zeros((size, size), np.uint8)
    cv2.ellipse(tissue, (180, 210), (110, 80), 20, 0, 360, 1, -1)
    eosin = np.array([0.05, 0.22, 0.12], np.float32) * rng.uniform(0.5, 1.5, (size, size, 1))
    nuclei = (rng.random((size, size)) < 0.25)[..., None] * np.array([0.35, 0.4, 0.18], np.float32)
    rgb = light * 10 ** -(tissue[..., None] * (eosin + nuclei))
    stroke = np.zeros((size, size), np.uint8)
    if pen:
        cv2.line(stroke, (330, 40), (345, 360), 1, 18)
        cv2.line(stroke, (180, 150), (340, 120), 1, 18)  # over the tissue
        rgb = np.where(stroke[..., None] > 0, rgb * np.array(INK[pen], np.float32) / 255, rgb)
    rgb += rng.normal(0, 1.0, rgb.shape)
    return np.clip(rgb, 0, 255).astype(np.uint8), tissue > 0, stroke > 0


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize("glass", GLASS)
def test_classical_on_any_background(glass: str) -> None:
    rgb, truth, _ = draw(glass)
    found = segment(rgb, MPP, "classical")
    assert iou(clean(found.tissue, MPP, min_area_um2=5e4, min_hole_um2=2e4), truth) > 0.93
    assert not found.pen.any()


def test_otsu_on_white() -> None:
    rgb, truth, _ = draw("white")
    assert iou(segment(rgb, MPP, "otsu").tissue, truth) > 0.93


@pytest.mark.parametrize("method", ["otsu", "classical"])
@pytest.mark.parametrize("colour", INK)
@pytest.mark.parametrize("glass", ["white", "pink"])
def test_pen_is_found_and_left_out(colour: str, glass: str, method: str) -> None:
    rgb, truth, stroke = draw(glass, colour)
    found = segment(rgb, MPP, method)
    # blue ink over blue nuclei is told from them worst
    assert (found.pen & stroke).sum() > (0.9 if colour == "blue" else 0.97) * stroke.sum()
    assert (found.pen & ~cv2.dilate(stroke.astype(np.uint8), np.ones((13, 13))).astype(bool)).sum() == 0
    assert not (found.tissue & found.pen).any()
    near = cv2.dilate(stroke.astype(np.uint8), np.ones((13, 13))).astype(bool)
    mask = clean(found.tissue, MPP, min_area_um2=5e4, min_hole_um2=2e4, exclude=found.pen)
    assert iou(mask & ~near, truth & ~near) > 0.9
    assert (segment(rgb, MPP, method, {"exclude_pen": False}).tissue & found.pen & truth).any()


@pytest.mark.parametrize("method", ["otsu", "classical"])
def test_no_background_is_all_tissue(method: str) -> None:
    rgb, truth, _ = draw()
    field = rgb[170:250, 130:230]
    assert truth[170:250, 130:230].all()
    assert segment(field, MPP, method).tissue.mean() > 0.99


@pytest.mark.parametrize("method", ["otsu", "classical"])
@pytest.mark.parametrize("level", [255, 244, 205])
def test_bare_glass_has_no_tissue(method: str, level: int) -> None:
    rng = np.random.default_rng(1)
    rgb = np.clip(level + rng.normal(0, 1.5, (200, 220, 3)), 0, 255).astype(np.uint8)
    found = segment(rgb, MPP, method)
    assert not found.tissue.any() and not found.pen.any()


@pytest.mark.parametrize("method", ["otsu", "classical"])
@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 2, 3), (1, 500, 3)])
def test_tiny_images(method: str, shape: tuple[int, int, int]) -> None:
    found = segment(np.full(shape, 240, np.uint8), 200.0, method)
    assert found.tissue.shape == found.pen.shape == shape[:2]


@pytest.mark.parametrize("method", ["otsu", "classical"])
def test_a_flip_of_the_slide_flips_the_mask(method: str) -> None:
    rgb, _, _ = draw("graded pink")
    a, b = segment(rgb, MPP, method).tissue, segment(rgb[:, ::-1], MPP, method).tissue[:, ::-1]
    assert iou(a, b) > 0.99


def test_registered_and_options_checked() -> None:
    rgb, _, _ = draw()
    segment(rgb, MPP, "otsu")
    assert {"otsu", "classical"} <= set(SEGMENTERS)
    with pytest.raises(ConfigError, match="did you mean 'otsu'"):
        segment(rgb, MPP, "ostu")
    with pytest.raises(ConfigError, match="known: median_um, threshold, exclude_pen"):
        segment(rgb, MPP, "otsu", {"median": 3})
    with pytest.raises(ConfigError, match="red, green, blue, black"):
        find_pen(relative_density(rgb, MPP).density, MPP, colours=("pink",))
    with pytest.raises(ValueError, match="8-bit"):
        segment(rgb[..., 0], MPP, "otsu")
    with pytest.raises(ValueError, match="mpp"):
        segment(rgb, 0.0, "otsu")


def test_min_area_and_holes() -> None:
    mask = np.zeros((100, 100), bool)
    mask[10:50, 10:50] = True  # 1600 px
    mask[20:25, 20:25] = False  # a hole of 25
    mask[30:42, 30:42] = False  # and one of 144
    mask[70:75, 70:75] = True  # a piece of 25
    mask[0:60, 90:] = True
    mask[20:24, 97:] = False  # open to the border: no hole
    area = MPP**2
    out = clean(mask, MPP, min_area_um2=26 * area, min_hole_um2=26 * area)
    assert out[22, 22] and not out[35, 35] and not out[72, 72] and not out[22, 98]
    same = clean(mask, MPP, min_area_um2=25 * area, min_hole_um2=25 * area)
    np.testing.assert_array_equal(same, mask)
    pen = np.zeros_like(mask)
    pen[20:25, 20:25] = True
    assert not clean(mask, MPP, min_area_um2=0, min_hole_um2=1e9, exclude=pen)[22, 22]
    assert not drop_small(np.zeros((5, 5), bool), 1).any()
    assert fill_small(np.ones((5, 5), bool), 9).all()
    whole = np.ones((20, 20), bool)  # smaller than the least area, yet all of the field
    assert clean(whole, MPP, min_area_um2=1e6, min_hole_um2=0).all()


def test_sections_in_reading_order() -> None:
    mask = np.zeros((200, 300), bool)
    mask[100:150, 10:60] = True
    mask[10:60, 200:250] = True
    mask[10:60, 262:280] = True  # 96 um from the one before: the same section
    labels, n = sections(mask, MPP, gap_um=300)
    assert n == 2
    assert labels[30, 220] == labels[30, 270] == 1 and labels[120, 30] == 2
    np.testing.assert_array_equal(labels > 0, mask)
    assert sections(np.zeros((9, 9), bool), MPP)[1] == 0
