"""Genes ranked by how well they are predicted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histostudy.figures import style
from histostudy.figures.registry import figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Up to this many genes are named one by one.
NAMED = 40
#: Best genes named where there are more.
BEST = 8


@figure(
    "genes",
    kinds=("expression",),
    table="genes",
    category="results",
    caption="Pearson's r of each gene across test patients (mean over folds), ranked, with bootstrap "
    "intervals over patients. Blue: Benjamini-Hochberg q below 0.05 over all genes of the model. A "
    "prediction of every gene's mean has no r.",
)
def genes(table: pd.DataFrame) -> Figure:
    """Draw `curves["genes"]`: model, gene, estimate, low, high, q, n. Models without a defined r are left out."""
    table = table[np.isfinite(table["estimate"])]
    if not len(table):
        return style.empty("No gene has a defined correlation.")
    models = style.ordered(table, "model")
    most = int(table.groupby("model").size().max())
    named = most <= NAMED
    blue, grey = style.OKABE_ITO[0], style.GREY
    with style.style():
        height = 0.7 + 0.15 * most if named else 2.7
        fig, axes = style.panels(
            len(models), 2.4 if named else 3.6, max(height, 1.6), per_row=3 if named else 2, sharex=named
        )
        for ax, model in zip(axes, models, strict=True):
            part = table[table["model"] == model].sort_values("estimate", ascending=False, ignore_index=True)
            sure = (part["q"] < 0.05).to_numpy()
            at = np.arange(len(part))
            tone = np.where(sure, blue, grey)
            title = f"{style.shorten(model)}: {int(sure.sum())} of {len(part)} genes, q < 0.05"
            if named:
                ax.hlines(at, part["low"], part["high"], color=tone, linewidth=1)
                ax.scatter(part["estimate"], at, s=9, color=tone, zorder=3)
                ax.set_yticks(at, [style.shorten(g, 14) for g in part["gene"]])
                ax.set_ylim(len(part) - 0.4, -0.6)
                ax.axvline(0, color=grey, linewidth=0.8, linestyle=":")
                ax.set_xlabel(f"Pearson's r (n = {int(part['n'].max())} patients)")
                ax.grid(axis="x")
            else:
                ax.vlines(at + 1, part["low"], part["high"], color=tone, linewidth=0.5, alpha=0.35)
                ax.plot(at + 1, part["estimate"], color=style.DARK, linewidth=1)
                ax.axhline(0, color=grey, linewidth=0.8, linestyle=":")
                best = ", ".join(style.shorten(g, 14) for g in part["gene"][: BEST // 2])
                rest = ", ".join(style.shorten(g, 14) for g in part["gene"][BEST // 2 : BEST])
                ax.text(
                    0.98, 0.98, f"best: {best},\n{rest}", transform=ax.transAxes, ha="right", va="top", fontsize=6.5
                )
                ax.set_ylim(min(part["low"].min(), -0.1), max(part["high"].max() * 1.25, 0.3))
                ax.set(xlabel="rank of the gene", ylabel=f"Pearson's r (n = {int(part['n'].max())} patients)")
            ax.set_title(title, fontsize=7.5)
    return fig
