"""Real images for the tissue tests, read by openslide-python and Pillow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest


def thumbnail(path: Path, mpp: float, slide_mpp: float | None = None) -> np.ndarray:
    """The slide at `mpp` on white, uint8 (H, W, 3)."""
    import openslide

    with openslide.OpenSlide(path) as slide:
        own = slide_mpp or float(slide.properties["openslide.mpp-x"])
        level = slide.get_best_level_for_downsample(max(1.0, mpp / own))
        rgba = np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level]), np.float32)
        size = tuple(max(1, round(side * own / mpp)) for side in slide.dimensions)
    alpha = rgba[..., 3:] / 255
    rgb = (rgba[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)


def picture(path: Path) -> np.ndarray:
    """A PNG as uint8 (H, W, 3) on white, or bool (H, W) if it has two levels."""
    from PIL import Image

    image = Image.open(path)
    if image.mode == "1":
        return np.asarray(image)
    rgba = np.asarray(image.convert("RGBA"), np.float32)
    alpha = rgba[..., 3:] / 255
    return (rgba[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


@pytest.fixture(scope="session")
def read_thumbnail() -> Callable[..., np.ndarray]:
    return thumbnail


@pytest.fixture(scope="session")
def read_picture() -> Callable[..., np.ndarray]:
    return picture
