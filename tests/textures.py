"""Drawn textures to learn from: kinds that differ in pattern, with colours, phases and turns at random."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

KINDS = ("stripes", "dots", "blobs")
#: Colours of two stains, as optical density of red, green and blue.
STAINS = {"he": ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11)), "dab": ((0.65, 0.70, 0.29), (0.27, 0.57, 0.78))}


def pattern(kind: str, side: int, rng: np.random.Generator) -> np.ndarray:
    """A pattern of 0 to 1, (side, side)."""
    import cv2

    y, x = np.mgrid[:side, :side] / side
    angle, phase, waves = rng.uniform(0, np.pi), rng.uniform(0, 6.28, 3), rng.uniform(3.5, 5)
    u, v = np.cos(angle) * x + np.sin(angle) * y, -np.sin(angle) * x + np.cos(angle) * y
    w = 2 * np.pi * waves
    if kind == "stripes":
        z = np.sin(w * u + phase[0])
    elif kind == "dots":
        z = 3 * np.maximum(np.sin(w * u + phase[0]) * np.sin(w * v + phase[1]), 0) - 1
    else:
        noise = rng.normal(size=(side, side))
        z = cv2.GaussianBlur(noise, (0, 0), side / 14)
        z = 1.5 * z / z.std()
    return np.clip(0.5 + 0.5 * z, 0, 1)


def textures(n: int, side: int = 32, seed: int = 0, stain: str = "he") -> tuple[np.ndarray, np.ndarray]:
    """Tiles (uint8, (n, side, side, 3)) and the number of their kind."""
    rng = np.random.default_rng(seed)
    kinds = np.arange(n) % len(KINDS)
    first, second = (np.array(one) for one in STAINS[stain])
    tiles = []
    for kind in kinds:
        z = pattern(KINDS[kind], side, rng)[:, :, None]
        strength = rng.uniform(0.7, 1.3, 2)
        density = strength[0] * z * first + strength[1] * (1 - z) * 0.5 * second + rng.normal(0, 0.03, (side, side, 1))
        tiles.append(np.clip(255 * np.exp(-density), 0, 255).astype(np.uint8))
    return np.stack(tiles), kinds


class Drawn:
    """Tiles in memory as a source."""

    slides = False

    def __init__(self, tiles: np.ndarray, groups: Sequence[str] | None = None) -> None:
        self.pixels = tiles
        self.groups = list(groups) if groups is not None else ["all"] * len(tiles)
        self.tile_px = tiles.shape[1]
        self.digest = f"drawn {tiles.shape} {int(tiles.astype(np.int64).sum())}"
        self.about: dict[str, Any] = {"tiles": len(tiles)}
        self.reads: list[list[int]] = []

    def read(self, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        """Tiles of ascending numbers."""
        self.reads.append(list(numbers))
        assert list(numbers) == sorted(numbers)
        yield from self.pixels[list(numbers)]


def probe(train: np.ndarray, labels: np.ndarray, test: np.ndarray, truth: np.ndarray) -> float:
    """Accuracy of a ridge classifier on standardised vectors."""
    mean, spread = train.mean(0), train.std(0) + 1e-6
    a = np.c_[(train - mean) / spread, np.ones(len(train))].astype(np.float64)
    b = np.c_[(test - mean) / spread, np.ones(len(test))].astype(np.float64)
    hot = np.eye(labels.max() + 1)[labels]
    weights = np.linalg.solve(a.T @ a + len(a) * 1e-2 * np.eye(a.shape[1]), a.T @ hot)
    return float(((b @ weights).argmax(1) == truth).mean())
