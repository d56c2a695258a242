"""Texture of an 8-bit image: edges, local binary patterns, co-occurrence. All unchanged by turns and flips."""

from __future__ import annotations

from functools import cache

import numpy as np

LEVELS = 8
NEIGHBOURS = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))
EDGE_NAMES = ("edge_mean", "edge_std", "edge_coarse_mean", "edge_coarse_std", "laplacian_std")
PATTERN_NAMES = tuple(f"lbp_{k}" for k in range(9)) + ("lbp_rough",)
COOCCURRENCE_NAMES = tuple(
    f"glcm_{name}_{d}px" for d in (1, 4) for name in ("contrast", "homogeneity", "energy", "entropy", "correlation")
)


def edges(grey: np.ndarray) -> list[float]:
    """Mean and deviation of the gradient at full and at quarter size, deviation of the Laplacian."""
    import cv2

    out: list[float] = []
    small = cv2.resize(grey, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    for image in (grey, small):
        dx = cv2.Sobel(image, cv2.CV_32F, 1, 0, scale=1 / 8)
        dy = cv2.Sobel(image, cv2.CV_32F, 0, 1, scale=1 / 8)
        # cv2.magnitude rounds by where in memory its input lies, so the same tile could differ in the last digit
        mean, std = cv2.meanStdDev(np.sqrt(dx * dx + dy * dy))
        out += [float(mean[0, 0]), float(std[0, 0])]
    _, std = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))
    return [*out, float(std[0, 0])]


@cache
def _pattern_bins() -> np.ndarray:
    """Bin of each of the 256 patterns: bits set where there are at most two changes around, else 9."""
    codes = np.arange(256, dtype=np.uint8)
    bits = np.unpackbits(codes[:, None], axis=1)
    changes = (bits != np.roll(bits, 1, axis=1)).sum(axis=1)
    return np.where(changes <= 2, bits.sum(axis=1), 9).astype(np.uint8)


def patterns(grey: np.ndarray, margin: int = 3) -> list[float]:
    """Shares of the rotation-invariant uniform local binary patterns, eight neighbours.

    Ojala et al., IEEE TPAMI 2002. A neighbour counts as brighter from `margin` grey levels on, so that flat
    background and JPEG noise fall into the pattern of no brighter neighbour. The last bin of the uniform ones
    and ``lbp_0`` thus mean dark spots and flat or bright spots.
    """
    import cv2

    centre = cv2.add(grey[1:-1, 1:-1], np.array([margin], np.uint8))
    h, w = centre.shape
    code = np.zeros((h, w), np.uint8)
    for bit, (dy, dx) in enumerate(NEIGHBOURS):
        brighter = np.asarray(cv2.compare(grey[1 + dy : 1 + dy + h, 1 + dx : 1 + dx + w], centre, cv2.CMP_GE), np.uint8)
        code |= brighter & np.uint8(1 << bit)
    counts = np.bincount(_pattern_bins(), weights=np.bincount(code.ravel(), minlength=256), minlength=10)
    return list(counts / counts.sum())


def cooccurrence(grey: np.ndarray, distances: tuple[int, ...] = (1, 4)) -> list[float]:
    """Haralick's contrast, homogeneity, energy, entropy (bits) and correlation, over four directions together.

    Haralick, Shanmugam and Dinstein, IEEE Trans SMC 1973; `LEVELS` grey levels of equal width.
    """
    levels = grey >> 5
    out: list[float] = []
    i, j = np.meshgrid(np.arange(LEVELS), np.arange(LEVELS), indexing="ij")
    for d in distances:
        pairs = np.zeros(LEVELS * LEVELS)
        for a, b in (
            (levels[:, :-d], levels[:, d:]),
            (levels[:-d], levels[d:]),
            (levels[:-d, :-d], levels[d:, d:]),
            (levels[:-d, d:], levels[d:, :-d]),
        ):
            pairs += np.bincount((a * np.uint8(LEVELS) + b).ravel(), minlength=LEVELS * LEVELS)
        p = pairs.reshape(LEVELS, LEVELS)
        p = (p + p.T) / (2 * p.sum())
        mean = float((p * i).sum())
        variance = float((p * (i - mean) ** 2).sum())
        covariance = float((p * (i - mean) * (j - mean)).sum())
        filled = p[p > 0]
        out += [
            float((p * (i - j) ** 2).sum()),
            float((p / (1 + (i - j) ** 2)).sum()),
            float((p**2).sum()),
            float(-(filled * np.log2(filled)).sum()) + 0.0,
            covariance / variance if variance > 1e-12 else 1.0,
        ]
    return out
