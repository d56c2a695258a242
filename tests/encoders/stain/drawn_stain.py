"""Tiles of planted stain: amounts of haematoxylin and eosin as tissue has them, light through both."""

from __future__ import annotations

import numpy as np

from histostudy.encoders.stain.fit import HE_REFERENCE, IO, STRENGTH_REFERENCE


def unit(*columns: tuple[float, float, float]) -> np.ndarray:
    """Stain vectors as columns of length 1."""
    matrix = np.array(columns, float).T
    return matrix / np.linalg.norm(matrix, axis=0)


VECTORS = unit((0.65, 0.70, 0.29), (0.07, 0.95, 0.30))


def amounts(n: int, rng: np.random.Generator, glass: float = 0.1) -> np.ndarray:
    """Amounts (n, 2): nuclei that are almost all haematoxylin, cytoplasm that is almost all eosin, mixes, glass."""
    kind = rng.choice(4, n, p=[0.3 * (1 - glass), 0.5 * (1 - glass), 0.2 * (1 - glass), glass])
    h = np.choose(kind, [rng.gamma(8, 0.18, n), rng.gamma(1, 0.03, n), rng.gamma(4, 0.12, n), np.zeros(n)])
    e = np.choose(kind, [rng.gamma(1, 0.03, n), rng.gamma(6, 0.12, n), rng.gamma(4, 0.12, n), np.zeros(n)])
    return np.stack([h, e], 1)


def light(amount: np.ndarray, vectors: np.ndarray = VECTORS) -> np.ndarray:
    """Grey levels (n, 3) of amounts."""
    return np.rint(np.clip(IO * np.exp(-amount @ vectors.T) - 1, 0, 255)).astype(np.uint8)


def reference(n: int, rng: np.random.Generator) -> np.ndarray:
    """Amounts whose vectors and strengths are those of the published reference."""
    drawn = amounts(n, rng)
    return drawn * (STRENGTH_REFERENCE / np.percentile(drawn, 99, axis=0))


def tiles(
    n: int, side: int, rng: np.random.Generator, vectors: np.ndarray = VECTORS, strong: float = 1.0
) -> np.ndarray:
    """uint8 (n, side, side, 3)."""
    return light(amounts(n * side * side, rng) * strong, vectors).reshape(n, side, side, 3)


__all__ = ["HE_REFERENCE", "VECTORS", "amounts", "light", "reference", "tiles", "unit"]
