"""From the pixels of a level to the pixels of a tile: exact scale, area-averaged when shrinking."""

from __future__ import annotations

import math

import numpy as np

#: A crop is taken as it is where resampling would move no pixel by more than this (px).
SNAP_PX = 0.25


def source_side(size_px: int, step: float) -> int:
    """Whole source pixels that cover `size_px` pixels of `step` source pixels each."""
    return size_px if is_crop(size_px, step) else math.ceil(size_px * step - 1e-6)


def is_crop(size_px: int, step: float) -> bool:
    """Whether `size_px` pixels at this step are the source's own to within a quarter of a pixel."""
    return abs(step - 1) * size_px < SNAP_PX


def resample(source: np.ndarray, step: float, size_px: int, out: np.ndarray | None = None) -> np.ndarray:
    """Resample a square from its top left corner, `step` source pixels to one.

    Parameters
    ----------
    source : ndarray of uint8, (source_side(size_px, step),) * 2 + (3,)
    step : float
        Source pixels per pixel, not rounded: OpenCV takes the scale itself rather than the ratio of sizes.
    size_px : int
    out : ndarray of uint8, (size_px, size_px, 3), optional
        Where the result goes.

    Returns
    -------
    ndarray of uint8, (size_px, size_px, 3)
        Each pixel the area-weighted mean of what it covers (bilinear where `step` is below 1 or hardly above).
    """
    if is_crop(size_px, step):
        return _into(out, source)
    import cv2

    side = source.shape[0]
    if step > 1 and round(side / step) < side:
        fits = out if round(side / step) == size_px else None  # else the last column or row is cut off
        shrunk = cv2.resize(source, None, dst=fits, fx=1 / step, fy=1 / step, interpolation=cv2.INTER_AREA)
        return shrunk if shrunk is out else _into(out, np.ascontiguousarray(shrunk[:size_px, :size_px]))
    # so near 1 that resize would see two equal sizes and copy, or enlarging: sample at the exact centres
    shift = (step - 1) / 2
    matrix = np.array([[step, 0, shift], [0, step, shift]], np.float64)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return _into(out, cv2.warpAffine(source, matrix, (size_px, size_px), flags=flags, borderMode=cv2.BORDER_REPLICATE))


def _into(out: np.ndarray | None, image: np.ndarray) -> np.ndarray:
    """`image`, copied to `out` where that is given and is not the image itself."""
    if out is None or out is image:
        return image
    out[:] = image
    return out


def block_mean(band: np.ndarray, k: int) -> np.ndarray:
    """Mean of `k` x `k` blocks of an image; the last column and row of blocks may be narrower.

    Parameters
    ----------
    band : ndarray of uint8, (H, W, 3)
    k : int

    Returns
    -------
    ndarray of uint8, (ceil(H / k), ceil(W / k), 3)
    """
    if k == 1:
        return band
    import cv2

    h, w = band.shape[:2]
    rows, columns = math.ceil(h / k), math.ceil(w / k)
    out = np.empty((rows, columns, 3), np.uint8)
    y_edges = [(0, h // k * k, 0, h // k), (h // k * k, h, h // k, rows)]
    x_edges = [(0, w // k * k, 0, w // k), (w // k * k, w, w // k, columns)]
    for y0, y1, r0, r1 in y_edges:
        for x0, x1, c0, c1 in x_edges:
            if y1 > y0 and x1 > x0:
                size = (c1 - c0, r1 - r0)
                out[r0:r1, c0:c1] = cv2.resize(band[y0:y1, x0:x1], size, interpolation=cv2.INTER_AREA)
    return out


def shrink_to(image: np.ndarray, step: float, width: int, height: int) -> np.ndarray:
    """Shrink a whole image by `step` to `width` x `height`, white where it ends early."""
    import cv2

    if step > 1:
        image = cv2.resize(image, None, fx=1 / step, fy=1 / step, interpolation=cv2.INTER_AREA)
    out = np.full((height, width, 3), 255, np.uint8)
    part = image[:height, :width]
    out[: part.shape[0], : part.shape[1]] = part
    return out
