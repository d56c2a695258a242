"""Tiles of a synthetic cohort whose tissue is known, as a table for a task of labelled tiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from histostudy.seeds import derive_seed
from histostudy.simulate.layout import COARSE_UM, GLASS, NAMES, lay_out
from histostudy.simulate.plan import SlidePlan

if TYPE_CHECKING:
    from histostudy.simulate_keys import SimulateTiles


def labelled_tiles(slides: Sequence[SlidePlan], settings: SimulateTiles) -> dict[str, list[Any]]:
    """Places on one lattice a slide that hold one tissue, as columns of `tiles.csv`.

    Parameters
    ----------
    slides : sequence of SlidePlan
    settings : SimulateTiles
        How many of each tissue a slide, how large, how pure.

    Returns
    -------
    dict of str to list
        tile_id, patient_id, slide_id, x_px0, y_px0 (top left corner), label (the tissue), site.
    """
    rows: list[tuple[Any, ...]] = []
    step = max(1, round(settings.side_um / COARSE_UM))
    for slide in slides:
        labels = lay_out(slide).labels
        high, wide = (side // step for side in labels.shape)
        blocks = labels[: high * step, : wide * step].reshape(high, step, wide, step)
        cells = blocks.swapaxes(1, 2).reshape(high, wide, -1)
        rng = np.random.default_rng(derive_seed(slide.seed, "labelled tiles"))
        for label, name in enumerate(NAMES):
            if label == GLASS:
                continue
            pure = np.argwhere((cells == label).mean(-1) >= settings.purity)
            chosen = np.sort(rng.permutation(len(pure))[: settings.each])
            for number, (row, column) in enumerate(pure[chosen].tolist()):
                corner = [round(k * step * COARSE_UM / slide.mpp) for k in (column, row)]
                tile = f"{slide.slide_id}-{name}-{number + 1}"
                rows.append((tile, slide.patient_id, slide.slide_id, *corner, name, slide.site))
    names = ("tile_id", "patient_id", "slide_id", "x_px0", "y_px0", "label", "site")
    return {name: [row[k] for row in rows] for k, name in enumerate(names)}
