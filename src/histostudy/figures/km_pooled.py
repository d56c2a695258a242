"""Kaplan-Meier curves of two ways of pooling the folds: only one of them is honest."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pandas as pd

from histostudy.figures import style, survival_panel
from histostudy.figures.registry import figure
from histostudy.figures.survival_panel import TONES, time_ticks, time_unit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: More models than this stand two beside each other.
ONE_A_ROW = 4


@figure(
    "km_pooled",
    kinds=("survival",),
    table="km_pooled",
    category="results",
    caption="Kaplan-Meier curves of the same out-of-fold risks cut in two ways: at the middle rank within each fold, "
    "and at the median of the raw risks of all folds together. The second lets the folds' different offsets part the "
    "curves: separation that only it shows is not the model's. Bands: pointwise log-log interval; ticks: censored. "
    "p: log-rank test, HR: Cox model of the group; both stratified by fold except for the raw risks, where papers "
    "seldom do. Below: patients at risk.",
)
def km_pooled(table: pd.DataFrame) -> Figure:
    """Draw `curves["km_pooled"]`: pooling, and the columns of ``km``.

    Parameters
    ----------
    table : DataFrame
        model, pooling, stratum, time_days, survival, low, high, at_risk, events, p, hr, hr_low, hr_high.

    Returns
    -------
    Figure
    """
    if not len(table):
        return style.empty("No pooled Kaplan-Meier curves: no model parts the patients in two.")
    models, poolings = style.ordered(table, "model"), style.ordered(table, "pooling")
    beside = 1 if len(models) <= ONE_A_ROW else 2
    rows, columns = math.ceil(len(models) / beside), beside * len(poolings)
    width = 3.2 if columns < 3 else 2.5
    last = float(table["time_days"].max())
    unit, name = time_unit(last)
    with style.style():
        fig = style.canvas(width * columns, 2.75 * rows)
        grid = fig.add_gridspec(2 * rows, columns, height_ratios=[1, 0.24] * rows)
        for k, model in enumerate(models):
            for j, pooling in enumerate(poolings):
                row, column = k // beside, (k % beside) * len(poolings) + j
                ax = fig.add_subplot(grid[2 * row, column])
                below = fig.add_subplot(grid[2 * row + 1, column], sharex=ax)
                mine = table[(table["model"].astype(str) == model) & (table["pooling"] == pooling)]
                ticks = time_ticks(last, unit, most=5)
                if len(mine):
                    survival_panel.draw_strata(ax, below, mine, TONES, ticks, unit, fontsize=6.5)
                else:
                    ax.text(0.5, 0.5, "one group only", transform=ax.transAxes, ha="center", va="center",
                            color=style.GREY)  # fmt: skip
                survival_panel.frame(ax, below, TONES, ticks, last / unit, f"time, {name}", first=column == 0)
                ax.set_title(_title(model, pooling, mine), fontsize=7)
    return fig


def _title(model: str, pooling: str, mine: pd.DataFrame) -> str:
    """The model with n and events, how its risks were pooled, and the numbers of that."""
    if not len(mine):
        return f"{style.shorten(model, 28)}\n{pooling}\n "
    return (
        f"{style.shorten(model, 28)}\n{pooling}; {survival_panel.size_text(mine)}\n{survival_panel.p_and_ratio(mine)}"
    )
