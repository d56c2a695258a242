"""The orthonormal discrete cosine transform (DCT-II) of maps, whole or its low frequencies alone, and its inverse.

C[0, n] = 1 / sqrt(N), C[k, n] = sqrt(2 / N) cos(pi (2 n + 1) k / (2 N)): Y = C X C', X = C' Y C. By matrix products:
the low frequencies alone then cost their share, and gradients come by themselves.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor


def dct_matrix(size: int, keep: int | None = None, like: Tensor | None = None) -> Tensor:
    """C, the first `keep` of its rows: (keep, size), in the precision and place of `like`, or in float64."""
    matrix = _matrix(size)[:keep]
    return matrix.clone() if like is None else matrix.to(like)


@lru_cache(maxsize=64)
def _matrix(size: int) -> Tensor:
    n, k = torch.arange(size, dtype=torch.float64), torch.arange(size, dtype=torch.float64)[:, None]
    matrix = math.sqrt(2 / size) * torch.cos(math.pi * (2 * n + 1) * k / (2 * size))
    matrix[0] = 1 / math.sqrt(size)
    return matrix


def dct2(maps: Tensor, keep: tuple[int, int] | None = None) -> Tensor:
    """Transform (..., H, W) to the lowest `keep` frequencies (..., kH, kW), or to all."""
    height, width = maps.shape[-2:]
    rows, columns = (height, width) if keep is None else keep
    return dct_matrix(height, rows, maps) @ maps @ dct_matrix(width, columns, maps).T


def idct2(coefficients: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """Inverse of `dct2`: (..., kH, kW) low frequencies, all others zero, to (..., H, W); by default of their size.

    A size that is not the one they were taken from gives the map at another resolution, its values larger by
    sqrt(old pixels / new pixels).
    """
    rows, columns = coefficients.shape[-2:]
    height, width = (rows, columns) if size is None else size
    return dct_matrix(height, rows, coefficients).T @ coefficients @ dct_matrix(width, columns, coefficients)


def low_pass(maps: Tensor, keep: tuple[int, int]) -> Tensor:
    """Maps (..., H, W) without all but the lowest `keep` frequencies."""
    height, width = maps.shape[-2:]
    return idct2(dct2(maps, keep), (height, width))
