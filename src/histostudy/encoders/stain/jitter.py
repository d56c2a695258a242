"""Stain augmentation: the densities of haematoxylin, eosin and the rest of each tile moved at random.

Tellez et al., "Quantifying the effects of data augmentation and stain color normalization in convolutional neural
networks for computational pathology", Medical Image Analysis 2019, section 3.1: each stain s becomes a s + b with a
uniform in 1 - sigma to 1 + sigma and b uniform in -sigma to sigma; sigma 0.05 is their light, 0.2 their strong variant.
Unlike the transform ``hed`` of `histostudy.encoders.augment`, which is HistAug's one-parameter move, stains move apart.
"""

from __future__ import annotations

import numpy as np

from histostudy.encoders.base import check_batch
from histostudy.encoders.stains import RGB_OF_STAIN, STAIN_OF_RGB

LIGHT, STRONG = 0.05, 0.2
#: One is added to each grey level, so that black has a density and is black again.
_DENSITY = (-np.log((np.arange(256) + 1) / 256)).astype(np.float32)


def stain_jitter(batch: np.ndarray, rng: np.random.Generator, sigma: float = LIGHT) -> np.ndarray:
    """Tiles with the stains of each moved at random.

    Parameters
    ----------
    batch : ndarray of uint8, (B, H, W, 3)
    rng : numpy.random.Generator
        Six numbers are drawn a tile, in the order of the tiles.
    sigma : float
        Largest change, as a share of a stain and in units of density; 0 leaves the tiles as they are.

    Returns
    -------
    ndarray of uint8, (B, H, W, 3)

    Raises
    ------
    ValueError
        If `sigma` is negative, or the batch is none of tiles.
    """
    import cv2

    check_batch(batch)
    if not 0 <= sigma < 1:
        raise ValueError(f"sigma is from 0 to 1, not {sigma}")
    scale = rng.uniform(1 - sigma, 1 + sigma, (len(batch), 3))
    shift = rng.uniform(-sigma, sigma, (len(batch), 3))
    out = np.empty_like(batch)
    for i, tile in enumerate(batch):
        # density x is a row: x STAIN_OF_RGB are the stains; cv2.transform multiplies columns
        matrix = (STAIN_OF_RGB * scale[i] @ RGB_OF_STAIN).T
        move = np.column_stack([-matrix, -(shift[i] @ RGB_OF_STAIN)]).astype(np.float32)
        light = cv2.exp(cv2.transform(cv2.LUT(np.ascontiguousarray(tile), _DENSITY), move))
        out[i] = cv2.convertScaleAbs(np.maximum(light, np.float32(1 / 256)), alpha=256, beta=-1)
    return out
