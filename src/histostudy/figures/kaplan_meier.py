"""Kaplan-Meier curves by predicted risk, with numbers at risk."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pandas as pd

from histostudy.figures import style, survival_panel
from histostudy.figures.registry import figure
from histostudy.figures.survival_panel import TONES, time_ticks, time_unit

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@figure(
    "kaplan_meier",
    kinds=("survival",),
    table="km",
    category="results",
    caption="Kaplan-Meier curves of test patients called low and high risk, cut at the median risk of each run's "
    "training part (or at the middle rank within the test fold where that is not known). Bands: pointwise log-log "
    "interval; ticks: censored. p: log-rank test, HR: Cox model of the group, both stratified by fold. Below: patients "
    "at risk.",
)
def kaplan_meier(table: pd.DataFrame) -> Figure:
    """Draw `curves["km"]`: model, stratum, time_days, survival, low, high, at_risk, events, p, hr, hr_low, hr_high."""
    if not len(table):
        return style.empty("No Kaplan-Meier curves: no model parts the patients in two.")
    models = style.ordered(table, "model")
    columns = min(len(models), 2)
    rows = math.ceil(len(models) / columns)
    last = float(table["time_days"].max())
    unit, name = time_unit(last)
    with style.style():
        ticks = time_ticks(last, unit)
        fig = style.canvas(3.6 * columns, 3.3 * rows)
        grid = fig.add_gridspec(2 * rows, columns, height_ratios=[1, 0.2] * rows)
        for k, model in enumerate(models):
            ax = fig.add_subplot(grid[2 * (k // columns), k % columns])
            below = fig.add_subplot(grid[2 * (k // columns) + 1, k % columns], sharex=ax)
            mine = table[table["model"] == model]
            survival_panel.draw_strata(ax, below, mine, TONES, ticks, unit)
            survival_panel.frame(ax, below, TONES, ticks, last / unit, f"time, {name}")
            about = f"{style.shorten(model, 26)} ({survival_panel.size_text(mine)})"
            ax.set_title(f"{about}\n{survival_panel.p_and_ratio(mine)}", fontsize=7.5)
            below.set_title("patients at risk", fontsize=7, pad=2)
    return fig
