"""Kaplan-Meier curves by predicted risk, with numbers at risk."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histostudy.figures import style, survival_panel
from histostudy.figures.registry import figure
from histostudy.figures.survival_panel import TONES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

YEAR_DAYS = 365.25


@figure(
    "kaplan_meier",
    kinds=("survival",),
    table="km",
    category="results",
    caption="Kaplan-Meier curves of test patients called low and high risk, cut at the median risk of each "
    "run's training part (or within the test fold where that is not known). Bands: pointwise log-log "
    "interval; ticks: censored. p: log-rank test, HR: Cox model of the group, both stratified by "
    "fold. Below: patients at risk.",
)
def kaplan_meier(table: pd.DataFrame) -> Figure:
    """Draw `curves["km"]`: model, stratum, time_days, survival, low, high, at_risk, events, p, hr, hr_low, hr_high."""
    if not len(table):
        return style.empty("No Kaplan-Meier curves: no model parts the patients in two.")
    models = style.ordered(table, "model")
    columns = min(len(models), 2)
    rows = math.ceil(len(models) / columns)
    last = float(table["time_days"].max())
    years = last > 3 * YEAR_DAYS
    unit: float
    unit, name = (YEAR_DAYS, "years") if years else (30.4375, "months") if last > 180 else (1.0, "days")
    with style.style():
        from matplotlib.ticker import MaxNLocator

        ticks = np.asarray(MaxNLocator(6, steps=[1, 2, 3, 5, 6, 10]).tick_values(0, last / unit))
        ticks = ticks[(ticks >= 0) & (ticks <= last / unit)]
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
