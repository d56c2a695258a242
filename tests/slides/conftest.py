"""Small slides drawn for a test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from slides.drawn_slides import painted

MakeSlide = Callable[..., Path]


@pytest.fixture
def make_slide(tmp_path: Path) -> MakeSlide:
    """Write a pyramidal tiled TIFF: ``make_slide('a.tiff', image, mpp=0.5, levels=2, **tifffile options)``."""

    def make(
        name: str = "slide.tiff",
        image: np.ndarray | None = None,
        *,
        mpp: float | None = 0.5,
        levels: int = 2,
        **options: Any,
    ) -> Path:
        if image is None:
            image = painted(700, 900)
        path = tmp_path / name
        options = {"tile": (256, 256), "compression": "jpeg", "photometric": "rgb"} | options
        with tifffile.TiffWriter(path) as tiff:
            for level in range(levels):
                k = 2**level
                unit: dict[str, Any] = {"resolutionunit": "NONE"}
                if mpp is not None:
                    unit = {"resolution": (1e4 / (mpp * k),) * 2, "resolutionunit": "CENTIMETER"}
                reduced = {} if level == 0 else {"subfiletype": 1}
                tiff.write(np.ascontiguousarray(image[::k, ::k]), metadata=None, **options, **unit, **reduced)
        return path

    return make
