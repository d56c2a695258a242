"""Clean-up of a mask: small pieces and small holes; sections of tissue."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from histostudy.tissue.density import odd
from histostudy.tissue.registry import BoolMask


def bounds(mask: BoolMask) -> tuple[slice, slice]:
    """Rows and columns between which all of a mask lies: a slide is mostly glass."""
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    return slice(y, y + height), slice(x, x + width)


def drop_small(mask: BoolMask, least_px: float) -> BoolMask:
    """`mask` without its 4-connected pieces of fewer than `least_px` pixels."""
    out = np.zeros(mask.shape, bool)
    box = bounds(mask)
    if (part := mask[box]).size:
        _, labels, stats, _ = cv2.connectedComponentsWithStats(part.astype(np.uint8), connectivity=4)
        keep = stats[:, cv2.CC_STAT_AREA] >= least_px
        keep[0] = False
        out[box] = keep[labels]
    return out


def fill_small(mask: BoolMask, below_px: float) -> BoolMask:
    """`mask` with its holes of fewer than `below_px` pixels filled; a gap open to the border is no hole."""
    out = mask.copy()
    part = out[bounds(mask)]  # what reaches its edge reaches the border
    if part.size:
        _, labels, stats, _ = cv2.connectedComponentsWithStats((~part).astype(np.uint8), connectivity=8)
        x, y, w, h, area = stats.T
        fill = (area < below_px) & (x > 0) & (y > 0) & (x + w < part.shape[1]) & (y + h < part.shape[0])
        fill[0] = False
        part |= fill[labels]
    return out


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
    labels = np.zeros(mask.shape, np.int32)
    box = bounds(mask)
    if (part := mask[box]).size:
        wide = cv2.copyMakeBorder(part.astype(np.uint8), pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=0)
        _, joined = cv2.connectedComponents(cv2.dilate(wide, disk), connectivity=8)
        labels[box] = np.where(part, joined[pad:-pad, pad:-pad], 0)
    return in_reading_order(labels)


def reading_order(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """The labels above 0, by their first pixel."""
    flat = labels.ravel()
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))  # of runs: few, where pixels are many
    found, first = np.unique(flat[starts], return_index=True)
    ordered = found[np.argsort(first)]
    return ordered[ordered > 0]


def in_reading_order(labels: NDArray[np.int32]) -> tuple[NDArray[np.int32], int]:
    """The same sections, numbered from 1 by their first pixel, and how many they are; 0 stays 0."""
    ordered = reading_order(labels)
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
