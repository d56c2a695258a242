"""Seamless textures, 1 um/px, made once a process from a fixed seed; a slide takes them at its own offset."""

from __future__ import annotations

from functools import cache

import numpy as np

PERIOD = 1024  # um
_SEED = 20_240_229


def smooth_noise(rng: np.random.Generator, sigma: float) -> np.ndarray:
    """Periodic Gaussian noise of unit variance, (PERIOD, PERIOD) float32, blurred by `sigma` px."""
    from scipy.fft import irfft2, rfft2

    spectrum = rfft2(rng.standard_normal((PERIOD, PERIOD)).astype(np.float32))
    fy = np.fft.fftfreq(PERIOD)[:, None]
    fx = np.fft.rfftfreq(PERIOD)[None, :]
    spectrum *= np.exp(-2 * (np.pi * sigma) ** 2 * (fy**2 + fx**2)).astype(np.float32)
    noise = irfft2(spectrum, s=(PERIOD, PERIOD))
    return ((noise - noise.mean()) / noise.std()).astype(np.float32)


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


@cache
def fibres() -> tuple[np.ndarray, np.ndarray]:
    """Collagen: eosin (0 to 255, uint8), and the direction of the fibres in radians, both periodic.

    Wavy bundles are the level lines of a plane wave whose phase is warped by smooth noise.
    """
    rng = np.random.default_rng((_SEED, 1))
    y, x = np.mgrid[:PERIOD, :PERIOD].astype(np.float32)
    warp = 26 * smooth_noise(rng, 90) + 5 * smooth_noise(rng, 22)
    phase = 2 * np.pi * (48 * y + 22 * x) / PERIOD + warp
    fine = 2 * np.pi * (121 * y + 55 * x) / PERIOD + 2.4 * warp + 1.2 * smooth_noise(rng, 6)
    bundles = np.clip(0.62 + 0.55 * np.cos(phase) + 0.35 * smooth_noise(rng, 14), 0, 1)
    strands = 0.75 + 0.25 * np.cos(fine)
    eosin = 120 * bundles * strands + 95 + 10 * smooth_noise(rng, 1.0)
    dy = np.roll(warp, -1, 0) - np.roll(warp, 1, 0) + 4 * np.pi * 48 / PERIOD
    dx = np.roll(warp, -1, 1) - np.roll(warp, 1, 1) + 4 * np.pi * 22 / PERIOD
    gaps = np.cos(phase * 0.5 + 0.7 * smooth_noise(rng, 30)) > 0.985
    eosin = np.where(gaps, 70, eosin)
    return _bytes(eosin), np.arctan2(-dx, dy).astype(np.float32)


@cache
def granules() -> np.ndarray:
    """Fine grain of cytoplasm, uint8 about 128."""
    rng = np.random.default_rng((_SEED, 2))
    return _bytes(128 + 20 * smooth_noise(rng, 1.1) + 13 * smooth_noise(rng, 4) + 10 * smooth_noise(rng, 30))


@cache
def chromatin() -> np.ndarray:
    """Clumps inside nuclei, uint8 about 128 (a factor), meant for level 0."""
    rng = np.random.default_rng((_SEED, 3))
    return _bytes(128 + 24 * smooth_noise(rng, 1.3) + 9 * smooth_noise(rng, 3))


def _walls(cells: int, part: int, jitter: float) -> np.ndarray:
    """Distance to the nearest wall of a periodic mosaic of about `cells`**2 cells, px, float32."""
    import cv2
    from scipy.spatial import cKDTree

    rng = np.random.default_rng((_SEED, part))
    step = PERIOD / cells
    rows, columns = np.mgrid[:cells, :cells].reshape(2, -1)
    points = np.stack([columns + 0.5 * (rows % 2), rows], 1) * step
    points = (points + rng.normal(0, jitter * step, points.shape)) % PERIOD
    reduce = 2
    grid = np.arange(0, PERIOD, reduce, dtype=np.float64)
    at = np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2)
    distance = cKDTree(points, boxsize=PERIOD).query(at, k=2)[0]
    walls = ((distance[:, 1] - distance[:, 0]) / 2).reshape(grid.size, grid.size).astype(np.float32)
    return cv2.resize(walls, (PERIOD, PERIOD), interpolation=cv2.INTER_LINEAR)


@cache
def fat_walls() -> np.ndarray:
    """Adipose tissue: eosin of thin walls around empty cells of about 70 um, uint8."""
    rng = np.random.default_rng((_SEED, 4))
    wall = np.exp(-((_walls(14, 5, 0.16) / (1.5 + 0.4 * smooth_noise(rng, 40).clip(-1, 2))) ** 2))
    return _bytes(4 + 130 * wall)


@cache
def cell_borders() -> np.ndarray:
    """Faint pale borders between epithelial cells of about 14 um: a factor, uint8, 128 inside."""
    return _bytes(128 - 42 * np.exp(-((_walls(72, 6, 0.14) / 1.1) ** 2)))


def crop(texture: np.ndarray, offset: tuple[int, int], height: int, width: int) -> np.ndarray:
    """Wrap a periodic `texture` over a canvas, starting at `offset` (row, column)."""
    rows = (np.arange(height) + offset[0]) % texture.shape[0]
    columns = (np.arange(width) + offset[1]) % texture.shape[1]
    return texture[rows][:, columns]
