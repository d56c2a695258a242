"""A thumbnail with its truth, and the changes it goes through while a network learns from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Picture:
    """A picture and what is where on it.

    Attributes
    ----------
    rgb : ndarray of uint8, (H, W, 3)
    tissue : ndarray of bool, (H, W)
        Tissue that pen does not cover.
    pen : ndarray of bool, (H, W)
        Pen and coverslip edges.
    labels : ndarray of int32, (H, W)
        Section of a pixel, counted from 1; 0 off the sections. Runs on below the pen.
    """

    rgb: NDArray[np.uint8]
    tissue: NDArray[np.bool_]
    pen: NDArray[np.bool_]
    labels: NDArray[np.int32]

    def each(self, change: Callable[[NDArray], NDArray]) -> Picture:
        """The same change of place of all four."""
        return Picture(*(np.ascontiguousarray(change(a)) for a in (self.rgb, self.tissue, self.pen, self.labels)))


def offsets_of(labels: NDArray[np.int32]) -> NDArray[np.float32]:
    """Offset of each pixel from the centre of its section, px.

    Parameters
    ----------
    labels : ndarray of int, (H, W)
        Sections, 0 off them.

    Returns
    -------
    ndarray of float32, (2, H, W)
        ``x - x_centre`` and ``y - y_centre``; zero off the sections.
    """
    y, x = np.nonzero(labels)
    section = labels[y, x]
    size = np.maximum(np.bincount(section), 1)
    out = np.zeros((2, *labels.shape), np.float32)
    for k, position in enumerate((x, y)):
        out[k, y, x] = position - (np.bincount(section, weights=position) / size)[section]
    return out


def augment(rng: np.random.Generator, picture: Picture) -> Picture:
    """A changed picture of the same size with its changed truth.

    Quarter turns, mirror images, a turned and stretched part of it, hue, saturation and value moved separately for
    tissue, pen and background, gamma, noise, blur, and JPEG of quality 25 to 100 (SlideSegmenter, arXiv 2401.13511).

    Parameters
    ----------
    rng : Generator
    picture : Picture
        Square pictures may be turned by a quarter.
    """
    picture = _place(rng, picture)
    rgb = np.asarray(picture.rgb.astype(np.float32) / 255, np.float32)
    if rng.random() < 0.8:
        rgb = _colours(rng, rgb, picture)
    if rng.random() < 0.5:
        rgb = np.asarray(np.clip(rgb, 0, 1) ** np.exp(rng.normal(0, 0.2)))
    if rng.random() < 0.3:
        rgb = np.asarray(cv2.GaussianBlur(rgb, (0, 0), rng.uniform(0.3, 1.5)))
    if rng.random() < 0.4:
        rgb = rgb + rng.normal(0, rng.uniform(0.002, 0.02), rgb.shape).astype(np.float32)
    out = np.clip(rgb * 255, 0, 255).astype(np.uint8)
    if rng.random() < 0.7:
        _, coded = cv2.imencode(".jpg", out, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 101))])
        out = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
    return replace(picture, rgb=out)


def _place(rng: np.random.Generator, picture: Picture) -> Picture:
    turns, mirror = int(rng.integers(4)), rng.random() < 0.5
    height, width = picture.tissue.shape
    if height != width:
        turns -= turns % 2
    picture = picture.each(lambda a: np.rot90(a, turns)[:, ::-1] if mirror else np.rot90(a, turns))
    if rng.random() < 0.5:
        # as much larger as its corners need to stay inside
        angle = rng.uniform(-0.35, 0.35)
        least = np.cos(angle) + abs(np.sin(angle)) * max(height, width) / min(height, width)
        zoom = least * rng.uniform(1, 1.2)
        affine = cv2.getRotationMatrix2D((width / 2 - 0.5, height / 2 - 0.5), np.degrees(angle), zoom)
        affine[:, 0] = affine[:, 0] * rng.uniform(1, 1.1)

        def warp(a: NDArray) -> NDArray:
            kind = cv2.INTER_LINEAR if a.ndim == 3 else cv2.INTER_NEAREST
            values = a if a.ndim == 3 else a.astype(np.float32)
            moved = cv2.warpAffine(values, affine, (width, height), flags=kind, borderMode=cv2.BORDER_REFLECT_101)
            return moved.astype(a.dtype)

        picture = picture.each(warp)
    return picture


def _colours(rng: np.random.Generator, rgb: NDArray[np.float32], picture: Picture) -> NDArray[np.float32]:
    hsv = np.asarray(cv2.cvtColor(np.clip(rgb, 0, 1), cv2.COLOR_RGB2HSV), np.float32)  # hue in degrees
    shift = np.zeros_like(hsv)
    for mask, hue in ((picture.tissue, 10.0), (picture.pen, 20.0), (~(picture.tissue | picture.pen), 12.0)):
        soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 1.0)[..., None]
        shift += soft * np.array([rng.normal(0, hue), rng.normal(0, 0.2), rng.normal(0, 0.04)], np.float32)
    hsv[..., 0] = (hsv[..., 0] + shift[..., 0]) % 360
    hsv[..., 1] = np.clip(hsv[..., 1] * np.exp(shift[..., 1]), 0, 1)
    hsv[..., 2] = np.clip(hsv[..., 2] + shift[..., 2], 0, 1)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.float32)
