"""Statistics of nuclei: dark haematoxylin blobs of a nucleus' size, found without a trained model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

NUCLEUS_NAMES = (
    "nuclei_per_mm2",
    "nuclear_area_share",
    "nuclear_area_mean_um2",
    "nuclear_area_std_um2",
    "nuclear_elongation_mean",
    "nuclear_elongation_std",
    "nuclear_haematoxylin_mean",
    "nuclear_haematoxylin_std",
    "nuclear_contrast",
    "nuclear_distance_mean_um",
    "nuclear_distance_std_um",
)
#: Least haematoxylin density of a nucleus, and how far it must rise above its surroundings.
DENSITY, RISE = 0.35, 0.10
BLUR_UM, SURROUND_UM, APART_UM = 0.8, 12.0, 3.0
MIN_UM2, MAX_UM2 = 8.0, 400.0


def nuclei(haematoxylin: np.ndarray, mpp: float) -> list[float]:
    """Statistics of the nuclei of one tile, in the order of `NUCLEUS_NAMES`; zeros where there are none.

    A pixel is nuclear where the blurred density passes `DENSITY` and half of its highest value within 3 um (so
    that blur moves no edge), and stands `RISE` above the mean of its surroundings (12 um). Pieces under 8 um2
    are dropped. Nuclei are counted as the peaks of the blurred density at least 3 um apart, so that two that
    touch are two; area and shape are of the pieces up to 400 um2.

    Parameters
    ----------
    haematoxylin : ndarray of float32, (H, W)
        Density, as `histostudy.encoders.stains.stain_density` gives it.
    mpp : float
        Micrometres per pixel.
    """
    import cv2

    sigma = max(BLUR_UM / mpp, 0.5)
    size = 2 * int(np.ceil(3 * sigma)) + 1
    smooth = cv2.GaussianBlur(haematoxylin, (size, size), sigma)
    side = 2 * max(1, round(SURROUND_UM / mpp)) + 1
    around = cv2.blur(smooth, (side, side), borderType=cv2.BORDER_REFLECT)
    reach = 2 * max(1, round(APART_UM / mpp)) + 1
    top = cv2.dilate(smooth, np.ones((reach, reach), np.uint8))
    mask = ((smooth > np.maximum(DENSITY, top / 2)) & (smooth - around > RISE)).astype(np.uint8)
    count, labels, stats, centres = cv2.connectedComponentsWithStats(mask, connectivity=8)
    areas_um2 = stats[:, cv2.CC_STAT_AREA] * mpp**2
    large = areas_um2 >= MIN_UM2
    large[0] = False
    if not large.any():
        return [0.0] * len(NUCLEUS_NAMES)

    ys, xs = np.nonzero(mask)
    piece = labels[ys, xs]
    inside = large[piece]
    ys, xs, piece = ys[inside], xs[inside], piece[inside]
    density = smooth[ys, xs]
    peaks = np.flatnonzero(density == top[ys, xs])
    tile_um2 = haematoxylin.size * mpp**2

    whole = np.flatnonzero(large & (areas_um2 <= MAX_UM2))
    elongation = _elongation(ys, xs, piece, centres, count)[whole] if len(whole) else np.zeros(1)
    areas = areas_um2[whole] if len(whole) else np.zeros(1)
    apart = _nearest(np.column_stack([ys[peaks], xs[peaks]])) * mpp
    outside = float(around[ys, xs].mean(dtype=np.float64))
    inner = float(density.mean(dtype=np.float64))
    return [
        len(peaks) / (tile_um2 / 1e6),
        len(ys) / haematoxylin.size,
        float(areas.mean()),
        float(areas.std()),
        float(elongation.mean()),
        float(elongation.std()),
        inner,
        float(density.std(dtype=np.float64)),
        inner - outside,
        float(apart.mean()) if len(apart) else 0.0,
        float(apart.std()) if len(apart) else 0.0,
    ]


def _elongation(ys: np.ndarray, xs: np.ndarray, piece: np.ndarray, centres: np.ndarray, count: int) -> np.ndarray:
    """Ratio of the long to the short axis of each piece's second moments; 1 for a disc."""
    dy, dx = ys - centres[piece, 1], xs - centres[piece, 0]
    n = np.maximum(np.bincount(piece, minlength=count), 1)
    sums: Callable[[np.ndarray], np.ndarray] = lambda v: np.bincount(piece, weights=v, minlength=count) / n  # noqa: E731
    # 1/12: variance of a pixel's own square, so that a line one pixel wide has a width
    yy, xx, xy = sums(dy * dy) + 1 / 12, sums(dx * dx) + 1 / 12, sums(dy * dx)
    middle, spread = (yy + xx) / 2, np.sqrt(((yy - xx) / 2) ** 2 + xy**2)
    return np.sqrt((middle + spread) / np.maximum(middle - spread, 1 / 12))


def _nearest(points: np.ndarray) -> np.ndarray:
    """Distance of each point to the nearest other; empty for fewer than two points."""
    if len(points) < 2:
        return np.zeros(0)
    from scipy.spatial import cKDTree

    return cKDTree(points).query(points, k=2)[0][:, 1]
