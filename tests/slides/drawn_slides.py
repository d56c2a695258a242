"""A picture to make test slides of."""

from __future__ import annotations

import numpy as np


def painted(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth pink picture with purple spots on white glass, uint8 (H, W, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    image = np.stack([245 - 20 * np.sin(x / 37), 235 - 60 * np.sin(y / 23) ** 2, 240 - 10 * np.cos(x / 11)], axis=2)
    for cx, cy in rng.uniform(0, 1, (60, 2)) * (width, height):
        image[(x - cx) ** 2 + (y - cy) ** 2 < 36] = (90, 60, 130)
    return np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)
