"""Changed versions of a tile: the thirteen image transforms of HistAug, each with a parameter, in a drawn order.

Boutaj et al., "Controllable latent space augmentation for digital pathology", ICCV 2025 (arXiv 2508.14588). What is
drawn is data: the value of each transform (0 leaves the tile as it is) and its place in the order, so that a network
can be told what was done. Tiles that are changed and features that are changed draw by the same `sample`.

The published ranges (intensity 1) turn the hue by up to half a circle, which no stain does. `INTENSITY` scales the
ranges of the continuous transforms; at 0.2 hue, brightness, contrast, saturation and gamma move by up to a tenth, the
light variation of Tellez et al. (Medical Image Analysis 2019).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from histostudy.encoders.stains import RGB_OF_STAIN, STAIN_OF_RGB

#: Default share of the published ranges.
INTENSITY = 0.2
#: The published range of a continuous transform is from -REACH to REACH.
REACH = 0.5
#: Side of a crop as a share of the tile's: 128 of 224 px.
CROP_SHARE = 128 / 224
#: Pixels; sigma follows from the size as in OpenCV and torchvision (2.6).
BLUR_PX = 15
KERNEL = np.ones((4, 4), np.uint8)
#: Haematoxylin, eosin and the rest, for a value of 1.
HED_STEP = np.array([-2.0, 2.0, -3.0]) * 0.03

Image = np.ndarray
Change = Callable[[Image, float], Image]


@dataclass(frozen=True)
class Transform:
    """A transform.

    Attributes
    ----------
    name : str
    change : callable
        Takes float32 (H, W, 3) of 0 to 1 and a value that is not 0; may leave 0 to 1, which is cut then.
    codes : int
        Number of values, from 0; 0 for a continuous one.
    chance : float
        Of a value other than 0, of one with codes.
    """

    name: str
    change: Change
    codes: int = 0
    chance: float = 0.5


@dataclass(frozen=True)
class Drawn:
    """Parameters of n changes.

    Attributes
    ----------
    values : ndarray of float32, (n, 13)
        One a transform, in the order of `TRANSFORMS`.
    positions : ndarray of int64, (n, 13)
        Place of each transform in the order in which they act, from 0.
    """

    values: np.ndarray
    positions: np.ndarray

    def __len__(self) -> int:
        return len(self.values)


def _crop(image: Image, code: float) -> Image:
    """The corners (top left, top right, bottom left, bottom right) and the centre; smaller than the tile."""
    height, width = image.shape[:2]
    rows, columns = (max(1, round(side * CROP_SHARE)) for side in (height, width))
    if code == 5:
        top, left = (height - rows) // 2, (width - columns) // 2
    else:
        top, left = (height - rows) * (code >= 3), (width - columns) * (code in (2, 4))
    return image[top : top + rows, left : left + columns]


def _blur(image: Image, _: float) -> Image:
    import cv2

    return cv2.GaussianBlur(image, (BLUR_PX, BLUR_PX), 0)


def _erosion(image: Image, _: float) -> Image:
    import cv2

    return cv2.erode(image, KERNEL)


def _dilation(image: Image, _: float) -> Image:
    import cv2

    return cv2.dilate(image, KERNEL)


def _grey(image: Image) -> Image:
    import cv2

    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def _contrast(image: Image, value: float) -> Image:
    mean = np.float32(_grey(image).mean(dtype=np.float64))
    return mean + (image - mean) * np.float32(1 + value)


def _saturation(image: Image, value: float) -> Image:
    grey = _grey(image)[..., None]
    return grey + (image - grey) * np.float32(1 + value)


def _hue(image: Image, value: float) -> Image:
    import cv2

    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = np.mod(hsv[..., 0] + np.float32(360 * value), np.float32(360))
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _hed(image: Image, value: float) -> Image:
    """Move the densities of the stains, o (1 + c s) + c s; the published offset of pi keeps the logarithm tame."""
    import cv2

    step = value * HED_STEP
    # cv2.transform multiplies columns: the matrices of row vectors are turned over
    stains = cv2.transform(-np.log(image + np.float32(np.pi)), STAIN_OF_RGB.T)
    stains = stains * (1 + step).astype(np.float32) + step.astype(np.float32)
    return np.exp(-cv2.transform(stains, RGB_OF_STAIN.T)) - np.float32(np.pi)


TRANSFORMS = (
    Transform("rotation", lambda image, code: np.rot90(image, int(code)), 4, 0.75),
    Transform("h_flip", lambda image, _: image[:, ::-1], 2, 0.75),
    Transform("v_flip", lambda image, _: image[::-1], 2, 0.75),
    Transform("crop", _crop, 6, 0.75),
    # how often the three below act is not published: our reading
    Transform("gaussian_blur", _blur, 2),
    Transform("erosion", _erosion, 2),
    Transform("dilation", _dilation, 2),
    Transform("brightness", lambda image, value: image * np.float32(1 + value)),
    Transform("contrast", _contrast),
    Transform("saturation", _saturation),
    Transform("gamma", lambda image, value: image ** np.float32(1 + value)),
    Transform("hue", _hue),
    Transform("hed", _hed),
)
#: Number of codes of each transform; 0 for a continuous one.
CODES = tuple(transform.codes for transform in TRANSFORMS)


def sample(n: int, rng: np.random.Generator, intensity: float = INTENSITY) -> Drawn:
    """Draw n changes; the only place where parameters come from.

    Parameters
    ----------
    n : int
        Number of changes.
    rng : numpy.random.Generator
        What is drawn from.
    intensity : float
        Share of the published ranges of the continuous transforms: values are uniform within -0.5 to 0.5 times this.
    """
    values = np.zeros((n, len(TRANSFORMS)), np.float32)
    for column, transform in enumerate(TRANSFORMS):
        if transform.codes:
            acts = rng.random(n) < transform.chance
            values[:, column] = np.where(acts, rng.integers(1, transform.codes, n), 0)
        else:
            values[:, column] = rng.uniform(-REACH, REACH, n) * intensity
    order = rng.permuted(np.tile(np.arange(len(TRANSFORMS)), (n, 1)), axis=1)
    return Drawn(values, order)


def augment(tile: np.ndarray, values: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Change a tile.

    Parameters
    ----------
    tile : ndarray of uint8, (H, W, 3)
        RGB; square where it may be rotated.
    values, positions : ndarray, (13,)
        A row of `Drawn`.

    Returns
    -------
    ndarray of uint8, (H, W, 3)
        Of the size of the tile: a crop is resized at the end, as an encoder's preprocessing would.
    """
    import cv2

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # tiles are small; the shards of a study run side by side
    try:
        image: Image = tile.astype(np.float32) / np.float32(255)
        for column in np.argsort(positions, kind="stable"):
            if value := float(values[column]):
                image = np.clip(np.ascontiguousarray(TRANSFORMS[column].change(image, value)), 0, 1)
        if image.shape != tile.shape:
            image = cv2.resize(image, (tile.shape[1], tile.shape[0]), interpolation=cv2.INTER_LINEAR)
    finally:
        cv2.setNumThreads(threads)
    return np.rint(image * 255).astype(np.uint8)
