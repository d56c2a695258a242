"""ROC curves of a task's models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from histostudy.figures import style
from histostudy.figures.registry import figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@figure(
    "roc",
    kinds=("classification", "tile_classification"),
    table="roc",
    category="results",
    caption="ROC curves, averaged vertically over the test folds. Bands: pointwise bootstrap interval over "
    "patients. Legend: AUROC with its interval (more than two classes: mean of each class against the"
    " rest).",
)
def roc(table: pd.DataFrame) -> Figure:
    """Draw `curves["roc"]`: model, class, fpr, tpr, low, high, n, events [, estimate, estimate_low, estimate_high]."""
    return draw_curves(table, "fpr", "tpr", "false-positive rate", "true-positive rate", "AUROC")


def draw_curves(table: pd.DataFrame, x: str, y: str, x_label: str, y_label: str, metric: str) -> Figure:
    """One panel a class, one line with its band a model; shared by ROC and precision-recall."""
    if not len(table):
        return style.empty("No curve: every test fold holds one class only.")
    classes, looks = style.ordered(table, "class"), style.appearance(table["model"])
    with style.style():
        fig, axes = style.panels(len(classes), 2.6 if len(classes) > 1 else 3.5, 2.75 if len(classes) > 1 else 3.4)
        for ax, name in zip(axes, classes, strict=True):
            part = table[table["class"].astype(str) == name]
            n, events = int(part["n"].iloc[0]), int(part["events"].iloc[0])
            if y == "tpr":
                ax.plot([0, 1], [0, 1], color=style.LIGHT, linewidth=1, zorder=0)
            else:
                ax.axhline(events / n, color=style.LIGHT, linewidth=1, zorder=0)
            for model, curve in part.groupby("model", sort=False):
                look = looks[str(model)]
                first = curve.iloc[0]
                label = style.shorten(str(model))
                if "estimate" in curve:
                    label += f"  {style.with_interval(first.estimate, first.estimate_low, first.estimate_high)}"
                ax.fill_between(curve[x], curve["low"], curve["high"], color=look["color"], alpha=0.13, linewidth=0)
                ax.plot(curve[x], curve[y], label=label, **look)
            ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=x_label, ylabel=y_label, aspect="equal")
            ax.set_title(f"{name} (n = {events} of {n})")
        style.legend_below(fig, axes[0], columns=1 if len(classes) == 1 else 2, title=metric)
    width, height = fig.get_size_inches()
    rows = -(-len(looks) // (1 if len(classes) == 1 else 2))
    fig.set_size_inches(width, height + 0.16 * rows)
    return fig
