"""OpenSlide: reads most formats, and is the oracle that the fast backend is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openslide

from histostudy.errors import BadSlideError
from histostudy.slides.base import Slide


def number(properties: Mapping[str, str], key: str) -> float | None:
    """A property as a number; None where it is absent or is not one."""
    try:
        return float(properties[key])
    except (KeyError, ValueError):
        return None


def check_readable(path: Path) -> None:
    """Read the file's two ends, so that a lost mount or a bad disk raises `OSError` here.

    OpenSlide says the same of a damaged slide and of a disk that went away; only the first is the slide's.
    """
    if path.is_dir():
        return
    with path.open("rb") as stream:
        stream.read(1 << 16)
        stream.seek(max(0, path.stat().st_size - (1 << 16)))
        stream.read()


class OpenSlideSlide(Slide):
    """A slide read by OpenSlide.

    Raises
    ------
    BadSlideError
        ``unreadable``.
    """

    backend = "openslide"
    concurrent = True

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            self._slide = openslide.OpenSlide(path)
        except openslide.OpenSlideUnsupportedFormatError:
            check_readable(path)
            raise BadSlideError("unreadable", "damaged, or not a slide format that OpenSlide knows") from None
        except openslide.OpenSlideError as error:
            check_readable(path)
            raise BadSlideError("unreadable", f"OpenSlide: {error}") from None
        self.properties = dict(self._slide.properties)
        self.vendor = self.properties.get(openslide.PROPERTY_NAME_VENDOR, "")
        self.level_dimensions = self._slide.level_dimensions
        self.level_downsamples = self._slide.level_downsamples
        x = number(self.properties, openslide.PROPERTY_NAME_MPP_X)
        y = number(self.properties, openslide.PROPERTY_NAME_MPP_Y)
        if x is not None or y is not None:
            self.mpp_xy = (x if x is not None else y, y if y is not None else x)  # type: ignore[assignment]
        self.objective_power = number(self.properties, openslide.PROPERTY_NAME_OBJECTIVE_POWER)

    def _read(self, level: int, x: int, y: int, w: int, h: int) -> np.ndarray:
        downsample = self.level_downsamples[level]
        corner = (round(x * downsample), round(y * downsample))
        try:
            image = self._slide.read_region(corner, level, (w, h))
        except openslide.OpenSlideError as error:
            check_readable(self.path)
            raise BadSlideError("unreadable", f"OpenSlide: {error}") from None
        return over_white(np.asarray(image))

    def associated(self) -> dict[str, np.ndarray]:
        try:
            return {name: over_white(np.asarray(im)) for name, im in self._slide.associated_images.items()}
        except openslide.OpenSlideError as error:
            check_readable(self.path)
            raise BadSlideError("unreadable", f"OpenSlide: {error}") from None

    def close(self) -> None:
        self._slide.close()


def over_white(rgba: np.ndarray) -> np.ndarray:
    """Lay uint8 RGBA (H, W, 4), not premultiplied, over white: uint8 (H, W, 3)."""
    rgb = np.ascontiguousarray(rgba[..., :3])
    alpha = rgba[..., 3]
    if alpha.min(initial=255) == 255:
        return rgb
    share = alpha[..., None].astype(np.uint16)
    mixed = (rgb * share + 255 * (255 - share) + 127) // 255
    return mixed.astype(np.uint8)
