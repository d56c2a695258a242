"""Net benefit of acting on a model's prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histostudy.figures import style
from histostudy.figures.registry import figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ALL: dict[str, Any] = {"color": "black", "linewidth": 1.0, "linestyle": (0, (1, 1))}
NONE: dict[str, Any] = {"color": style.GREY, "linewidth": 1.0}


@figure(
    "decision_curve",
    kinds=("classification",),
    table="decision",
    category="results",
    caption="Decision curves (Vickers and Elkin 2006): true positives less false positives, weighted by the odds of "
    "the threshold, as a share of all test patients. A model is of use where it lies above both treating everybody "
    "(dotted) and nobody (grey, zero). Bands: pointwise bootstrap interval over patients. Above four models a task "
    "of one class has a panel each, with the others in pale grey and the clinical model "
    "dashed; with more classes the bands are left out.",
)
def decision_curve(table: pd.DataFrame) -> Figure:
    """Draw `curves["decision"]`: model, class, threshold, net_benefit, low, high, treat_all, n, events.

    Parameters
    ----------
    table : DataFrame
        A row each model, class and threshold probability.

    Returns
    -------
    Figure
    """
    table = table[np.isfinite(table["net_benefit"])] if len(table) else table
    if not len(table):
        return style.empty("No decision curve: every patient has one class, or no model says probabilities.")
    classes, models = style.ordered(table, "class"), style.ordered(table, "model")
    looks = style.appearance(models)
    apart = len(models) > style.TOGETHER and len(classes) == 1
    shown = [(classes[0], m) for m in models] if apart else [(c, None) for c in classes]
    with style.style():
        if len(shown) == 1:
            fig = style.canvas(4.6, 3.1 + 0.17 * (len(models) + 2))
            axes = [fig.subplots()]
        else:
            fig, axes = style.panels(len(shown), 2.4, 1.75 if apart else 2.3, sharey=apart)
        for ax, (name, about) in zip(axes, shown, strict=True):
            part = table[table["class"].astype(str) == name]
            _baselines(ax, part)
            for model, curve in part.groupby("model", sort=False):
                curve = curve.sort_values("threshold")
                if about is not None and model != about:
                    ax.plot(curve["threshold"], curve["net_benefit"], **style.pale(str(model)))
                    continue
                look = looks[str(model)] if about is None else style.alone(looks, about)
                if about is not None or len(models) <= style.TOGETHER:
                    ax.fill_between(curve["threshold"], curve["low"], curve["high"], color=look["color"],
                                    alpha=0.15, linewidth=0)  # fmt: skip
                ax.plot(curve["threshold"], curve["net_benefit"], label=style.shorten(str(model), 32), **look)
            share = float((part["events"] / part["n"]).max())
            ax.set(xlim=(0, min(1.0, float(table["threshold"].max()) * 1.01)), ylim=(-0.22 * share, 1.12 * share))
            ax.grid(axis="y")
            n, events = int(part["n"].max()), int(part["events"].max())
            ax.set_title(style.shorten(about, 30) if about else f"{name} (n = {events} of {n})", fontsize=7.5)
        _words(fig, axes, table, apart)
    return fig


def _baselines(ax: Axes, part: pd.DataFrame) -> None:
    """Treating everybody and treating nobody."""
    ax.axhline(0, label="treat none", zorder=0.8, **NONE)
    everybody = part.drop_duplicates("threshold").sort_values("threshold")
    ax.plot(everybody["threshold"], everybody["treat_all"], label="treat all", zorder=0.9, **ALL)


def _words(fig: Figure, axes: list[Axes], table: pd.DataFrame, apart: bool) -> None:
    """Axis labels and the legend."""
    x, y = "threshold probability", "net benefit (per patient)"
    if len(axes) == 1:
        axes[0].set(xlabel=x, ylabel=y)
        style.legend_below(fig, axes[0])
        return
    fig.supylabel(y, fontsize=8)
    if apart:
        one = table.iloc[0]
        fig.supxlabel(f"{x}; {one['class']} (n = {int(one['events'])} of {int(one['n'])})", fontsize=8)
        return
    for ax in axes:
        ax.set_xlabel(x)
    full = max(axes, key=lambda ax: len(ax.get_legend_handles_labels()[0]))
    style.legend_below(fig, full, columns=2)
    width, height = fig.get_size_inches()
    fig.set_size_inches(width, height + 0.17 * -(-len(full.get_legend_handles_labels()[0]) // 2))
