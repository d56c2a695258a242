"""Otsu's threshold on saturation: what most pipelines do, and the default.

Otsu, IEEE Trans. SMC 9:62 (1979), on the saturation of HSV after a median filter, as CLAM does (Lu et al., Nature
Biomedical Engineering 5:555, 2021) and most after it. Otsu always cuts an image in two, so the two cases with one
class are handled: a field without background (a cut-out region) is all tissue, bare glass has none.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from histostudy.tissue.density import odd, relative_density
from histostudy.tissue.pen import find_pen
from histostudy.tissue.registry import SEGMENTERS, Image, Segmentation

#: Mean saturation (0 to 255) of the paler class above which that class is tissue too. Measured: background of
#: whole slides, pink ones included, up to 21; the paler class of 34 fields that are all tissue, from 33.
ALL_TISSUE = 28.0
#: Saturation that tissue must have at the least: noise on bare glass reaches 5.
LEAST_SATURATION = 12


@SEGMENTERS.register("otsu")
def otsu(
    rgb: Image, mpp: float, *, median_um: float = 56.0, threshold: int | None = None, exclude_pen: bool = True
) -> Segmentation:
    """Tissue by Otsu's threshold on saturation.

    Parameters
    ----------
    rgb : ndarray of uint8, (H, W, 3)
    mpp : float
        Micrometres per pixel.
    median_um : float
        Width of the median filter in micrometres.
    threshold : int, optional
        Saturation (0 to 255) above which a pixel is tissue, instead of Otsu's.
    exclude_pen : bool
        Leave pen out of the tissue. False is the plain method.

    Returns
    -------
    Segmentation
    """
    size = min(odd(median_um, mpp), 255)
    with ThreadPoolExecutor(1) as thread:  # the median takes as long as the pen, and OpenCV does it in one thread
        smoothed = thread.submit(cv2.medianBlur, rgb, size)
        pen = find_pen(relative_density(rgb, mpp).density, mpp)
        hsv = cv2.cvtColor(smoothed.result(), cv2.COLOR_RGB2HSV)
    saturation = np.asarray(cv2.extractChannel(hsv, 1), np.uint8)
    judged = saturation[~pen] if exclude_pen and pen.any() and not pen.all() else saturation.ravel()
    if threshold is None:
        threshold = _threshold(judged)
    tissue = saturation > threshold
    return Segmentation(tissue & ~pen if exclude_pen else tissue, pen)


def _threshold(saturation: Image) -> int:
    """Otsu's threshold, -1 where all is tissue, and never below what noise on glass reaches."""
    found, _ = cv2.threshold(saturation.reshape(-1, 1), 0, 255, cv2.THRESH_OTSU)
    paler = np.bincount(saturation, minlength=256)[: int(found) + 1]
    if paler.any() and np.average(np.arange(len(paler)), weights=paler) > ALL_TISSUE:
        return -1
    return max(int(found), LEAST_SATURATION)
