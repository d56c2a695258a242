"""Predicted against true numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from histostudy.figures import style
from histostudy.figures.registry import figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@figure(
    "regression_scatter",
    kinds=("regression",),
    table="scatter",
    category="results",
    caption="Predicted against true value, one dot a test patient; on the grey line they agree. r: Pearson's "
    "correlation, mean over test folds, with its bootstrap interval over patients.",
)
def regression_scatter(table: pd.DataFrame, unit: str = "") -> Figure:
    """Draw `curves["scatter"]`: model, truth, prediction [, estimate and its interval]."""
    models, looks = style.ordered(table, "model"), style.appearance(table["model"])
    low = float(min(table["truth"].min(), table["prediction"].min()))
    high = float(max(table["truth"].max(), table["prediction"].max()))
    room = 0.04 * (high - low or 1)
    limits = (low - room, high + room)
    with style.style():
        fig, axes = style.panels(len(models), 2.4, 2.6, sharex=True, sharey=True)
        for ax, model in zip(axes, models, strict=True):
            part = table[table["model"] == model]
            ax.plot(limits, limits, color=style.LIGHT, linewidth=1, zorder=0)
            ax.scatter(part["truth"], part["prediction"], s=9, color=looks[model]["color"], alpha=0.6, linewidth=0)
            first = part.iloc[0]
            title = f"{style.shorten(model)} (n = {len(part)})"
            if "estimate" in part:
                title += f"\nr {style.with_interval(first.estimate, first.estimate_low, first.estimate_high)}"
            ax.set_title(title)
            ax.set(xlim=limits, ylim=limits, aspect="equal")
        tail = f", {unit}" if unit else ""
        fig.supxlabel(f"true{tail}", fontsize=8)
        fig.supylabel(f"predicted{tail}", fontsize=8)
    return fig
