"""Cross-sections told apart by the centres that their pixels point at.

SlideSegmenter (arXiv 2401.13511), section 2: a network gives every pixel of tissue its offset from the centre of the
section it lies in; the predicted centres are counted in a histogram, its peaks are the sections, and each pixel goes
to the peak nearest to the centre it predicts. So a section torn in two stays one, which connected components cannot do.
Everything here is in pixels: bins and pixels mixed up merge sections (one release of that program did so).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from histostudy.errors import ConfigError

#: Pixels that are assigned at once; bounds the memory whatever the size of the slide.
CHUNK = 1 << 20


def separate(
    mask: NDArray[np.bool_],
    dx: NDArray[np.floating],
    dy: NDArray[np.floating],
    *,
    pixels_per_bin: float = 20.0,
    sigma: float = 2.0,
    window: int = 15,
    percentile: float = 98.0,
    least: float = 0.005,
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Label the sections of a mask by predicted offsets.

    Parameters
    ----------
    mask : ndarray of bool, (H, W)
        Tissue.
    dx, dy : ndarray of float, (H, W)
        Offset of each pixel from the centre of its section, px: pixel (x, y) points at ``(x - dx, y - dy)``.
    pixels_per_bin : float
        Side of a bin of the histogram, px.
    sigma : float
        Gaussian filter of the histogram, bins.
    window : int
        A peak is the largest of a square of this many bins.
    percentile : float
        And above this percentile of the smoothed histogram, empty bins counted; or as high as `least` of the
        tissue in one bin would be, since many large sections push a small one below the percentile.
    least : float
        Peaks that less than this share of the tissue would go to are none: with few sections the percentile is
        about zero, and would let any stray pixel through.

    Returns
    -------
    labels : ndarray of int32, (H, W)
        0 off the mask, else 1 to n, in reading order of each section's first pixel. A mask without a peak is one
        section.
    centroids : ndarray of float64, (n, 2)
        (y, x) of the peaks, px; row k is of label k + 1.

    Raises
    ------
    ConfigError
        If an option is out of range.
    ValueError
        If the shapes differ.
    """
    if not (pixels_per_bin > 0 and sigma >= 0 and window >= 1 and 0 <= percentile <= 100 and 0 <= least < 1):
        raise ConfigError(
            "sections: pixels_per_bin above 0, sigma 0 or more, window 1 or more, percentile 0 to 100, least below 1"
        )
    if not mask.shape == dx.shape == dy.shape:
        raise ValueError(f"mask {mask.shape} and offsets {dx.shape}, {dy.shape} differ")
    labels = np.zeros(mask.shape, np.int32)
    y, x = np.nonzero(mask)
    if not len(y):
        return labels, np.zeros((0, 2))
    points = np.stack([y - dy[y, x], x - dx[y, x]], axis=1).astype(np.float64)
    peaks = _peaks(points, mask.shape, pixels_per_bin, sigma, window, percentile, least)
    nearest = _nearest(points, peaks)
    share = np.bincount(nearest, minlength=len(peaks)) / len(points)
    if (kept := share >= least).any() and not kept.all():
        peaks = peaks[kept]
        nearest = _nearest(points, peaks)
    found, first = np.unique(nearest, return_index=True)  # pixels come in reading order
    order = found[np.argsort(first)]
    number = np.zeros(len(peaks), np.int32)
    number[order] = np.arange(1, len(order) + 1)
    labels[y, x] = number[nearest]
    return labels, peaks[order]


def _peaks(
    points: NDArray[np.float64],
    shape: tuple[int, ...],
    pixels_per_bin: float,
    sigma: float,
    window: int,
    percentile: float,
    least: float,
) -> NDArray[np.float64]:
    """Peaks (y, x), in pixels, of the smoothed histogram; the mean of all points where there is none."""
    bins = [max(1, int(np.ceil(side / pixels_per_bin))) for side in shape]
    index = np.floor(points / pixels_per_bin)
    inside = ((index >= 0) & (index < bins)).all(axis=1)
    flat = index[inside].astype(np.int64) @ np.array([bins[1], 1])
    counts = np.bincount(flat, minlength=bins[0] * bins[1]).reshape(bins).astype(np.float64)
    smooth = ndimage.gaussian_filter(counts, sigma, mode="constant")
    highest = ndimage.maximum_filter(smooth, window, mode="constant")
    # many large sections would push a small one below the percentile: as much as `least` in one bin is enough
    enough = least * len(points) * float(ndimage.gaussian_filter1d(np.eye(1, 129, 64)[0], sigma)[64]) ** 2
    # and what the filter leaves of nothing is not above nothing
    floor = max(min(float(np.percentile(smooth, percentile)), enough), 1e-9 * float(smooth.max()))
    plateaus, n = ndimage.label((smooth == highest) & (smooth > floor), structure=np.ones((3, 3)))
    if n == 0:
        return points.mean(axis=0, keepdims=True)
    cells = np.array(ndimage.center_of_mass(plateaus > 0, plateaus, np.arange(1, n + 1)))
    return (cells + 0.5) * pixels_per_bin


def _nearest(points: NDArray[np.float64], peaks: NDArray[np.float64]) -> NDArray[np.intp]:
    """Number of the peak nearest to each point."""
    tree = cKDTree(peaks)
    out = np.empty(len(points), np.intp)
    for start in range(0, len(points), CHUNK):
        out[start : start + CHUNK] = tree.query(points[start : start + CHUNK])[1]
    return out
