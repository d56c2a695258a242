"""Write an RGB image as a pyramidal tiled JPEG TIFF that OpenSlide opens with its scale."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from histostudy.files import atomic

TILE_PX = 256
QUALITY = 85


def write_pyramid(path: str | Path, rgb: np.ndarray, mpp: float, *, reduce: int = 4, smallest_px: int = 256) -> None:
    """Write `rgb` and its reductions, deterministically.

    Parameters
    ----------
    path : str or Path
        The TIFF to write, whole or not at all.
    rgb : ndarray of uint8, shape (height, width, 3)
        Level 0.
    mpp : float
        Micrometres per pixel of level 0, stored as resolution (px/cm), where OpenSlide looks for it.
    reduce : int
        Factor between levels.
    smallest_px : int
        No level with a longer side below this.
    """
    import cv2
    import tifffile

    with atomic(path) as temporary, tifffile.TiffWriter(temporary, bigtiff=False, byteorder="<") as tiff:
        level, image, scale = 0, rgb, mpp
        while True:
            tiff.write(
                image,
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": QUALITY},
                tile=(TILE_PX, TILE_PX),
                resolution=(1e4 / scale, 1e4 / scale),
                resolutionunit="CENTIMETER",
                subfiletype=1 if level else 0,
                software=False,
                metadata=None,
                maxworkers=1,
            )
            height, width = image.shape[0] // reduce, image.shape[1] // reduce
            if max(height, width) < smallest_px:
                return
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
            level, scale = level + 1, scale * reduce
