"""The cosine transform against SciPy, its inverse, and what its low frequencies hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.fft import dctn

from histostudy.models.tilenets.dct import dct2, dct_matrix, idct2, low_pass


@pytest.mark.parametrize("size", [1, 2, 7, 56, 224])
def test_the_matrix_is_orthonormal(size: int) -> None:
    matrix = dct_matrix(size)
    assert (matrix @ matrix.T - torch.eye(size).double()).abs().max() < 1e-12
    assert torch.equal(dct_matrix(size, 1), matrix[:1])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 10))
def test_it_is_scipys_and_its_inverse_gives_the_map_back(height: int, width: int, seed: int) -> None:
    maps = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(seed)).double()
    found = dct2(maps)
    np.testing.assert_allclose(found, dctn(maps.numpy(), axes=(2, 3), norm="ortho"), atol=1e-12)
    assert torch.allclose(idct2(found), maps, atol=1e-12)
    assert torch.allclose(found.square().sum(), maps.square().sum())
    rows, columns = (height + 1) // 2, (width + 2) // 3
    assert torch.allclose(dct2(maps, (rows, columns)), found[..., :rows, :columns], atol=1e-12)
    cut = torch.zeros_like(found)
    cut[..., :rows, :columns] = found[..., :rows, :columns]
    assert torch.allclose(low_pass(maps, (rows, columns)), idct2(cut), atol=1e-12)


def grating(size: int, frequency: int) -> torch.Tensor:
    n = torch.arange(size).double()
    return torch.cos(math.pi * (2 * n + 1) * frequency / (2 * size)).expand(size, size)


def test_low_pass_removes_a_high_grating_and_keeps_a_low_one() -> None:
    high, low = grating(32, 25), grating(32, 3)
    assert low_pass(high, (8, 8)).abs().max() < 1e-12
    assert torch.allclose(low_pass(low, (8, 8)), low, atol=1e-12)
    assert torch.allclose(low_pass(high + low, (8, 8)), low, atol=1e-12)


def test_a_smaller_inverse_is_the_map_at_that_resolution() -> None:
    small = idct2(dct2(grating(32, 3), (8, 8)), (16, 16)) / 2
    assert torch.allclose(small, grating(16, 3), atol=1e-12)


def test_natural_images_have_most_of_their_energy_in_few_frequencies() -> None:
    """Amplitude 1 / f, 224 x 224: a quarter of each axis holds about three quarters, a half about seven eighths."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(224)[:, None], np.fft.fftfreq(224)[None])
    frequency[0, 0] = np.inf
    image = np.fft.ifft2(np.fft.fft2(rng.normal(size=(224, 224))) / frequency).real
    energy = dct2(torch.from_numpy(image)).square()
    for keep, share in ((56, 0.759), (112, 0.878)):
        assert float(energy[:keep, :keep].sum() / energy.sum()) == pytest.approx(share, abs=0.06)
