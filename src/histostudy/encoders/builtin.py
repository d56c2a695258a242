"""The encoder without weights: named statistics of colour, stain, texture and nuclei.

Deterministic, the same on every machine to rounding, and each column means something a pathologist can look
up. Turning or flipping a tile changes no column (to rounding).
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from histostudy.codeversion import code_version
from histostudy.encoders import nuclei, stains, texture
from histostudy.encoders.base import Encoder, check_batch

_QUANTILES = (0.1, 0.5, 0.9)
_STAIN_QUANTILES = (0.1, 0.5, 0.9, 0.99)
COLOUR_NAMES = (
    "tissue_share",
    *(f"{c}_{s}" for c in ("red", "green", "blue", "saturation", "luminance") for s in ("mean", "std")),
    *(f"luminance_p{round(100 * q)}" for q in _QUANTILES),
)
STAIN_NAMES = (
    *(
        f"{s}_{k}"
        for s in ("haematoxylin", "eosin")
        for k in ("mean", "std", *(f"p{round(100 * q)}" for q in _STAIN_QUANTILES))
    ),
    "residual_mean",
    "residual_std",
    "haematoxylin_share",
    "haematoxylin_eosin_correlation",
)
NAMES = (
    *COLOUR_NAMES,
    *STAIN_NAMES,
    *texture.EDGE_NAMES,
    *texture.PATTERN_NAMES,
    *texture.COOCCURRENCE_NAMES,
    *nuclei.NUCLEUS_NAMES,
)
#: A pixel is tissue from this mean optical density of its luminance on (a luminance of 219).
TISSUE_LUMINANCE = 219


def identity_at(mpp: float) -> dict[str, Any]:
    """Identity of the vectors at a scale."""
    return {
        "encoder": "builtin",
        "hub_id": None,
        "revision": None,
        "weights_sha256": None,
        "variant": "statistics",
        "transform": {"mpp": float(mpp), "columns": len(NAMES)},
        "precision": "float32",
        "code": code_version("histostudy.encoders.builtin"),
    }


class Builtin(Encoder):
    """Statistics of tiles.

    Parameters
    ----------
    mpp : float
        Micrometres per pixel of the tiles; sizes of nuclei are in micrometres.
    """

    interpretable: ClassVar[bool] = True

    def __init__(self, mpp: float) -> None:
        self.name = "builtin"
        self.dim = len(NAMES)
        self.mpp = float(mpp)
        self.identity = identity_at(mpp)

    def names(self) -> tuple[str, ...]:
        """Name of each column."""
        return NAMES

    def encode(self, batch: np.ndarray) -> np.ndarray:
        """Vectors of a batch of uint8 (B, H, W, 3) tiles, as float32 (B, dim)."""
        import cv2

        check_batch(batch)
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)  # tiles are small; the shards of a study run side by side
        try:
            rows = [_tile(np.ascontiguousarray(tile), self.mpp) for tile in batch]
        finally:
            cv2.setNumThreads(threads)
        return np.array(rows, np.float32).reshape(len(batch), self.dim)


def _tile(rgb: np.ndarray, mpp: float) -> list[float]:
    import cv2

    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    saturation = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)[..., 1]
    grey_counts = np.bincount(grey.ravel(), minlength=256)
    row = [float(grey_counts[:TISSUE_LUMINANCE].sum() / grey.size)]
    for image in (*cv2.split(rgb), saturation, grey):
        mean, std = cv2.meanStdDev(image)
        row += [float(mean[0, 0]) / 255, float(std[0, 0]) / 255]
    row += [v / 255 for v in _quantiles(grey_counts, _QUANTILES)]

    density = stains.stain_density(rgb)
    haematoxylin, eosin, rest = cv2.split(density)
    for stain in (haematoxylin, eosin):
        mean, std = cv2.meanStdDev(stain)
        counts = np.bincount(stains.as_bytes(stain).ravel(), minlength=256)
        row += [float(mean[0, 0]), float(std[0, 0])]
        row += [v / stains.BINS for v in _quantiles(counts, _STAIN_QUANTILES)]
    mean, std = cv2.meanStdDev(rest)
    row += [float(mean[0, 0]), float(std[0, 0])]
    row += [_share(haematoxylin, eosin), _correlation(haematoxylin, eosin)]

    row += texture.edges(grey)
    row += texture.patterns(grey)
    row += texture.cooccurrence(grey)
    row += nuclei.nuclei(haematoxylin, mpp)
    return row


def _quantiles(counts: np.ndarray, quantiles: tuple[float, ...]) -> list[float]:
    """Byte at or below which the given shares of the pixels lie."""
    total = np.cumsum(counts)
    return [float(np.searchsorted(total, q * total[-1])) for q in quantiles]


def _share(haematoxylin: np.ndarray, eosin: np.ndarray) -> float:
    """Haematoxylin's share of both stains; 0.5 where there is none of either."""
    h = max(float(haematoxylin.mean(dtype=np.float64)), 0.0)
    e = max(float(eosin.mean(dtype=np.float64)), 0.0)
    return (h + 1e-3) / (h + e + 2e-3)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation over pixels; 0 where one is constant."""
    import cv2

    mean_a, std_a = cv2.meanStdDev(a)
    mean_b, std_b = cv2.meanStdDev(b)
    scale = float(std_a[0, 0] * std_b[0, 0])
    if scale < 1e-8:
        return 0.0
    # a BLAS product would depend on the number of threads
    return float(np.multiply(a, b, dtype=np.float64).mean() - mean_a[0, 0] * mean_b[0, 0]) / scale
