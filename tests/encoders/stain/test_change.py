"""Simulated stain and scanner change: the first version is the tile, strengths scale amounts, the rest stays."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import drawn_stain as drawn

from histostudy.encoders.stain.change import SCANNERS, STAINS, VERSIONS, Scanner, changed
from histostudy.encoders.stain.fit import StainFit, angle_between, fit_macenko

TILES = drawn.tiles(2, 64, np.random.default_rng(0), drawn.HE_REFERENCE, 0.7)
FIT = fit_macenko(TILES.reshape(-1, 3))


def test_there_are_nine_versions_and_the_first_is_the_tile() -> None:
    assert len(VERSIONS) == 9 and VERSIONS[0] == ("own", "own")
    np.testing.assert_array_equal(changed(TILES, VERSIONS[0], FIT), TILES)


@pytest.mark.parametrize("version", VERSIONS[1:])
def test_every_other_one_changes_colours_the_same_every_time(version: tuple[str, str]) -> None:
    got = changed(TILES, version, FIT)
    assert got.shape == TILES.shape and got.dtype == np.uint8
    assert np.abs(got.astype(int) - TILES).mean() > 3
    np.testing.assert_array_equal(got, changed(TILES, version, FIT))


@pytest.mark.parametrize("name", ["blue", "red"])
def test_another_staining_is_found_by_a_fit(name: str) -> None:
    stain = STAINS[name]
    got = fit_macenko(changed(TILES, (name, "own"), FIT).reshape(-1, 3))
    wanted = FIT.vectors + np.array([stain.haematoxylin, stain.eosin]).T
    wanted = np.maximum(wanted, 0) / np.linalg.norm(np.maximum(wanted, 0), axis=0)
    assert angle_between(got.vectors[:, 0], wanted[:, 0]) < 2 and angle_between(got.vectors[:, 1], wanted[:, 1]) < 5
    np.testing.assert_allclose(got.strengths / FIT.strengths, stain.strengths, rtol=0.15)


def test_a_slide_without_a_fit_is_changed_too_and_glass_stays_bright() -> None:
    nothing = StainFit("macenko", 3, "few_pixels")
    glass = np.full((1, 32, 32, 3), 241, np.uint8)
    out = changed(glass, ("blue", "own"), nothing)
    assert np.abs(out.astype(int) - glass).max() <= 3
    assert changed(glass, ("own", "soft"), nothing).min() > 200
    assert SCANNERS["own"] == Scanner()
