"""The same tissue stained and scanned otherwise, simulated: what a robust encoder should not mind.

PLISM (Ochi et al., Scientific Data 2024) stained sections of one block in 13 ways and scanned each with 7 scanners.
Here the densities of both stains are turned and scaled, and the light is mixed, bent, blurred and compressed: made up,
of the order of what differs between laboratories, no measured laboratory or device. Nothing is drawn: a version is
the same for all tiles and every time. Real restaining also changes which structures take which stain, and real scanners
their focus over the slide: robust here is necessary, not sufficient.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from histostudy.encoders.base import check_batch
from histostudy.encoders.stain.fit import DENSITY, IO, StainFit
from histostudy.encoders.stains import RGB_OF_STAIN


@dataclass(frozen=True)
class StainChange:
    """Another staining.

    Attributes
    ----------
    haematoxylin, eosin : tuple of float
        Added to the vector of the stain (red, green, blue), whose length stays.
    strengths : tuple of float
        Factors of the amounts of haematoxylin and eosin.
    """

    haematoxylin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    eosin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    strengths: tuple[float, float] = (1.0, 1.0)


@dataclass(frozen=True)
class Scanner:
    """Another scanner.

    Attributes
    ----------
    mix : tuple of float
        Share of its own light in each channel that is exchanged with the mean of the other two.
    balance : tuple of float
        Factor of each channel.
    gamma : float
        Exponent of the intensity.
    blur_px : float
        S.d. of the blur, px of the tile; negative: an unsharp mask of it.
    jpeg : int
        Quality of the compression; 0 for none.
    """

    mix: tuple[float, float, float] = (0.0, 0.0, 0.0)
    balance: tuple[float, float, float] = (1.0, 1.0, 1.0)
    gamma: float = 1.0
    blur_px: float = 0.0
    jpeg: int = 0


STAINS: dict[str, StainChange] = {
    "own": StainChange(),
    "blue": StainChange((-0.06, 0.03, 0.08), (0.06, -0.02, 0.06), (1.3, 0.75)),
    "red": StainChange((0.05, 0.04, -0.06), (-0.05, 0.02, 0.08), (0.75, 1.35)),
}
SCANNERS: dict[str, Scanner] = {
    "own": Scanner(),
    "soft": Scanner((0.06, 0.03, 0.08), (1.0, 0.97, 0.93), 0.88, 0.8, 80),
    "crisp": Scanner((-0.05, -0.03, -0.04), (0.96, 1.0, 1.02), 1.14, -0.7, 70),
}
#: Every staining through every scanner; the first is the tile as it is.
VERSIONS: tuple[tuple[str, str], ...] = tuple(product(STAINS, SCANNERS))


def changed(batch: np.ndarray, version: tuple[str, str], fit: StainFit) -> np.ndarray:
    """Tiles of one slide in another version.

    Parameters
    ----------
    batch : ndarray of uint8, (B, H, W, 3)
    version : (str, str)
        One of `VERSIONS`: names of `STAINS` and `SCANNERS`.
    fit : StainFit
        Macenko's, of the slide; with a fallback the fixed vectors of Ruifrok and Johnston stand for it.

    Returns
    -------
    ndarray of uint8, (B, H, W, 3)
    """
    check_batch(batch)
    stain, scanner = STAINS[version[0]], SCANNERS[version[1]]
    out = batch if stain == StainChange() else np.stack([_restained(tile, stain, fit) for tile in batch])
    return out if scanner == Scanner() else np.stack([_rescanned(tile, scanner) for tile in out])


def _restained(tile: np.ndarray, stain: StainChange, fit: StainFit) -> np.ndarray:
    """Both stains moved; what is neither stays as it is."""
    import cv2

    own = fit.vectors if fit.vectors is not None else (RGB_OF_STAIN[:2].T / np.linalg.norm(RGB_OF_STAIN[:2], axis=1))
    new = np.maximum(own + np.array([stain.haematoxylin, stain.eosin]).T, 0)
    new = new / np.linalg.norm(new, axis=0) * stain.strengths
    matrix = np.eye(3) + (new - own) @ np.linalg.pinv(own)
    light = cv2.exp(cv2.transform(cv2.LUT(tile, DENSITY.astype(np.float32)), (-matrix).astype(np.float32)))
    return cv2.convertScaleAbs(np.maximum(light, np.float32(1 / IO)), alpha=IO, beta=-1)


def _rescanned(tile: np.ndarray, scanner: Scanner) -> np.ndarray:
    """Colour, intensity, sharpness and compression, in the order of a scanner's electronics."""
    import cv2

    mix = np.array(scanner.mix)
    matrix = np.diag(1 - mix) + (mix / 2)[:, None] * (1 - np.eye(3))
    light = cv2.transform(tile.astype(np.float32) / 255, (np.array(scanner.balance)[:, None] * matrix))
    light = np.clip(light, 0, 1) ** np.float32(scanner.gamma)
    if scanner.blur_px:
        soft = cv2.GaussianBlur(light, (0, 0), abs(scanner.blur_px))
        light = soft if scanner.blur_px > 0 else light + 0.6 * (light - soft)
    out = np.rint(np.clip(light, 0, 1) * 255).astype(np.uint8)
    if scanner.jpeg:
        stored = cv2.imencode(".jpg", out[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, scanner.jpeg])[1]
        out = np.ascontiguousarray(np.asarray(cv2.imdecode(stored, cv2.IMREAD_COLOR))[..., ::-1])
    return out
