"""Kaplan-Meier curves by predicted risk, with numbers at risk."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histostudy.figures import style
from histostudy.figures.registry import figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

YEAR_DAYS = 365.25
TONES = {"low risk": style.OKABE_ITO[0], "high risk": style.OKABE_ITO[1]}


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

        fig = style.canvas(3.6 * columns, 3.3 * rows)
        grid = fig.add_gridspec(2 * rows, columns, height_ratios=[1, 0.2] * rows)
        for k, model in enumerate(models):
            ax = fig.add_subplot(grid[2 * (k // columns), k % columns])
            below = fig.add_subplot(grid[2 * (k // columns) + 1, k % columns], sharex=ax)
            mine = table[table["model"] == model]
            ticks = np.asarray(MaxNLocator(6, steps=[1, 2, 3, 5, 6, 10]).tick_values(0, last / unit))
            ticks = ticks[(ticks >= 0) & (ticks <= last / unit)]
            for row, (stratum, tone) in enumerate(TONES.items()):
                part = mine[mine["stratum"] == stratum]
                t = part["time_days"].to_numpy() / unit
                ax.fill_between(t, part["low"], part["high"], step="post", color=tone, alpha=0.13, linewidth=0)
                ax.step(t, part["survival"], where="post", color=tone)
                leaving = part["at_risk"].to_numpy() - np.append(part["at_risk"].to_numpy()[1:], 0)
                gone = (leaving > part["events"].to_numpy()) & (t > 0)
                ax.plot(t[gone], part["survival"].to_numpy()[gone], "|", color=tone, markersize=3, markeredgewidth=0.5)
                at = np.searchsorted(t, ticks, side="left")
                still = np.append(part["at_risk"].to_numpy(), 0)[at]
                for x, number in zip(ticks, still, strict=True):
                    below.text(x, 1 - row, str(int(number)), color=tone, ha="center", va="center", fontsize=7)
            first = mine.iloc[0]
            n = int(mine.loc[mine["time_days"] == 0, "at_risk"].sum())
            words = []
            if np.isfinite(first.hr):
                words.append(f"HR {style.with_interval(first.hr, first.hr_low, first.hr_high)}")
            if np.isfinite(first.p):
                words.append(f"log-rank {style.p_text(first.p)}")
            ax.set(ylim=(0, 1.02), xlim=(-0.02 * last / unit, 1.02 * last / unit), ylabel="survival", xticks=ticks)
            ax.tick_params(labelbottom=False)
            size = f"n = {n}, {int(mine['events'].sum())} events"
            ax.set_title(f"{style.shorten(model, 26)} ({size})\n{', '.join(words)}", fontsize=7.5)
            below.set(ylim=(-0.6, 1.6), xlabel=f"time, {name}")
            below.set_yticks([1, 0], list(TONES))
            for text, tone in zip(below.get_yticklabels(), TONES.values(), strict=True):
                text.set_color(tone)
            below.tick_params(axis="y", length=0, pad=8)
            below.set_title("patients at risk", fontsize=7, pad=2)
            below.spines["left"].set_visible(False)
    return fig
