"""Changed tiles: nothing done is nothing changed, order matters, HED against a slow loop, one way of drawing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from histostudy.encoders.augment import CODES, CROP_SHARE, REACH, TRANSFORMS, augment, sample
from histostudy.encoders.stains import RGB_OF_STAIN

NAMES = [transform.name for transform in TRANSFORMS]
FIRST_TO_LAST = np.arange(13)


def tile(side: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)


def values_of(**given: float) -> np.ndarray:
    return np.array([given.get(name, 0.0) for name in NAMES], np.float32)


def changed(image: np.ndarray, order: list[str] | None = None, **given: float) -> np.ndarray:
    """`order` names the transforms that act first."""
    names = (order or []) + [name for name in NAMES if name not in (order or [])]
    positions = np.array([names.index(name) for name in NAMES])
    return augment(image, values_of(**given), positions)


def test_nothing_done_is_nothing_changed_in_any_order() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        np.testing.assert_array_equal(augment(tile(), values_of(), rng.permutation(13)), tile())


@pytest.mark.parametrize("name", NAMES)
def test_each_transform_changes_the_tile_and_keeps_its_form(name: str) -> None:
    before = tile()
    after = changed(before, **{name: 1.0 if CODES[NAMES.index(name)] else 0.3})
    assert after.shape == before.shape and after.dtype == np.uint8
    assert (after != before).mean() > 0.2
    np.testing.assert_array_equal(before, tile())
    np.testing.assert_array_equal(after, changed(before, **{name: 1.0 if CODES[NAMES.index(name)] else 0.3}))


def test_the_order_matters_where_transforms_do_not_commute_and_only_there() -> None:
    one, other = ["rotation", "h_flip"], ["h_flip", "rotation"]
    given = {"rotation": 1, "h_flip": 1}
    assert (changed(tile(), one, **given) != changed(tile(), other, **given)).any()
    np.testing.assert_array_equal(changed(tile(), one, **given), np.rot90(tile(), 1)[:, ::-1])
    np.testing.assert_array_equal(changed(tile(), other, **given), np.rot90(tile()[:, ::-1], 1))
    given = {"brightness": 0.3, "gamma": 0.4}
    assert (changed(tile(), ["gamma", "brightness"], **given) != changed(tile(), **given)).any()
    given = {"h_flip": 1, "v_flip": 1}
    np.testing.assert_array_equal(changed(tile(), ["v_flip", "h_flip"], **given), changed(tile(), **given))


def test_hed_is_that_of_a_slow_loop() -> None:
    image, value = tile(6), 0.4
    inverse = np.linalg.inv(RGB_OF_STAIN)
    steps = [value * s * 0.03 for s in (-2, 2, -3)]
    expected = np.empty(image.shape)
    for i, j in np.ndindex(6, 6):
        log = [-math.log(float(c) / 255 + math.pi) for c in image[i, j]]
        stains = [sum(log[c] * inverse[c, k] for c in range(3)) for k in range(3)]
        moved = [o * (1 + s) + s for o, s in zip(stains, steps, strict=True)]
        for c in range(3):
            back = math.exp(-sum(moved[k] * RGB_OF_STAIN[k, c] for k in range(3))) - math.pi
            expected[i, j, c] = min(max(back, 0.0), 1.0) * 255
    got = changed(image, hed=value)
    assert np.abs(got - expected).max() < 0.51
    assert np.abs(got - image.astype(float)).max() > 2


def test_colours_follow_their_definitions() -> None:
    image = tile()
    unit = image / 255
    grey = unit @ [0.299, 0.587, 0.114]
    for name, expected in {
        "brightness": unit * 1.2,
        "contrast": grey.mean() + (unit - grey.mean()) * 1.2,
        "saturation": grey[..., None] + (unit - grey[..., None]) * 1.2,
        "gamma": unit**1.2,
    }.items():
        got = changed(image, **{name: 0.2})
        assert np.abs(got - expected.clip(0, 1) * 255).max() < 0.6, name
    # a third of the circle turns red into green, green into blue
    np.testing.assert_allclose(changed(image, hue=1 / 3), image[..., [2, 0, 1]], atol=1)


def test_crops_are_the_corners_and_the_centre() -> None:
    image = np.zeros((28, 28, 3), np.uint8)
    places = {1: (0, 0), 2: (0, 27), 3: (27, 0), 4: (27, 27), 5: (14, 14)}
    for row, column in places.values():
        image[row, column] = 255
    assert CROP_SHARE * 28 == 16
    for code, place in places.items():
        out = changed(image, crop=code)[..., 0].astype(int)
        assert out.max() > 40
        got = np.array(np.unravel_index(out.argmax(), out.shape)) / 27
        if code < 5:  # the marked corner is still that corner
            np.testing.assert_allclose(got, np.array(place) / 27, atol=0.04)
        else:
            np.testing.assert_allclose(got, 0.5, atol=0.1)


def test_what_is_drawn_is_in_range_and_repeats() -> None:
    drawn = sample(4000, np.random.default_rng(0), 0.2)
    again = sample(4000, np.random.default_rng(0), 0.2)
    np.testing.assert_array_equal(drawn.values, again.values)
    np.testing.assert_array_equal(drawn.positions, again.positions)
    assert (np.sort(drawn.positions, 1) == FIRST_TO_LAST).all()
    assert np.abs(drawn.positions.mean(0) - 6).max() < 0.4  # every order alike
    for column, transform in enumerate(TRANSFORMS):
        values = drawn.values[:, column]
        if transform.codes:
            assert set(values) == set(range(transform.codes)), transform.name
            assert (values != 0).mean() == pytest.approx(transform.chance, abs=0.03)
        else:
            assert np.abs(values).max() <= REACH * 0.2 < np.abs(values).max() * 1.02
    # intensity scales the continuous ones alone, and draws the same
    strong = sample(4000, np.random.default_rng(0), 1.0)
    codes = np.array(CODES) > 0
    np.testing.assert_array_equal(strong.values[:, codes], drawn.values[:, codes])
    np.testing.assert_allclose(strong.values[:, ~codes] * 0.2, drawn.values[:, ~codes], rtol=1e-5, atol=1e-8)
