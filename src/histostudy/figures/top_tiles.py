"""The tiles a model looked at most and least."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histostudy.figures import style
from histostudy.figures.registry import figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PER_ROW = 8


@figure(
    "top_tiles",
    table="tiles",
    category="interpretation",
    caption="Tiles of highest (upper) and lowest (lower) attention, at the scale the model saw. Above each: "
    "its slide or patient and its rank among the tiles.",
)
def top_tiles(table: pd.DataFrame, *, images: np.ndarray, mpp: float, title: str = "") -> Figure:
    """Draw tiles in two blocks.

    Parameters
    ----------
    table : DataFrame, k rows
        group (``highest`` or ``lowest``), rank (1 is the most attended), label (slide or patient).
    images : uint8 (k, S, S, 3)
        The tiles, in the order of `table`.
    mpp : float
        Their scale.
    """
    table = table.reset_index(drop=True)
    blocks = {g: np.flatnonzero(table["group"] == g) for g in ("highest", "lowest")}
    blocks = {g: at for g, at in blocks.items() if at.size}
    columns = min(PER_ROW, max((at.size for at in blocks.values()), default=1))
    rows = {g: -(-at.size // columns) for g, at in blocks.items()}
    with style.style():
        fig = style.canvas(0.95 * columns + 0.3, sum(1.12 * r + 0.32 for r in rows.values()) + 0.3)
        parts = np.ravel(
            fig.subfigures(len(blocks), 1, squeeze=False, height_ratios=[1.12 * r + 0.32 for r in rows.values()])
        )
        for part, (group, at) in zip(parts, blocks.items(), strict=True):
            part.suptitle(f"{group} attention", fontsize=8, x=0.01, ha="left")
            axes = part.subplots(rows[group], columns, squeeze=False).ravel()
            for ax in axes:
                ax.set_axis_off()
            for ax, k in zip(axes, at, strict=False):
                ax.imshow(images[k])
                ax.set_title(
                    f"{style.shorten(str(table['label'][k]), 13)}\n#{int(table['rank'][k])}", fontsize=5.8, pad=2
                )
        side = images.shape[1] * mpp
        fig.suptitle(
            f"{title + ': ' if title else ''}tiles of {side:.0f} \N{MICRO SIGN}m at {mpp:g} \N{MICRO SIGN}m/px",
            fontsize=8.5,
        )
    return fig
