"""Crops, changes of colour and masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from histostudy.encoders.pretraining.views import COLUMNS, IDENTITY, block_masks, cut, draw_view, recolour, sides
from histostudy.encoders.stains import stain_density
from histostudy.pretrain_keys import Views


def _tile(side: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(30, 226, (side, side, 3), dtype=np.uint8)


def _view(**values: float) -> np.ndarray:
    view = IDENTITY.copy()
    for name, value in values.items():
        view[COLUMNS.index(name)] = value
    return view


def _one(tile: np.ndarray, view: np.ndarray) -> np.ndarray:
    return recolour(torch.from_numpy(tile)[None], torch.from_numpy(view)[None])[0].permute(1, 2, 0).numpy()


def test_the_identity_changes_nothing() -> None:
    tile = _tile()
    np.testing.assert_array_equal(cut(tile, IDENTITY, 32), tile)
    np.testing.assert_allclose(_one(tile, IDENTITY) * 255, tile, atol=1e-3)


def test_eight_turns_are_the_eight_of_a_square() -> None:
    tile = _tile(8)
    seen = {cut(tile, _view(turn=turn), 8).tobytes() for turn in range(8)}
    assert len(seen) == 8
    both = [tile, tile[:, ::-1]]
    assert seen == {np.ascontiguousarray(np.rot90(one, k)).tobytes() for one in both for k in range(4)}


def test_a_crop_is_the_part_that_was_drawn() -> None:
    tile = _tile(32)
    np.testing.assert_array_equal(cut(tile, _view(x=0.25, y=0.5, w=0.5, h=0.25), 16).shape, (16, 16, 3))
    np.testing.assert_array_equal(cut(tile, _view(x=0.25, y=0.5, w=0.5, h=0.5), 16), tile[16:32, 8:24])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.05, 1.0))
def test_drawn_crops_stay_inside_and_in_scale(seed: int, low: float) -> None:
    keys = Views(aspect=1.5)
    x, y, w, h = draw_view(np.random.default_rng(seed), keys, (low, 1.0))[:4]
    assert 0 <= x <= x + w <= 1 + 1e-6 and 0 <= y <= y + h <= 1 + 1e-6
    assert w * h <= 1 + 1e-6 and max(w, h) > 0.2
    if max(w, h) < 1:
        assert w * h >= low - 1e-6 and max(w / h, h / w) <= 1.5 + 1e-5


def test_an_option_does_not_move_the_draws_of_another() -> None:
    plain = draw_view(np.random.default_rng(5), Views(blur=0, stain=0, colour=0, turn=False), (0.4, 1.0))
    loud = draw_view(np.random.default_rng(5), Views(blur=1, stain=0.2, colour=0.2, solarise=1), (0.4, 1.0))
    np.testing.assert_array_equal(plain[:4], loud[:4])
    np.testing.assert_array_equal(plain[4:], IDENTITY[4:])
    assert loud[14] > 0 and loud[15] == 1


def test_haematoxylin_times_two_doubles_its_density_and_no_other() -> None:
    density = np.zeros((4, 4, 3)) + [0.4, 0.3, 0.0]
    from histostudy.encoders.stains import RGB_OF_STAIN

    tile = np.clip(255 * np.exp(-density @ RGB_OF_STAIN), 0, 255).round().astype(np.uint8)
    got = np.rint(_one(tile, _view(h_times=2.0)) * 255).astype(np.uint8)
    np.testing.assert_allclose(stain_density(got)[0, 0], [0.8, 0.3, 0.0], atol=0.03)


def test_glass_stays_glass_where_a_stain_is_added() -> None:
    glass = np.full((4, 4, 3), 255, np.uint8)
    np.testing.assert_allclose(_one(glass, _view(h_plus=0.2, e_times=1.3)), 1, atol=1e-6)


def test_a_blur_is_opencvs_and_of_its_own_image_alone() -> None:
    import cv2

    tiles = np.stack([_tile(32, s) for s in range(3)])
    views = np.stack([IDENTITY, _view(sigma=1.2), IDENTITY])
    got = recolour(torch.from_numpy(tiles), torch.from_numpy(views)).permute(0, 2, 3, 1).numpy() * 255
    want = cv2.GaussianBlur(tiles[1].astype(np.float32), (13, 13), 1.2, borderType=cv2.BORDER_REFLECT_101)
    np.testing.assert_allclose(got[1], want, atol=0.01)
    np.testing.assert_allclose(got[[0, 2]], tiles[[0, 2]], atol=1e-3)


def test_contrast_keeps_the_mean_and_saturation_zero_is_grey() -> None:
    tile = _tile()
    assert _one(tile, _view(contrast=0.5)).mean() == pytest.approx(tile.mean() / 255, abs=1e-5)
    grey = _one(tile, _view(saturation=0.0))
    assert np.ptp(grey, axis=2).max() < 1e-5
    assert _one(tile, _view(solarise=1.0)).max() <= 0.5


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 14), st.integers(3, 14), st.integers(2, 9))
def test_masks_have_the_share_that_was_asked(seed: int, rows: int, columns: int, n: int) -> None:
    masks = block_masks(n, (rows, columns), np.random.default_rng(seed), 0.5, (0.1, 0.5))
    counts = masks.sum(axis=1)
    assert (counts > 0).sum() == round(0.5 * n)
    assert counts.max() <= round(0.5 * rows * columns)
    assert counts[counts > 0].min() >= max(1, round(0.1 * rows * columns))


def test_masks_are_blocks() -> None:
    masks = block_masks(60, (14, 14), np.random.default_rng(0), 1.0, (0.3, 0.3)).reshape(60, 14, 14)
    beside = (masks[:, :, 1:] & masks[:, :, :-1]).sum() / masks.sum()
    shuffled = np.random.default_rng(1).permuted(masks.reshape(60, -1), axis=1).reshape(60, 14, 14)
    assert beside > 1.8 * (shuffled[:, :, 1:] & shuffled[:, :, :-1]).sum() / shuffled.sum()


def test_local_crops_are_whole_patches() -> None:
    assert sides(Views(), 224, 16) == (224, 96)
    assert sides(Views(), 64, 8) == (64, 24)
    assert sides(Views(size=112, local_size=50), 224, 16) == (112, 50)
