"""Every model's metrics with their intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histostudy.evaluation.expression import ALL
from histostudy.figures import style
from histostudy.figures.registry import figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: What a metric is called, and the value of a useless model where there is one.
LABELS = {
    "auroc": ("AUROC", 0.5), "auprc": ("average precision", None), "balanced_accuracy": ("balanced accuracy", None),
    "f1_macro": ("F1, macro", None), "brier": ("Brier score (low is good)", None),
    "ece": ("calibration error (low is good)", 0.0), "c_harrell": ("Harrell's c", 0.5), "c_uno": ("Uno's c", 0.5),
    "ibs": ("integrated Brier (low is good)", None), "r2": ("R\u00b2", 0.0),
    "mae": ("absolute error (low is good)", None), "pearson": ("Pearson's r", 0.0),
    "spearman": ("Spearman's \u03c1", 0.0), "skill": ("skill over the training mean", 0.0),
    "ibs_skill": ("integrated Brier skill over K-M", 0.0), "calibration_slope": ("calibration slope (1 is good)", 1.0),
    "c_harrell_rank": ("c of ranks within folds", 0.5), "dice": ("Dice", None),
}  # fmt: skip
#: In the tables, but not in this figure: they have a curve of their own, or are there to be compared with the main one.
LEFT_OUT = ("brier@", "observed_expected@", "c_harrell_pooled")


@figure(
    "metrics_forest",
    kinds=("classification", "survival", "regression", "expression", "tile_classification"),
    table="metrics",
    category="results",
    caption="Metrics of every model with bootstrap intervals over patients (of spots, over blocks of neighbours); the "
    "trivial controls are grey. Dotted line: a useless model. Ranking metrics are means over test folds, the others "
    "are over all test patients or spots. Expression: mean over genes.",
)
def metrics_forest(table: pd.DataFrame, *, noun: str = "patients") -> Figure:
    """Draw the metrics of a task: model, metric, estimate, low, high, n [, gene: the rows of ``all``].

    `noun` is what n counts: patients or spots.
    """
    if "gene" in table:
        table = table[table["gene"] == ALL]
    table = table[~table["metric"].str.startswith(LEFT_OUT)]
    models, metrics = style.ordered(table, "model"), style.ordered(table, "metric")
    looks = style.appearance(models)
    with style.style():
        fig, axes = style.panels(len(metrics), 2.35, 0.75 + 0.3 * len(models), sharey=True)
        for ax, metric in zip(axes, metrics, strict=True):
            part = table[table["metric"] == metric].set_index("model")
            title, useless = label_of(metric)
            if useless is not None:
                ax.axvline(useless, color=style.GREY, linewidth=0.8, linestyle=":")
            for row, model in enumerate(models):
                if model not in part.index:  # foreign risks have no survival curves to score
                    continue
                style.estimate_row(ax, row, part.loc[model], looks[model]["color"])
            ax.set_yticks(range(len(models)), [style.shorten(m) for m in models])
            ax.set_ylim(len(models) - 0.5, -0.75)
            ax.set_title(title)
            ax.grid(axis="x")
            ax.margins(x=0.08)
            ax.tick_params(axis="y", length=0)
            ax.spines["left"].set_visible(False)
        total = table["n"].max()
        events = table["events"].max() if "events" in table else np.nan
        more = f", {int(events)} events" if pd.notna(events) else ""
        fig.supxlabel(f"estimate with its interval (n = {int(total)} {noun}{more})", fontsize=7.5)
    return fig


def label_of(metric: str) -> tuple[str, float | None]:
    """Title of a metric, and what a useless model reaches."""
    if metric.startswith("auroc_td@"):
        return f"AUROC at {metric.split('@')[1]} days", 0.5
    if metric.startswith("auroc@"):
        return f"AUROC of {metric.split('@')[1]} or more", 0.5
    return LABELS.get(metric, (metric, None))
