"""A model of one task tried on the patients of another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histostudy.figures import style
from histostudy.figures.registry import figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: A cell, inches.
CELL = (0.78, 0.5)
#: Colours of c below and above 0.5; orange and purple are told apart by all colour-blind readers.
MAP = "PuOr"


@figure(
    "transfer_matrix",
    kinds=(),
    table="transfer",
    category="results",
    caption="Harrell's c of each task's model (row) on the test patients of every task (column), with its bootstrap "
    "interval over patients. Framed: the task's own out-of-fold estimate. White is 0.5, where the model of the one "
    "tells nothing of the other; orange below it: the risk points the wrong way. Hatched: not defined. "
    "uniform average: mean of the risks of all other tasks' models, standardised within run.",
)
def transfer_matrix(table: pd.DataFrame) -> Figure:
    """Draw the study's transfer table: source, target, estimate, low, high, n, events.

    Parameters
    ----------
    table : DataFrame
        A row each pair of tasks.

    Returns
    -------
    Figure
    """
    if not len(table) or not np.isfinite(table["estimate"]).any():
        return style.empty("No transfer: the study has one survival task only.")
    sources, targets = style.ordered(table, "source"), style.ordered(table, "target")
    sources = sorted(sources, key=lambda name: name not in targets)  # the average of the others comes last
    order = {name: k for k, name in enumerate(sources)}
    targets = sorted(targets, key=lambda t: order.get(t, len(order)))  # the diagonal is one where tasks are the same
    cells = table.assign(source=table["source"].astype(str), target=table["target"].astype(str))
    cells = cells.drop_duplicates(["source", "target"]).set_index(["source", "target"])
    values = np.full((len(sources), len(targets)), np.nan)
    for i, s in enumerate(sources):
        for j, t in enumerate(targets):
            if (s, t) in cells.index:
                values[i, j] = cells.at[(s, t), "estimate"]
    reach = max(0.1, float(np.nanmax(np.abs(values - 0.5))))
    with style.style():
        import matplotlib
        from matplotlib.colors import ListedColormap
        from matplotlib.patches import Rectangle

        width, height = CELL[0] * len(targets) + 2.6, CELL[1] * len(sources) + 2.0
        fig = style.canvas(max(width, style.COLUMN_IN), height)
        ax = fig.subplots()
        light = matplotlib.colormaps[MAP](np.linspace(0.22, 0.78, 256))  # black words can be read on all of it
        tones = ListedColormap(light)
        shown = ax.imshow(np.ma.masked_invalid(values), cmap=tones, vmin=0.5 - reach, vmax=0.5 + reach, aspect="auto")
        for i, s in enumerate(sources):
            for j, t in enumerate(targets):
                if not np.isfinite(values[i, j]):
                    ax.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor="white", edgecolor=style.LIGHT,
                                           hatch="////", linewidth=0))  # fmt: skip
                    continue
                one = cells.loc[(s, t)]
                ax.text(j, i - 0.14, f"{values[i, j]:.2f}", ha="center", va="center", fontsize=8)
                if np.isfinite([one.low, one.high]).all():
                    words = f"[{one.low:.2f}, {one.high:.2f}]"
                    ax.text(j, i + 0.22, words, ha="center", va="center", fontsize=6)
        for i, s in enumerate(sources):
            if s in targets:
                j = targets.index(s)
                ax.add_patch(Rectangle((j - 0.46, i - 0.45), 0.92, 0.9, fill=False, edgecolor="black", linewidth=1.8))
        ax.set_xticks(range(len(targets)), [f"{style.shorten(t, 20)}\n{_about(cells, t)}" for t in targets],
                      rotation=45, ha="right", rotation_mode="anchor")  # fmt: skip
        ax.set_yticks(range(len(sources)), [style.shorten(s, 24) for s in sources])
        ax.set(xlabel="test patients of", ylabel="model of")
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        bar = fig.colorbar(shown, ax=ax, shrink=0.8, pad=0.02)
        bar.set_label("Harrell's c")
        bar.outline.set_linewidth(0.5)  # type: ignore[operator]
    return fig


def _about(cells: pd.DataFrame, target: str) -> str:
    """``n = 240, 98 events``: of the patients of a column."""
    part = cells.xs(target, level="target")
    events = f", {style.spread(part['events'])} events" if part["events"].notna().any() else ""
    return f"n = {style.spread(part['n'])}{events}"
