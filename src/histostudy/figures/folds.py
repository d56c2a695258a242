"""Each test fold's own estimate: how far a mean over folds can be trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histostudy.figures import style
from histostudy.figures.metrics_forest import label_of
from histostudy.figures.registry import figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: More folds than this are not told apart by colour.
NAMED = 7
#: Where the columns of words stand, points right of the axes.
COLUMNS = (6, 44, 82)
MARKERS = "os^Dv<>"


@figure(
    "folds",
    kinds=("classification", "survival", "regression", "expression", "tile_classification"),
    table="folds",
    category="results",
    caption="The main metric in each test fold (dots; the larger, the more events, or the larger the fold where there "
    "are none) and its mean (bar). Up to seven folds have a mark and colour each, the same for every model. SD: over "
    "the folds, with n \u2212 1; folds share training patients, so that it is no standard error and must not be "
    "tested. Dotted line: a useless model.",
)
def folds(table: pd.DataFrame) -> Figure:
    """Draw `curves["folds"]`: model, metric, repeat, fold, estimate, n, events.

    Parameters
    ----------
    table : DataFrame
        A row each model and test fold, of one metric.

    Returns
    -------
    Figure
    """
    if not len(table) or not np.isfinite(table["estimate"]).any():
        return style.empty("No metric is defined in single folds.")
    models = style.ordered(table, "model")
    title, useless = label_of(str(table["metric"].iloc[0]))
    parts = list(dict.fromkeys(zip(table["repeat"], table["fold"], strict=True)))
    named = len(parts) <= NAMED
    sizes = _sizes(table)
    with style.style():
        below = 0.16 * (-(-len(parts) // 2) if named else 1)
        fig = style.canvas(5.8, 1.0 + 0.27 * len(models) + below)
        ax = fig.subplots()
        if useless is not None:
            ax.axvline(useless, color=style.GREY, linewidth=0.8, linestyle=":")
        for row, model in enumerate(models):
            mine = table[table["model"] == model]
            for k, key in enumerate(parts):
                at = (mine["repeat"] == key[0]) & (mine["fold"] == key[1])
                tone = style.OKABE_ITO[k] if named else style.OKABE_ITO[0]
                ax.scatter(mine.loc[at, "estimate"], [row + _lift(k, len(parts))] * int(at.sum()),
                           s=sizes[at[at].index], color=tone, marker=MARKERS[k] if named else "o",
                           alpha=0.9 if named else 0.45, linewidth=0, zorder=3)  # fmt: skip
            known = mine.loc[np.isfinite(mine["estimate"]), "estimate"]
            if not len(known):
                style.beside(ax, row, ("undefined", "", ""), COLUMNS)
                continue
            ax.plot([known.mean()] * 2, [row - 0.36, row + 0.36], color="black", linewidth=1.8, zorder=4)
            sd = f"{known.std(ddof=1):.3f}" if len(known) > 1 else ""
            all_of = f"{len(known)}" if len(known) == len(mine) else f"{len(known)} of {len(mine)}"
            style.beside(ax, row, (f"{known.mean():.3f}".replace("-", "\N{MINUS SIGN}"), sd, all_of), COLUMNS)
        style.beside(ax, -0.85, ("mean", "SD", "folds"), COLUMNS, weight="bold")
        ax.set_yticks(range(len(models)), [style.shorten(m, 32) for m in models])
        ax.set_ylim(len(models) - 0.45, -1.2)
        ax.set_xlabel(f"{title} in each test fold")
        ax.margins(x=0.06)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        ax.grid(axis="x")
        if named:
            for k, key in enumerate(parts):
                ax.scatter([], [], s=22, color=style.OKABE_ITO[k], marker=MARKERS[k], label=_fold_name(table, key))
            style.legend_below(fig, ax, columns=2)
        else:
            fig.supxlabel(f"{len(parts)} test folds of {_about(table)} each", fontsize=7)
    return fig


def _lift(k: int, parts: int) -> float:
    """Small shift of a fold's dots within the row, the same for every model, so that equal estimates both show."""
    return 0.0 if parts < 2 else 0.44 * (k / (parts - 1) - 0.5)


def _sizes(table: pd.DataFrame) -> pd.Series:
    """Area of each dot, square points: in proportion to the events, or to n where there are none."""
    counts = table["events"] if table["events"].notna().any() else table["n"]
    counts = counts.astype(float).fillna(1.0)
    return 10 + 30 * counts / max(float(counts.max()), 1.0)


def _fold_name(table: pd.DataFrame, key: tuple[int, int]) -> str:
    one = table[(table["repeat"] == key[0]) & (table["fold"] == key[1])]
    repeat = f"repeat {key[0]}, " if table["repeat"].nunique() > 1 else ""
    return f"{repeat}fold {key[1]}: {_about(one)}"


def _about(part: pd.DataFrame) -> str:
    """``n = 48, 11 events``, as ranges where they differ."""
    events = f", {style.spread(part['events'])} events" if part["events"].notna().any() else ""
    return f"n = {style.spread(part['n'])}{events}"
