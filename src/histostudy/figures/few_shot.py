"""The few-shot curve of prototypes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from histostudy.figures import style
from histostudy.figures.registry import figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@figure(
    "few_shot",
    kinds=("tile_classification",),
    table="few_shot",
    category="results",
    caption="Balanced accuracy of all test tiles from prototypes of so many labelled tiles a class, mean over the "
    "draws of those tiles. Band: bootstrap interval of the mean over patients. Thin bars: the same quantiles of single "
    "draws, that is the luck of which tiles were labelled. Dotted line: a useless model.",
)
def few_shot(table: pd.DataFrame, *, classes: int = 0) -> Figure:
    """Draw `curves["few_shot"]`: model, shots, estimate, low, high, draw_low, draw_high, draws, n, patients.

    Parameters
    ----------
    table : DataFrame
        A row each model and number of shots.
    classes : int
        Number of classes, for the line of a useless model; 0: none is drawn.

    Returns
    -------
    Figure
    """
    if not len(table):
        return style.empty("No few-shot curve: some class has no tile in a training part.")
    models, looks = style.ordered(table, "model"), style.appearance(table["model"])
    with style.style():
        fig = style.canvas(4.6, 3.1 + 0.17 * len(models))
        ax = fig.subplots()
        if classes:
            ax.axhline(1 / classes, color=style.GREY, linewidth=0.8, linestyle=":")
        for place, model in enumerate(models):
            mine, look = table[table["model"] == model].sort_values("shots"), looks[model]
            # models side by side, so that their bars can be told apart
            x = mine["shots"] * 2 ** (0.06 * (place - (len(models) - 1) / 2))
            ax.fill_between(x, mine["low"], mine["high"], color=look["color"], alpha=0.2, linewidth=0)
            ax.vlines(x, mine["draw_low"], mine["draw_high"], color=look["color"], linewidth=0.6)
            ax.plot(x, mine["estimate"], marker="o", markersize=3, label=style.shorten(model, 32), **look)
        shots = sorted(set(table["shots"]))
        ax.set_xscale("log", base=2)
        ax.set_xticks(shots, [str(number) for number in shots])
        ax.minorticks_off()
        if len(shots) == 1:
            ax.set_xlim(shots[0] / 2, shots[0] * 2)
        ax.grid(axis="y")
        one = table.iloc[0]
        of = f"n = {style.spread(table['n'])} tiles of {style.spread(table['patients'])} patients"
        ax.set(xlabel=f"labelled tiles a class ({int(one['draws']):,} draws); {of}", ylabel="balanced accuracy")
        style.legend_below(fig, ax, columns=2)
    return fig
