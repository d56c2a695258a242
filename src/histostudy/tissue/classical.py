"""Stain-aware tissue: colour of the optical density relative to the slide's own background.

Saturation as Otsu's method takes it is high on a pink background and on coloured haloes, and does not tell
where the glass is. Here the glass is found first (see `histostudy.tissue.density`), its colour and gradient are
taken out, and tissue is what then still has colour. Grey things, such as shadows, dust, coverslip edges and the
seams of a stitched scan, have none.
"""

from __future__ import annotations

import cv2
import numpy as np

from histostudy.tissue.density import chroma, odd, relative_density
from histostudy.tissue.pen import find_pen
from histostudy.tissue.registry import SEGMENTERS, Image, Segmentation


@SEGMENTERS.register("classical")
def classical(
    rgb: Image,
    mpp: float,
    *,
    sigma_um: float = 8.0,
    least: float = 0.012,
    most: float = 0.035,
    close_um: float = 40.0,
    exclude_pen: bool = True,
) -> Segmentation:
    """Tissue by the colour of its density relative to the background.

    Parameters
    ----------
    rgb : ndarray of uint8, (H, W, 3)
    mpp : float
        Micrometres per pixel.
    sigma_um : float
        Gaussian smoothing of the chroma, in micrometres.
    least, most : float
        Bounds on the threshold (optical density across the grey axis). Between them it is Otsu's, or what
        the background itself reaches, whichever is more.
    close_um : float
        Gaps up to this width, such as lumina and the cells of fat, belong to the tissue around them.
    exclude_pen : bool
        Leave pen out of the tissue.

    Returns
    -------
    Segmentation
        With no background in the image, all that is not pen is tissue, but for clear white of more than
        `close_um` width.
    """
    relative = relative_density(rgb, mpp)
    pen = find_pen(relative.density, mpp)
    colour = cv2.GaussianBlur(chroma(relative.density), (0, 0), max(0.5, sigma_um / mpp))
    tissue = colour > _threshold(colour, relative.background, pen, least, most)
    close = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (odd(close_um, mpp),) * 2)
    tissue = cv2.morphologyEx(tissue.astype(np.uint8), cv2.MORPH_CLOSE, close).astype(bool)
    return Segmentation(tissue & ~pen if exclude_pen else tissue, pen)


def _threshold(colour: np.ndarray, background: np.ndarray, pen: np.ndarray, least: float, most: float) -> float:
    if not background.any():
        return least
    judged = colour[~pen] if not pen.all() else colour.ravel()
    levels = np.clip(judged / 0.3 * 255, 0, 255).astype(np.uint8).reshape(-1, 1)
    found, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_OTSU)
    noise = 1.5 * float(np.percentile(colour[background], 99))
    return float(np.clip(max(found / 255 * 0.3 / 2, noise), least, most))
