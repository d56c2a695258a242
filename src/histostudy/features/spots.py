"""Bags of spots: the one tile that was cut around each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histostudy.errors import FeatureError
from histostudy.features.bags import Bags
from histostudy.tiles.spots import corner_of

if TYPE_CHECKING:
    import pandas as pd


def bags_of_spots(bags: Bags, spots: pd.DataFrame) -> Bags:
    """A bag of one tile for each spot whose tile is there.

    Parameters
    ----------
    bags : Bags
        Of the sections, whose tiles were cut around the spots.
    spots : DataFrame
        `spot_id`, `slide_id`, `x_px0`, `y_px0` (see `histostudy.cohort.spots.read_spots`).

    Raises
    ------
    FeatureError
        If no tile lies around any spot.
    """
    row_of = {
        (bags.slide_ids[slide], int(x), int(y)): row
        for row, (slide, (x, y)) in enumerate(zip(bags.slide_index, bags.coords, strict=True))
    }
    found = []
    for spot in spots.sort_values("spot_id").itertuples():
        side = bags.tile_px0.get(str(spot.slide_id))
        if side is None:
            continue
        x, y = corner_of(np.array([[spot.x_px0, spot.y_px0]]), side)[0]
        if (row := row_of.get((str(spot.slide_id), int(x), int(y)))) is not None:
            found.append((str(spot.spot_id), row))
    if not found:
        raise FeatureError("no tile lies around a spot", todo="embed the slides with this study's tiles.spots")
    rows = np.array([row for _, row in found])
    return Bags(
        bags.features[rows], np.arange(len(rows) + 1), [name for name, _ in found], bags.coords[rows],
        bags.slide_index[rows], bags.slide_ids, bags.identity, bags.positions, bags.tile_px0,
    )  # fmt: skip
