"""Clean-up of a mask: small pieces and small holes; sections of tissue."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from histostudy.tissue.density import odd
from histostudy.tissue.registry import BoolMask


def drop_small(mask: BoolMask, least_px: float) -> BoolMask:
    """`mask` without its 4-connected pieces of fewer than `least_px` pixels."""
    n, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    keep = stats[:, cv2.CC_STAT_AREA] >= least_px
    keep[0] = False
    return keep[labels] if n > 1 else np.zeros(mask.shape, bool)


def fill_small(mask: BoolMask, below_px: float) -> BoolMask:
    """`mask` with its holes of fewer than `below_px` pixels filled; a gap open to the border is no hole."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=8)
    x, y, w, h, area = stats.T
    fill = (area < below_px) & (x > 0) & (y > 0) & (x + w < mask.shape[1]) & (y + h < mask.shape[0])
    fill[0] = False
    return mask | fill[labels]


def clean(
    mask: BoolMask,
    mpp: float,
    *,
    min_area_um2: float,
    min_hole_um2: float,
    exclude: BoolMask | None = None,
) -> BoolMask:
    """Fill small holes, then drop small pieces.

    Parameters
    ----------
    mask : ndarray of bool, (H, W)
    mpp : float
        Micrometres per pixel.
    min_area_um2 : float
        Pieces smaller than this many square micrometres are dropped.
    min_hole_um2 : float
        Holes smaller than this are filled.
    exclude : ndarray of bool, (H, W), optional
        Pixels that stay out (pen), also where they lie in a hole that is filled.
    """
    area = mpp * mpp
    mask = fill_small(mask, min_hole_um2 / area)
    if exclude is not None:
        mask = mask & ~exclude
    # A field smaller than the least area (a small region given as a slide) is not to vanish for its size.
    return drop_small(mask, min(min_area_um2 / area, 0.5 * mask.size))


def sections(mask: BoolMask, mpp: float, gap_um: float = 300.0) -> tuple[NDArray[np.int32], int]:
    """Number the sections: pieces of tissue no further apart than `gap_um` micrometres are of one section.

    Returns
    -------
    labels : ndarray of int32, (H, W)
        0 off the tissue, else 1 to n, in reading order of each section's first pixel.
    n : int
    """
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (odd(gap_um, mpp),) * 2)
    pad = disk.shape[0]
    wide = cv2.copyMakeBorder(mask.astype(np.uint8), pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=0)
    _, joined = cv2.connectedComponents(cv2.dilate(wide, disk), connectivity=8)
    return in_reading_order(np.where(mask, joined[pad:-pad, pad:-pad], 0))


def in_reading_order(labels: NDArray[np.int32]) -> tuple[NDArray[np.int32], int]:
    """The same sections, numbered from 1 by their first pixel, and how many they are; 0 stays 0."""
    found, first = np.unique(labels, return_index=True)
    ordered = found[np.argsort(first)]
    ordered = ordered[ordered > 0]
    number = np.zeros(int(labels.max(initial=0)) + 1, np.int32)
    number[ordered] = np.arange(1, len(ordered) + 1)
    return number[labels], len(ordered)


def nearest_label(labels: NDArray[np.int32], mask: BoolMask) -> NDArray[np.int32]:
    """`labels` on `mask`; a pixel that has none takes that of the nearest one that has (1 where none has)."""
    from scipy import ndimage

    if not labels.any():
        return mask.astype(np.int32)
    if (mask & (labels == 0)).any():
        y, x = ndimage.distance_transform_edt(labels == 0, return_distances=False, return_indices=True)
        labels = labels[y, x]
    return np.where(mask, labels, 0).astype(np.int32)
