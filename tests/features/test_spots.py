"""Bags of spots."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from histostudy.errors import FeatureError
from histostudy.features.bags import Bags
from histostudy.features.spots import bags_of_spots
from histostudy.tiles.spots import corner_of

CENTRES = {"a": [[500.0, 300.0], [200.4, 300.0]], "b": [[500.0, 300.0], [700.0, 90.5], [80.0, 90.5]]}


def bags() -> Bags:
    """Two slides of one patient and another's; the same place occurs on both."""
    corners = {slide: corner_of(np.array(places), 101.0) for slide, places in CENTRES.items()}
    rows = np.concatenate(list(corners.values()))
    features = np.arange(10, dtype=np.float32).reshape(5, 2)
    return Bags(
        features, np.array([0, 2, 5]), ["p", "q"], rows, np.array([0, 0, 1, 1, 1], np.int32), ["a", "b"], {}, "px0",
        {"a": 101.0, "b": 101.0},
    )  # fmt: skip


def spots(*rows: tuple[str, str, float, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["spot_id", "slide_id", "x_px0", "y_px0"])


def test_each_spot_has_the_tile_cut_around_it() -> None:
    made = bags_of_spots(
        bags(), spots(("s3", "b", 500, 300), ("s1", "a", 200.4, 300), ("s2", "b", 80, 90.5), ("s0", "a", 500, 300))
    )
    assert made.patient_ids == ["s0", "s1", "s2", "s3"]
    np.testing.assert_array_equal(made.features, bags().features[[0, 1, 4, 2]])
    np.testing.assert_array_equal(made.offsets, [0, 1, 2, 3, 4])
    assert made.slides("s2") == ["b"] and made.bag("s3").tolist() == [[4, 5]]


def test_spots_without_a_tile_are_left_out_and_two_at_one_place_share_it() -> None:
    made = bags_of_spots(
        bags(), spots(("s1", "a", 500, 300), ("s2", "a", 500, 300), ("s3", "a", 900, 300), ("s4", "c", 500, 300))
    )
    assert made.patient_ids == ["s1", "s2"] and made.bag("s1").tolist() == made.bag("s2").tolist()


def test_no_spot_with_a_tile_is_one_line() -> None:
    with pytest.raises(FeatureError, match="no tile lies around a spot; embed the slides with this study's tiles"):
        bags_of_spots(bags(), spots(("s1", "a", 1, 1)))
