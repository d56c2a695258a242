"""Optical density relative to the slide's own background.

The hue-saturation-density idea of van der Laak et al. (Cytometry 39:275, 2000): in optical density, dividing by
the illumination becomes a subtraction, and the amount of stain separates from its colour. The illumination here
is a surface fitted to the slide, so that a pink, grey, stitched or graded background goes to zero.
"""

from __future__ import annotations

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


def optical_density(rgb: Image) -> Density:
    """Decadic optical density, (H, W, 3), of an 8-bit image against 255."""
    table = -np.log10((np.arange(256, dtype=np.float32) + 1) / 256)
    return np.asarray(cv2.LUT(rgb, table), np.float32)


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
        Not negative; zero on the background.
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
    od = optical_density(rgb)
    sd = local_sd(od[..., 1], odd(40, mpp))
    limit = float(np.clip(3 * np.percentile(sd, 10), *SMOOTH_SD))
    smooth = (sd < limit) & (densest(od) < MAX_BACKGROUND)
    if smooth.mean() >= MIN_BACKGROUND_SHARE:
        green = od[..., 1]
        bright = smooth & (green <= np.percentile(green[smooth], 25))
        reference = np.median(od[bright], axis=0)
        if chroma(reference[None, None])[0, 0] > MAX_BACKGROUND_CHROMA:
            smooth[:] = False
        else:
            smooth &= densest(od - reference) < MAX_ABOVE_BRIGHT
    if smooth.mean() < MIN_BACKGROUND_SHARE:
        glass = np.minimum(np.percentile(od, 0.5, axis=(0, 1)), GLASS).astype(np.float32)
        return Relative(np.maximum(od - glass, 0), np.zeros(smooth.shape, bool), False)
    surface = _surface(od, smooth, mpp)
    return Relative(np.maximum(od - surface, 0), smooth, True)


def _surface(od: Density, where: BoolMask, mpp: float) -> Density:
    """Smooth surface, (H, W, 3), through the pixels of `od` at `where`."""
    height, width = where.shape
    shrink = max(1, round(100 / mpp))
    small = (max(1, -(-width // shrink)), max(1, -(-height // shrink)))
    weight = cv2.resize(where.astype(np.float32), small, interpolation=cv2.INTER_AREA)
    total = cv2.resize(od * where[..., None], small, interpolation=cv2.INTER_AREA)
    estimate = np.broadcast_to(np.median(od[where], axis=0), total.shape).astype(np.float32)
    cell = mpp * width / small[0]
    for sigma_um in (4800, 1200, 300):
        sigma = max(0.5, sigma_um / cell)
        border = cv2.BORDER_REFLECT
        w = cv2.GaussianBlur(weight, (0, 0), sigma, borderType=border)[..., None]
        v = cv2.GaussianBlur(total, (0, 0), sigma, borderType=border).reshape(total.shape)
        estimate = (v + 0.02 * estimate) / (w + 0.02)
    return np.asarray(cv2.resize(estimate, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def chroma(density: Density) -> Density:
    """Colourfulness, (H, W): length of the density vector's part across the grey axis.

    Grey things (dust, shadows, coverslip edges, seams of a stitched scan) have none, however dark.
    """
    across = np.asarray(density - (summed(density) / 3)[..., None], np.float32)
    return np.sqrt(summed(across * across))
