"""Optical density relative to the slide's own background.

The hue-saturation-density idea of van der Laak et al. (Cytometry 39:275, 2000): in optical density, dividing by
the illumination becomes a subtraction, and the amount of stain separates from its colour. The illumination here
is a surface fitted to the slide, so that a pink, grey, stitched or graded background goes to zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from histostudy.tissue.registry import BoolMask, Image

Density = NDArray[np.float32]

#: Local standard deviation of green density below which a pixel is featureless. Measured at 8 um a pixel: glass
#: lies below 0.005, tissue above 0.015 nearly everywhere.
SMOOTH_SD = (0.006, 0.012)
#: Featureless pixels denser than this are dense for themselves (a blurred pen), never illumination.
MAX_BACKGROUND = 0.30
#: ... nor if this much denser than the bright part of the background.
MAX_ABOVE_BRIGHT = 0.15
#: Colour (see `chroma`) of the brightest featureless pixels above which they are pale smooth tissue, not glass.
#: Measured: pink backgrounds of HER2ST 0.03, pale stroma 0.08.
MAX_BACKGROUND_CHROMA = 0.06
#: A slide with a smaller share of background than this has none.
MIN_BACKGROUND_SHARE = 0.01
#: Density of clean glass, taken where the slide shows none (about 240 of 255).
GLASS = 0.026


def odd(um: float, mpp: float, least: int = 3) -> int:
    """Odd number of pixels nearest to `um` micrometres, at least `least`."""
    return max(least, 2 * int(um / mpp / 2) + 1)


#: Decadic optical density of each grey level against 255; not increasing, and 0 for 255.
TABLE = -np.log10((np.arange(256, dtype=np.float32) + 1) / 256)


def densest(density: Density) -> Density:
    """The largest of the three channels, (H, W); a reduction over so short an axis takes numpy ten times as long."""
    return np.maximum(np.maximum(density[..., 0], density[..., 1]), density[..., 2])


def palest(density: Density) -> Density:
    """The smallest of the three channels, (H, W)."""
    return np.minimum(np.minimum(density[..., 0], density[..., 1]), density[..., 2])


def summed(density: Density) -> Density:
    """The sum of the three channels, (H, W)."""
    return density[..., 0] + density[..., 1] + density[..., 2]


def local_sd(values: Density, size: int) -> Density:
    """Standard deviation, (H, W), in a square window of `size` pixels."""
    mean = cv2.blur(values, (size, size))
    square = cv2.blur(values * values, (size, size))
    return np.sqrt(np.maximum(square - mean * mean, 0))


@dataclass(frozen=True)
class Relative:
    """Optical density relative to the background.

    Attributes
    ----------
    density : ndarray of float32, (H, W, 3)
        Not negative; zero on the background. Each channel lies by itself in memory.
    background : ndarray of bool, (H, W)
        Pixels the background was estimated from; none where the image shows no background.
    has_background : bool
        Whether the image shows any.
    """

    density: Density
    background: BoolMask
    has_background: bool


def relative_density(rgb: Image, mpp: float) -> Relative:
    """Optical density relative to a background surface estimated from the image itself.

    Background is what is featureless (low standard deviation over 40 um), and not much denser than the brightest of
    such pixels. Its surface is a normalised convolution (Knutsson and Westin, CVPR 1993) of those pixels, from
    coarse to fine (9.6, 2.4 and 0.6 mm), so that a halo of eosin around a section counts as background too.

    Parameters
    ----------
    rgb : ndarray of uint8, (H, W, 3)
    mpp : float
        Micrometres per pixel.
    """
    planes = [np.asarray(plane, np.uint8) for plane in cv2.split(rgb)]
    green = planes[1]
    sd = local_sd(np.asarray(cv2.LUT(green, TABLE), np.float32), odd(40, mpp))
    palest_level = int(np.argmax(TABLE < MAX_BACKGROUND))
    smooth = (sd < _smooth_limit(sd)) & (cv2.min(cv2.min(planes[0], green), planes[2]) >= palest_level)
    least = MIN_BACKGROUND_SHARE * smooth.size
    if np.count_nonzero(smooth) >= least:
        # 256 grey levels: what is asked of their densities is read off histograms of them
        bright = smooth & (green >= _at_rank(_histogram(green, smooth), 0.25)[0])
        reference = np.array([_median(plane, bright) for plane in planes])
        if chroma(reference[None, None])[0, 0] > MAX_BACKGROUND_CHROMA:
            smooth[:] = False
        else:
            lows = np.argmax(TABLE - reference[:, None] < MAX_ABOVE_BRIGHT, axis=1)
            for plane, low in zip(planes, lows, strict=True):
                smooth &= plane >= low
    density = np.empty((3, *smooth.shape), np.float32)
    has_background = bool(np.count_nonzero(smooth) >= least)
    if has_background:
        for plane, surface, out in zip(planes, _surfaces(planes, smooth, mpp), density, strict=True):
            np.subtract(cv2.LUT(plane, TABLE), surface, out=out)
            np.maximum(out, 0, out=out)
    else:
        smooth[:] = False
        for plane, out in zip(planes, density, strict=True):
            dense, pale = _at_rank(_histogram(plane), 0.005)
            glass = min(float(TABLE[[dense, pale]].mean()), GLASS)
            cv2.LUT(plane, np.maximum(TABLE - np.float32(glass), 0), dst=out)
    return Relative(density.transpose(1, 2, 0), smooth, has_background)


def _smooth_limit(sd: Density) -> float:
    """Three times what the smoothest tenth of an image has, within `SMOOTH_SD`."""
    low, high = (limit / 3 for limit in SMOOTH_SD)
    rank = 0.1 * (sd.size - 1)
    if np.count_nonzero(sd < low) > rank + 1:  # spares the sorting of a picture that is mostly glass
        return SMOOTH_SD[0]
    return float(np.clip(3 * np.percentile(sd, 10), *SMOOTH_SD))


def _histogram(plane: Image, where: BoolMask | None = None) -> NDArray[np.int64]:
    mask = None if where is None else where.view(np.uint8)
    return np.asarray(cv2.calcHist([plane], [0], mask, [256], [0, 256])).astype(np.int64).ravel()


def _at_rank(counts: NDArray[np.int64], share: float) -> tuple[int, int]:
    """Grey levels of the pixels just before and just after a share of the pixels, the palest first."""
    upto = np.cumsum(counts[::-1])
    rank = share * (int(upto[-1]) - 1)
    first, last = np.searchsorted(upto, [math.floor(rank), math.ceil(rank)], side="right")
    return 255 - int(first), 255 - int(last)


def _median(plane: Image, where: BoolMask) -> np.float32:
    """Median density of the pixels at `where`."""
    return TABLE[list(_at_rank(_histogram(plane, where), 0.5))].mean()


def _surfaces(planes: Sequence[Image], where: BoolMask, mpp: float) -> list[Density]:
    """Smooth surface, (H, W), through the densities of each channel at `where`."""
    height, width = where.shape
    shrink = max(1, round(100 / mpp))
    small = (max(1, -(-width // shrink)), max(1, -(-height // shrink)))
    cell = mpp * width / small[0]

    def smoothed(full: NDArray[np.floating]) -> list[Density]:
        image = cv2.resize(full, small, interpolation=cv2.INTER_AREA)
        sigmas = (max(0.5, um / cell) for um in (4800, 1200, 300))
        blurred = (cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT) for sigma in sigmas)
        return [np.asarray(one, np.float32) for one in blurred]

    weights = smoothed(where.astype(np.float32))
    found = []
    for plane in planes:
        there = cv2.LUT(np.where(where, plane, np.uint8(255)), TABLE)
        totals = smoothed(np.asarray(there, np.float32))
        estimate = np.full(small[::-1], _median(plane, where))
        for w, v in zip(weights, totals, strict=True):
            estimate = (v + 0.02 * estimate) / (w + 0.02)
        grown = cv2.resize(estimate, (width, height), interpolation=cv2.INTER_LINEAR)
        found.append(np.asarray(grown, np.float32))
    return found


def chroma(density: Density) -> Density:
    """Colourfulness, (H, W): length of the density vector's part across the grey axis.

    Grey things (dust, shadows, coverslip edges, seams of a stitched scan) have none, however dark.
    """
    across = np.asarray(density - (summed(density) / 3)[..., None], np.float32)
    return np.sqrt(summed(across * across))
