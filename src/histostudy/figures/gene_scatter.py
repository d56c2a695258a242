"""Predicted against measured expression of the genes a model predicts best."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histostudy.figures import style
from histostudy.figures.registry import figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Genes drawn.
MOST = 6


@figure(
    "gene_scatter",
    kinds=("expression",),
    table="gene_scatter",
    category="results",
    caption="Predicted against measured expression, one dot a test patient, or a spot of a section, of the six genes "
    "that the model predicts best (chosen on these very data: the other genes are in the table of genes). On the grey "
    "line they agree; predictions are drawn towards the mean. The model is that whose six genes have the highest mean "
    "r. r: Pearson's correlation, mean over test folds, with its bootstrap interval over patients (over blocks of "
    "neighbouring spots).",
)
def gene_scatter(table: pd.DataFrame, *, unit: str = "log2(1 + expression)") -> Figure:
    """Draw `curves["gene_scatter"]`, of the model whose genes have the highest mean r.

    Parameters
    ----------
    table : DataFrame
        model, gene, unit_id, truth, prediction [, estimate, low, high].
    unit : str
        Of the expression.
    """
    if not len(table):
        return style.empty("No gene has a defined correlation.")
    model = _best(table)
    table = table[table["model"] == model]
    genes = style.ordered(table, "gene")[:MOST]
    colour = style.OKABE_ITO[0]
    with style.style():
        fig, axes = style.panels(len(genes), 2.3, 2.45)
        for ax, gene in zip(axes, genes, strict=True):
            part = table[table["gene"] == gene]
            values = part[["truth", "prediction"]].to_numpy(float)
            room = 0.04 * (np.ptp(values) or 1)
            limits = (values.min() - room, values.max() + room)
            ax.plot(limits, limits, color=style.LIGHT, linewidth=1, zorder=0)
            size = 9 if len(part) <= 400 else 4
            ax.scatter(values[:, 0], values[:, 1], s=size, color=colour, alpha=0.55, linewidth=0)
            ax.set_title(f"{style.shorten(gene, 16)} (n = {len(part)})\nr {_r(part)}", fontsize=7.5)
            ax.set(xlim=limits, ylim=limits, aspect="equal")
            ax.locator_params(nbins=5)
        fig.suptitle(style.shorten(model, 40), fontsize=8.5, x=0.01, ha="left")
        fig.supxlabel(f"measured, {unit}", fontsize=8)
        fig.supylabel(f"predicted, {unit}", fontsize=8)
    return fig


def _best(table: pd.DataFrame) -> str:
    def of_model(part: pd.DataFrame) -> float:
        found = float(np.mean([_correlation(p) for _, p in part.groupby("gene", sort=False)]))
        return found if np.isfinite(found) else -np.inf

    return max(style.ordered(table, "model"), key=lambda m: of_model(table[table["model"] == m]))


def _correlation(part: pd.DataFrame) -> float:
    if "estimate" in part:
        return float(part["estimate"].iloc[0])
    values = part[["truth", "prediction"]].to_numpy(float)
    return float(np.corrcoef(values.T)[0, 1]) if (np.ptp(values, axis=0) > 0).all() else float("nan")


def _r(part: pd.DataFrame) -> str:
    first = part.iloc[0]
    if "estimate" in part:
        return style.with_interval(float(first["estimate"]), float(first["low"]), float(first["high"]))
    r = _correlation(part)
    return f"{r:.2f}".replace("-", "\N{MINUS SIGN}") if np.isfinite(r) else "undefined"
