"""Stain jitter: nothing moved is nothing changed, stains move apart, the draw repeats."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import drawn_stain as drawn

from histostudy.encoders.stain.jitter import STRONG, stain_jitter
from histostudy.encoders.stains import RGB_OF_STAIN, STAIN_OF_RGB


def batch(n: int = 4) -> np.ndarray:
    return drawn.tiles(n, 32, np.random.default_rng(0))


def test_a_sigma_of_0_changes_nothing() -> None:
    grey = np.repeat(np.arange(256, dtype=np.uint8)[None, None, :, None], 3, -1)
    for tiles in (batch(), grey):
        np.testing.assert_array_equal(stain_jitter(tiles, np.random.default_rng(0), 0.0), tiles)


def test_it_is_the_published_formula() -> None:
    tiles = batch(2)
    got = stain_jitter(tiles, np.random.default_rng(3), STRONG)
    rng = np.random.default_rng(3)
    scale, shift = rng.uniform(1 - STRONG, 1 + STRONG, (2, 3)), rng.uniform(-STRONG, STRONG, (2, 3))
    for i, tile in enumerate(tiles):
        stains = -np.log((tile + 1.0) / 256) @ STAIN_OF_RGB
        back = 256 * np.exp(-(stains * scale[i] + shift[i]) @ RGB_OF_STAIN) - 1
        assert np.abs(got[i] - back.clip(0, 255)).max() < 0.52


def test_tiles_move_apart_and_the_draw_repeats() -> None:
    tiles = np.repeat(batch(1), 3, 0)
    got = stain_jitter(tiles, np.random.default_rng(1), 0.1)
    assert (got[0] != got[1]).any() and (got[1] != got[2]).any()
    np.testing.assert_array_equal(got, stain_jitter(tiles, np.random.default_rng(1), 0.1))
    weak, strong = (
        np.abs(stain_jitter(batch(), np.random.default_rng(1), s) - batch().astype(float)).mean() for s in (0.02, 0.2)
    )
    assert weak < strong / 5
    with pytest.raises(ValueError, match="sigma"):
        stain_jitter(tiles, np.random.default_rng(0), -0.1)
