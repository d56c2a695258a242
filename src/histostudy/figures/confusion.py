"""Confusion matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from histostudy.figures import style
from histostudy.figures.registry import figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@figure(
    "confusion",
    kinds=("classification", "tile_classification"),
    table="confusion",
    category="results",
    caption="Confusion matrices over all test patients (or labelled tiles); the call is the most probable class. "
    "Colour and percentage: share of the row, that is of those that truly have the class; below it the number of "
    "predictions.",
)
def confusion(table: pd.DataFrame) -> Figure:
    """Draw `curves["confusion"]`: model, truth, predicted, count, share."""
    models, names = style.ordered(table, "model"), style.ordered(table, "truth")
    side = max(2.1, 0.55 * len(names) + 0.9)
    with style.style():
        fig, axes = style.panels(len(models), side, side + 0.15, per_row=3 if side < 3 else 2)
        for ax, model in zip(axes, models, strict=True):
            mine = table[table["model"] == model]
            share = mine.pivot(index="truth", columns="predicted", values="share").loc[names, names].to_numpy()
            count = mine.pivot(index="truth", columns="predicted", values="count").loc[names, names].to_numpy()
            image = ax.imshow(share, vmin=0, vmax=1, cmap="Blues")
            for i in range(len(names)):
                for j in range(len(names)):
                    tone = "white" if share[i, j] > 0.55 else style.DARK
                    ax.text(j, i, f"{share[i, j]:.0%}\n{count[i, j]}", ha="center", va="center", color=tone, fontsize=7)
            short = [style.shorten(n, 12) for n in names]
            turn = 0 if max(map(len, short)) * len(short) <= 20 else 40
            ax.set_xticks(
                range(len(names)), short, rotation=turn, ha="right" if turn else "center", rotation_mode="anchor"
            )
            ax.set_yticks(range(len(names)), short)
            ax.tick_params(length=0)
            ax.spines[:].set_visible(False)
            ax.set(xlabel="called", ylabel="truth")
            ax.set_title(f"{style.shorten(model)} (n = {int(count.sum())})")
        bar = fig.colorbar(image, ax=axes, shrink=0.7, aspect=25, label="share of the true class")
        bar.outline.set_visible(False)  # type: ignore[operator]
    width, height = fig.get_size_inches()
    fig.set_size_inches(width + 0.6, height)
    return fig
