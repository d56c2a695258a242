"""Pen and other foreign marks: red, green, blue, and black with coverslip edges and dirt.

Rules on the ratios of optical density in red, green and blue, which do not depend on how strong a mark is. In H&E
the green density is the largest of the three: eosin is pink since it takes green, haematoxylin takes red as much
as green but hardly more. Ink breaks that: red ink takes nearly as much blue as green and little red, blue and
green ink take far more red than green, and black takes all alike. Each colour has a strict rule that makes a seed
and a loose one that a seed grows into (hysteresis), so that scattered odd pixels of tissue are no pen.

Ratios measured on HER2ST, MoNuSeg and TCGA regions: red over green up to 1.25 (99.9th percentile), blue over
green 0.25 to 0.75; red pen of HistoQC's example: 0.06 to 0.34 and 0.66 to 0.86.
"""

from __future__ import annotations

from functools import cached_property

import cv2
import numpy as np

from histostudy.errors import ConfigError
from histostudy.tissue.density import Density, densest, odd, palest, summed
from histostudy.tissue.registry import BoolMask

COLOURS = ("red", "green", "blue", "black")
#: Summed density below which colour is not to be judged.
LEAST = 0.25
#: Least blue over green of red ink: fields of eosin and blood alone reach 0.63.
B_RED = 0.64


class _Rules:
    """Strict and loose mask of each colour, none made before it is asked for."""

    def __init__(self, density: Density) -> None:
        self.red, self.green, self.blue = density[..., 0], density[..., 1] + 1e-3, density[..., 2]
        self.total = summed(density)
        self.r, self.b = self.red / self.green, self.blue / self.green
        self.seen = self.total > LEAST
        self._density = density

    @cached_property
    def b_red(self) -> float:
        """Blue over green from which red may be ink."""
        usual = min(float(np.median(self.b[self.seen])), 0.62) if self.seen.any() else 0.62
        return max(B_RED, usual + 0.09)

    @cached_property
    def grey(self) -> Density:
        return (densest(self._density) - palest(self._density)) / (self.total + 1e-3)

    def strict(self, colour: str, least_px: float) -> BoolMask | None:
        """None where it has fewer than `least_px` pixels."""
        match colour:
            case "red":
                found = self.seen & (self.r < 0.2) & (self.total > 0.5) & (self.b > B_RED)
                if np.count_nonzero(found) >= least_px:
                    found &= self.b > self.b_red
            case "green":
                found = self.seen & (self.r > 1.6) & (self.b > 0.7)
            case "blue":
                found = self.seen & (self.r > 1.45)
            case _:
                found = (self.total > 0.9) & (self.grey < 0.06)
        return found if np.count_nonzero(found) >= max(1, least_px) else None

    def loose(self, colour: str) -> BoolMask:
        r, b, total, seen = self.r, self.b, self.total, self.seen
        match colour:
            case "red":
                dark = (total > 1.5) & (b > 0.72)
                return seen & (((r < 0.4) & (b > self.b_red - 0.02)) | dark)
            case "green":
                return seen & (((r > 1.05) & (b > 0.72)) | (r > 1.4))
            case "blue":
                return seen & ((r > 1.28) | ((r > 1.15) & (total > 0.6)))
            case _:
                return (total > 0.4) & (self.grey < 0.1)


def find_pen(
    density: Density, mpp: float, *, colours: tuple[str, ...] = COLOURS, min_area_um2: float = 20_000.0
) -> BoolMask:
    """Pen, coverslip edges and black dirt.

    Parameters
    ----------
    density : ndarray of float32, (H, W, 3)
        Optical density relative to the background.
    mpp : float
        Micrometres per pixel.
    colours : tuple of str
        Which of `COLOURS` to look for.
    min_area_um2 : float
        Marks of a smaller seed area, in square micrometres, are left alone.

    Returns
    -------
    ndarray of bool, (H, W)
    """
    for colour in colours:
        if colour not in COLOURS:
            raise ConfigError(f"unknown pen colour {colour!r}", todo=f"known: {', '.join(COLOURS)}")
    found = np.zeros(density.shape[:2], bool)
    if min(found.shape) > 3:
        smoothed = np.empty((3, *found.shape), np.float32)  # each channel by itself in memory
        for k in range(3):
            smoothed[k] = cv2.medianBlur(np.ascontiguousarray(density[..., k]), 3)
        density = smoothed.transpose(1, 2, 0)
    rules = _Rules(density)
    bridge = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (odd(40, mpp),) * 2)
    for colour in colours:
        strict = rules.strict(colour, min_area_um2 / 2 / mpp**2)
        if strict is None:  # no seed can be large enough
            continue
        loose = rules.loose(colour) | strict
        joined = cv2.morphologyEx(loose.astype(np.uint8), cv2.MORPH_CLOSE, bridge)
        n, labels = cv2.connectedComponents(joined, connectivity=8)
        seeds = np.bincount(labels[strict], minlength=n) * mpp**2
        whole = np.bincount(labels[loose], minlength=n) * mpp**2
        keep = (seeds >= np.maximum(min_area_um2 / 2, 0.1 * whole)) & (whole >= min_area_um2)
        keep[0] = False
        found |= keep[labels] & loose
    if found.any():  # a dry stroke has gaps, a wet one bleeds: take its rim too
        rim = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (odd(24, mpp),) * 2)
        whole_stroke = cv2.morphologyEx(found.astype(np.uint8), cv2.MORPH_CLOSE, bridge)
        found = cv2.dilate(whole_stroke, rim).astype(bool)
    return found
