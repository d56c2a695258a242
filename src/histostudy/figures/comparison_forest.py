"""Paired differences between models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histostudy.figures import style
from histostudy.figures.metrics_forest import label_of
from histostudy.figures.registry import figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@figure(
    "comparison_forest",
    kinds=("classification", "survival", "regression", "expression", "segmentation", "tile_classification"),
    table="comparison",
    category="results",
    caption="Difference of each model from the reference on the same resamples of the same patients (of spots: of the "
    "same blocks of neighbours), with its bootstrap interval; right of zero the model is better. p is corrected over "
    "the models compared with one reference. Filled: corrected p below 0.05.",
)
def comparison_forest(table: pd.DataFrame, *, noun: str = "patients") -> Figure:
    """Draw the comparison of a task: model, reference, metric, difference, low, high, p_adjusted, n.

    `noun` is what n counts: patients or spots.
    """
    if not len(table):
        return style.empty("No comparison: there is one model only.")
    references = style.ordered(table, "reference")
    sizes = [int((table["reference"] == r).sum()) for r in references]
    with style.style():
        fig = style.canvas(5.2, 0.75 + sum(0.27 * s + 0.45 for s in sizes))
        axes = fig.subplots(len(references), 1, squeeze=False, sharex=True, height_ratios=[s + 0.6 for s in sizes])[
            :, 0
        ]
        for ax, reference in zip(axes, references, strict=True):
            part = table[table["reference"] == reference].reset_index(drop=True)
            ax.axvline(0, color=style.GREY, linewidth=0.8, linestyle=":")
            for row, one in part.iterrows():
                words = style.with_interval(one.difference, one.low, one.high, 3)
                if np.isfinite(one.difference):
                    sure = one.p_adjusted < 0.05
                    tone = style.OKABE_ITO[0] if sure else style.GREY
                    ax.plot([one.low, one.high], [row, row], color=tone, linewidth=1.3)
                    ax.plot(
                        one.difference, row, "o", color=tone, markersize=4.5, markerfacecolor=tone if sure else "white"
                    )
                    words += f"   {style.p_text(one.p_adjusted)}"
                ax.annotate(
                    words, (1.02, row), xycoords=("axes fraction", "data"), fontsize=7, va="center", color=style.DARK
                )  # type: ignore[arg-type]
            ax.set_yticks(range(len(part)), [style.shorten(m) for m in part["model"]])
            ax.set_ylim(len(part) - 0.4, -0.6)
            ax.set_title(f"against {reference}")
            ax.tick_params(axis="y", length=0)
            ax.spines["left"].set_visible(False)
            ax.grid(axis="x")
        metric, n = label_of(str(table["metric"].iloc[0]))[0], int(table["n"].max())
        axes[-1].set_xlabel(f"difference in {metric} (n = {n} {noun})")
    return fig
