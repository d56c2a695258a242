"""Normalisation: the reference stays, thickness goes, moments match, CPU and batch agree, glass is left alone."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

sys.path.insert(0, str(Path(__file__).parent))
import drawn_stain as drawn

from histostudy.encoders.stain.fit import DENSITY, fit_reinhard, to_lab
from histostudy.encoders.stain.normaliser import NORMALISERS, Macenko, Reinhard, Vahadane, sample_pixels
from histostudy.errors import ConfigError, EncoderError

METHODS = sorted(NORMALISERS)


def batch(seed: int = 0, n: int = 3, side: int = 64, strong: float = 1.0) -> np.ndarray:
    return drawn.tiles(n, side, np.random.default_rng(seed), drawn.VECTORS, strong)


@pytest.mark.parametrize("method", [Macenko, Vahadane])
def test_the_reference_stays_as_it_is(method) -> None:
    pixels = drawn.light(drawn.reference(60_000, np.random.default_rng(0)), drawn.HE_REFERENCE)
    tiles = pixels[:57_600].reshape(1, 240, 240, 3)
    one = method()
    exact = one.apply(tiles, one.target)
    inside = (tiles < 239).all(-1) & (tiles > 0).all(-1)
    assert np.abs(exact.astype(int) - tiles)[inside].max() <= 1
    again = one.apply(tiles, one.fit(pixels))  # with its vectors estimated
    assert np.abs(again.astype(int) - tiles)[inside].mean() < 4


def test_macenko_is_the_published_steps() -> None:
    tiles, one = batch(), Macenko()
    fit = one.fit(tiles.reshape(-1, 3))
    density = DENSITY[tiles.reshape(-1, 3)]
    amounts = np.linalg.lstsq(fit.vectors, density.T, rcond=None)[0]
    strength = np.percentile(amounts, 99, axis=1)
    np.testing.assert_allclose(fit.strengths, strength, rtol=1e-9)
    amounts *= (np.array([1.9705, 1.0308]) / strength)[:, None]
    vectors = np.array([[0.5626, 0.2159], [0.7201, 0.8012], [0.4062, 0.5581]])
    expected = np.clip(240 * np.exp(-vectors @ amounts) - 1, 0, 255).T.reshape(tiles.shape)
    assert np.abs(one.apply(tiles, fit) - expected).max() <= 0.51


@pytest.mark.parametrize("method", [Macenko, Vahadane])
def test_thickness_goes(method) -> None:
    one = method()
    rng = np.random.default_rng(4)
    amounts = drawn.amounts(40_000, rng, glass=0) + 0.15
    thin, thick = (drawn.light(amounts * k).reshape(1, 200, 200, 3) for k in (1.0, 1.25))
    before = np.abs(thin.astype(int) - thick).mean()
    after = [one.apply(t, one.fit(t.reshape(-1, 3))).astype(int) for t in (thin, thick)]
    assert before > 10 and np.abs(after[0] - after[1]).mean() < 2


def test_reinhard_matches_mean_and_sd() -> None:
    one = Reinhard()
    tiles = drawn.light(drawn.amounts(40_000, np.random.default_rng(5), glass=0) * 0.5 + 0.2).reshape(4, 100, 100, 3)
    target = drawn.light(drawn.amounts(40_000, np.random.default_rng(6), glass=0) * 0.4 + 0.25, drawn.HE_REFERENCE)
    aimed = one.fit_target([target.reshape(200, 200, 3)])
    fit = fit_reinhard(tiles.reshape(-1, 3))
    assert fit.tissue_px == 40_000
    lab = to_lab(aimed.apply(tiles, fit).reshape(-1, 3))
    np.testing.assert_allclose(lab.mean(0), aimed.target.mean, atol=0.02)
    np.testing.assert_allclose(lab.std(0), aimed.target.sd, rtol=0.05)
    np.testing.assert_allclose(one.target.mean, [8.74108109, -0.12440419, 0.0444982])


@pytest.mark.parametrize("name", METHODS)
def test_the_batch_version_agrees_within_a_grey_level(name: str) -> None:
    one = NORMALISERS[name]()
    noise = np.random.default_rng(0).integers(0, 256, (2, 48, 64, 3), np.uint8)
    for tiles in (batch(), noise):
        fit = one.fit(batch(1).reshape(-1, 3))
        slow, fast = one.apply(tiles, fit), one.apply_torch(torch.from_numpy(tiles), fit).numpy()
        assert fast.dtype == np.uint8 and np.abs(slow.astype(int) - fast).max() <= 1
        assert (slow != tiles).mean() > 0.5


@pytest.mark.parametrize("name", METHODS)
def test_blank_slides_are_left_alone(name: str) -> None:
    one = NORMALISERS[name]()
    glass = np.full((2, 16, 16, 3), 244, np.uint8)
    fit = one.fit(glass.reshape(-1, 3))
    assert fit.fallback == "few_pixels"
    np.testing.assert_array_equal(one.apply(glass, fit), glass)
    assert one.apply_torch(torch.from_numpy(glass), fit).shape == glass.shape
    with pytest.raises(EncoderError, match=f"no {name} stain target: few pixels"):
        one.fit_target(glass)


@pytest.mark.parametrize("name", METHODS)
def test_a_target_of_the_training_part_is_taken_and_named(name: str) -> None:
    one = NORMALISERS[name]()
    training = drawn.tiles(2, 128, np.random.default_rng(7), drawn.HE_REFERENCE, 0.8)
    aimed = one.fit_target(training)
    assert one.identity != aimed.identity and aimed.identity == one.fit_target(training).identity
    tiles = batch(side=128)
    moved = aimed.apply(tiles, aimed.fit(tiles.reshape(-1, 3)))
    far = np.abs(tiles.reshape(-1, 3).mean(0) - training.reshape(-1, 3).mean(0)).max()
    assert np.abs(moved.reshape(-1, 3).mean(0) - training.reshape(-1, 3).mean(0)).max() < far / 2


def test_slides_are_told_apart_less_after_macenko() -> None:
    """Section 21.3 of the notes: six slides of their own stain; the fit of a slide is not the fit of its tile."""
    rng = np.random.default_rng(8)
    raw, moved, slides, one = [], [], [], Macenko()
    for slide in range(6):
        vectors = drawn.unit(*(drawn.VECTORS + rng.normal(0, 0.05, (3, 2))).T.tolist())
        strong = rng.uniform(0.6, 1.4, 2)
        tiles = []
        for _ in range(20):  # tiles of one slide differ in what they hold
            mixed = drawn.amounts(32 * 32, rng) * strong * rng.uniform(0.75, 1.25, 2)
            tiles.append(drawn.light(mixed, np.maximum(vectors, 0)).reshape(32, 32, 3))
        stack = np.stack(tiles)
        raw.append(stack)
        moved.append(one.apply(stack, one.fit(stack.reshape(-1, 3))))
        slides += [slide] * 20

    def accuracy(images: list[np.ndarray]) -> float:
        pixels = np.concatenate(images).reshape(len(slides), -1, 3).astype(float)
        moments = np.concatenate([pixels.mean(1), pixels.std(1)], 1)
        moments = (moments - moments.mean(0)) / moments.std(0)
        hits = []
        for i in range(len(slides)):
            others = np.arange(len(slides)) != i
            knn = KNeighborsClassifier(5).fit(moments[others], np.array(slides)[others])
            hits.append(knn.predict(moments[i : i + 1])[0] == slides[i])
        return float(np.mean(hits))

    before, after = accuracy(raw), accuracy(moved)
    assert before > 0.9 and after < before - 0.2, (before, after)


def test_an_unknown_method_is_named_and_pixels_are_drawn_evenly() -> None:
    with pytest.raises(ConfigError, match="unknown stain method 'macenk', *;? *did you mean 'macenko'|did you mean"):
        NORMALISERS["macenk"]
    image = np.arange(64 * 64 * 3, dtype=np.int64).reshape(64, 64, 3).astype(np.uint8)
    some = sample_pixels([image, image], 512)
    assert 400 <= len(some) <= 1024 and sample_pixels([], 10).shape == (0, 3)
