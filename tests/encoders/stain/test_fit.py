"""The stain of a slide: planted vectors are found, signs do not matter, glass and one stain alone are no stain."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import drawn_stain as drawn

from histostudy.encoders.stain import fit as fitting
from histostudy.encoders.stain.fit import amounts_of, angle_between, fit_macenko, fit_reinhard, fit_vahadane, to_lab

TURNED = drawn.unit((0.55, 0.76, 0.35), (0.16, 0.90, 0.40))


@pytest.mark.parametrize("vectors", [drawn.VECTORS, drawn.HE_REFERENCE, TURNED])
def test_planted_vectors_are_found(vectors: np.ndarray) -> None:
    pixels = drawn.light(drawn.amounts(40_000, np.random.default_rng(0)), vectors)
    for fit, most in ((fit_vahadane(pixels), 5.0), (fit_macenko(pixels), 5.0)):
        assert fit.fallback == "" and fit.vectors is not None
        for k in range(2):
            assert angle_between(fit.vectors[:, k], vectors[:, k]) < most, (fit.method, k)
        np.testing.assert_allclose(np.linalg.norm(fit.vectors, axis=0), 1, atol=1e-9)


def test_vahadane_gives_no_negative_vector_and_its_amounts_are_the_minimum() -> None:
    rng = np.random.default_rng(1)
    fit = fit_vahadane(drawn.light(drawn.amounts(20_000, rng)))
    assert fit.vectors is not None and (fit.vectors >= 0).all()
    density = rng.gamma(2, 0.4, (200, 3))
    got = amounts_of(density, fit.vectors, 0.1)
    grid = np.stack(np.meshgrid(*[np.linspace(0, 4, 161)] * 2, indexing="ij"), -1).reshape(-1, 2)

    def loss(x: np.ndarray, c: np.ndarray) -> np.ndarray:
        assert fit.vectors is not None
        return ((x - c @ fit.vectors.T) ** 2).sum(-1) / 2 + 0.1 * c.sum(-1)

    assert (got >= 0).all()
    for x, c in zip(density, got, strict=True):
        assert loss(x, c[None])[0] <= loss(x, grid).min() + 1e-9


def test_the_sign_of_an_eigenvector_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = drawn.light(drawn.amounts(20_000, np.random.default_rng(2)))
    expected, eigh = fit_macenko(pixels), np.linalg.eigh
    for signs in ([1, -1, 1], [1, 1, -1], [-1, -1, -1]):
        monkeypatch.setattr(fitting.np.linalg, "eigh", lambda m, s=signs: (eigh(m)[0], eigh(m)[1] * s))
        got = fit_macenko(pixels)
        monkeypatch.undo()
        np.testing.assert_allclose(got.vectors, expected.vectors, atol=1e-9)
        np.testing.assert_allclose(got.strengths, expected.strengths, atol=1e-9)
    assert expected.vectors[0, 0] > expected.vectors[0, 1]  # haematoxylin takes more red


@pytest.mark.parametrize("fitter", [fit_macenko, fit_vahadane, fit_reinhard])
def test_glass_and_a_single_stain_are_no_stain(fitter) -> None:
    glass = np.full((5000, 3), 242, np.uint8)
    assert fitter(glass).fallback == "few_pixels"
    few = np.concatenate([glass, np.full((99, 3), 120, np.uint8)])
    assert fitter(few).fallback == "few_pixels" and fitter(few).tissue_px == 99
    flat = np.full((5000, 3), (120, 60, 110), np.uint8)
    assert fitter(flat).fallback == "singular"


def test_thicker_tissue_has_the_same_vectors_and_more_strength() -> None:
    drawn_amounts = drawn.amounts(40_000, np.random.default_rng(3), glass=0) + 0.15
    thin, thick = (fit_macenko(drawn.light(drawn_amounts * k)) for k in (1.0, 1.25))
    assert angle_between(thin.vectors[:, 0], thick.vectors[:, 0]) < 1
    assert angle_between(thin.vectors[:, 1], thick.vectors[:, 1]) < 1
    np.testing.assert_allclose(thick.strengths / thin.strengths, 1.25, rtol=0.03)


def test_lab_is_that_of_a_slow_loop_and_pixels_are_checked() -> None:
    pixels = np.array([[0, 10, 255], [200, 130, 180]], np.uint8)
    for pixel, got in zip(pixels, to_lab(pixels), strict=True):
        lms = [sum(fitting.RGB_TO_LMS[i, j] * max(int(pixel[j]), 1) for j in range(3)) for i in range(3)]
        a, b, c = (np.log(v) for v in lms)
        expected = [(a + b + c) / 3**0.5, (a + b - 2 * c) / 6**0.5, (a - b) / 2**0.5]
        np.testing.assert_allclose(got, expected, atol=1e-12)
    with pytest.raises(ValueError, match=r"uint8 \(N, 3\)"):
        fit_macenko(np.zeros((4, 4, 3), np.uint8))
