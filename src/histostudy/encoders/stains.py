"""Densities of haematoxylin and eosin by colour deconvolution.

Ruifrok and Johnston, "Quantification of histochemical staining by color deconvolution", Anal Quant Cytol Histol
2001; the fixed vectors of haematoxylin, eosin and DAB given there. Fixed, not fitted to a slide: a fitted basis
would hide the very differences between stains that a study must see.
"""

from __future__ import annotations

import numpy as np

#: Optical density of red, green and blue for one unit of haematoxylin, eosin and DAB.
RGB_OF_STAIN = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
STAIN_OF_RGB = np.linalg.inv(RGB_OF_STAIN)
#: Optical density, natural logarithm, of each grey level.
_DENSITY = (-np.log(np.maximum(np.arange(256), 1) / 255)).astype(np.float32)
#: Stain densities are binned to bytes, this many a unit of density (0 to 2.55, finer than a grey level).
BINS = 100


def stain_density(rgb: np.ndarray) -> np.ndarray:
    """Densities of haematoxylin, eosin and the rest; below zero where the colour is not a mix of them.

    Parameters
    ----------
    rgb : ndarray of uint8, (H, W, 3)

    Returns
    -------
    ndarray of float32, (H, W, 3)
    """
    import cv2

    density = cv2.LUT(rgb, _DENSITY)
    return cv2.transform(density, STAIN_OF_RGB.T.astype(np.float32))


def as_bytes(density: np.ndarray) -> np.ndarray:
    """Densities (float32) as bytes, `BINS` a unit, cut at 0 and 255."""
    import cv2

    return cv2.convertScaleAbs(np.maximum(density, 0), alpha=BINS)
