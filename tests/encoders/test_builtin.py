"""The builtin encoder: against oracles, under turns and flips, and on what it must notice."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histostudy.encoders import stains, texture
from histostudy.encoders.builtin import NAMES, Builtin
from histostudy.encoders.nuclei import NUCLEUS_NAMES, nuclei

MPP = 0.5
AT = {name: i for i, name in enumerate(NAMES)}


def draw(n_nuclei: int, seed: int = 0, size: int = 224, radius_um: float = 3.5, mpp: float = MPP) -> np.ndarray:
    """Eosin-pink tile with round purple nuclei that do not touch."""
    import cv2

    rng = np.random.default_rng(seed)
    image = np.full((size, size, 3), (225, 160, 195), np.uint8)
    radius = radius_um / mpp
    places: list[np.ndarray] = []
    while len(places) < n_nuclei:
        xy = rng.uniform(radius + 2, size - radius - 2, 2)
        if all(np.hypot(*(xy - p)) > 2.6 * radius for p in places):
            places.append(xy)
            cv2.circle(image, (round(xy[0]), round(xy[1])), round(radius), (95, 60, 140), -1, cv2.LINE_AA)
    noise = rng.normal(0, 3, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def noise(seed: int, size: int = 64) -> np.ndarray:
    import cv2

    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (8, 8, 3)).astype(np.float32)
    smooth = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + rng.normal(0, 10, smooth.shape), 0, 255).astype(np.uint8)


def test_shape_names_and_identity():
    encoder = Builtin(MPP)
    out = encoder.encode(np.stack([draw(5), draw(9)]))
    assert out.shape == (2, encoder.dim) and out.dtype == np.float32 and np.isfinite(out).all()
    assert len(encoder.names()) == encoder.dim == len(set(encoder.names()))
    assert encoder.identity["encoder"] == "builtin" and len(encoder.identity["code"]) == 12
    assert encoder.identity != Builtin(0.25).identity


def test_a_tile_does_not_depend_on_its_batch():
    tiles = np.stack([draw(k) for k in (0, 4, 12)])
    together = Builtin(MPP).encode(tiles)
    alone = np.concatenate([Builtin(MPP).encode(t[None]) for t in tiles])
    np.testing.assert_array_equal(together, alone)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), turns=st.integers(1, 3), flip=st.booleans())
def test_turns_and_flips_change_nothing(seed: int, turns: int, flip: bool):
    tile = noise(seed)
    turned = np.rot90(tile[:, ::-1] if flip else tile, turns)
    a, b = Builtin(MPP).encode(np.stack([tile, turned]))
    np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_flat_tile_is_finite(value: int):
    out = Builtin(MPP).encode(np.full((1, 224, 224, 3), value, np.uint8))[0]
    assert np.isfinite(out).all()
    assert all(out[AT[name]] == 0 for name in NUCLEUS_NAMES)
    assert out[AT["tissue_share"]] == (value < 219)


@pytest.mark.parametrize("mpp", [0.25, 0.5])
def test_nuclei_are_counted(mpp: float):
    for n in (3, 10, 25):
        tile = draw(n, seed=n, mpp=mpp, size=round(112 / mpp))
        density = Builtin(mpp).encode(tile[None])[0, AT["nuclei_per_mm2"]]
        counted = density * (len(tile) * mpp / 1000) ** 2
        assert counted == pytest.approx(n, abs=max(1, 0.1 * n))


def test_more_purple_nuclei_raise_what_they_should():
    few, many = (np.mean([Builtin(MPP).encode(draw(n, s)[None])[0] for s in range(4)], axis=0) for n in (5, 25))
    for name in ("nuclei_per_mm2", "nuclear_area_share", "haematoxylin_mean", "haematoxylin_share"):
        assert many[AT[name]] > 1.2 * few[AT[name]], name
    assert many[AT["nuclear_distance_mean_um"]] < few[AT["nuclear_distance_mean_um"]]
    # their size and shape stay
    assert many[AT["nuclear_area_mean_um2"]] == pytest.approx(few[AT["nuclear_area_mean_um2"]], rel=0.15)
    assert few[AT["nuclear_area_mean_um2"]] == pytest.approx(np.pi * 3.5**2, rel=0.35)


def test_touching_nuclei_are_two_and_long_ones_are_long():
    import cv2

    base = np.full((224, 224, 3), (225, 160, 195), np.uint8)
    pair = base.copy()
    for x in (100, 113):
        cv2.circle(pair, (x, 112), 7, (95, 60, 140), -1, cv2.LINE_AA)
    density = Builtin(MPP).encode(pair[None])[0, AT["nuclei_per_mm2"]]
    assert density * 0.112**2 == pytest.approx(2)
    long = base.copy()
    cv2.ellipse(long, (112, 112), (18, 6), 30, 0, 360, (95, 60, 140), -1, cv2.LINE_AA)
    elongation = Builtin(MPP).encode(long[None])[0, AT["nuclear_elongation_mean"]]
    assert elongation == pytest.approx(3, rel=0.25)


def test_stains_agree_with_scikit_image():
    from skimage.color import rgb2hed

    rgb = noise(3)
    ours = stains.stain_density(np.maximum(rgb, 1))
    theirs = rgb2hed(np.maximum(rgb, 1)) * -np.log(1e-6)  # it divides by the log of its floor
    np.testing.assert_allclose(np.maximum(ours, 0), theirs, atol=2e-4)


def test_cooccurrence_agrees_with_scikit_image():
    from skimage.feature import graycomatrix, graycoprops

    grey = noise(5)[..., 0]
    for d, at in ((1, 0), (4, 5)):
        # four directions pooled by count; steps of d pixels along each axis, as ours
        total = np.zeros((8, 8))
        for angle in range(4):
            step = d if angle % 2 == 0 else d * np.sqrt(2)
            total += graycomatrix(grey >> 5, [step], [angle * np.pi / 4], levels=8, symmetric=True)[..., 0, 0]
        p = (total / total.sum())[..., None, None]
        want = [graycoprops(p, k)[0, 0] for k in ("contrast", "homogeneity", "ASM", "entropy", "correlation")]
        want[3] /= np.log(2)
        np.testing.assert_allclose(texture.cooccurrence(grey)[at : at + 5], want, rtol=1e-6)


def test_patterns_agree_with_a_loop():
    grey = noise(7, 24)[..., 1]
    counts = np.zeros(10)
    for y in range(1, 23):
        for x in range(1, 23):
            floor = min(int(grey[y, x]) + 3, 255)
            bits = [int(grey[y + dy, x + dx]) >= floor for dy, dx in texture.NEIGHBOURS]
            changes = sum(bits[k] != bits[k - 1] for k in range(8))
            counts[sum(bits) if changes <= 2 else 9] += 1
    np.testing.assert_allclose(texture.patterns(grey), counts / counts.sum())


def test_no_nuclei_gives_zeros():
    assert nuclei(np.zeros((50, 50), np.float32), 0.5) == [0.0] * len(NUCLEUS_NAMES)


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="uint8"):
        Builtin(MPP).encode(np.zeros((1, 8, 8, 3), np.float32))


def test_edges_do_not_depend_on_where_in_memory_a_tile_lies() -> None:
    rng = np.random.default_rng(0)
    squares = rng.integers(0, 256, (56, 56), np.uint8).repeat(4, 0).repeat(4, 1)
    tile = np.minimum(squares, rng.integers(100, 256, squares.shape, np.uint8))
    seen, kept = set(), []
    for _ in range(200):
        kept.append(np.empty(int(rng.integers(1, 9000)), np.uint8))  # moves what is allocated next
        seen.add(tuple(texture.edges(tile.copy())))
    assert len(seen) == 1
