"""The audit of stain: what features know of the slide, and how they hold under another stain or scanner."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from histostudy.figures import style
from histostudy.figures.registry import figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: By panel: title, axis, and its measures with their names, colours and marks.
PANELS = (
    (
        "what the features know of the slide (lower is better)",
        "accuracy, or share of variance",
        {
            "slide_knn": ("slide, from 5 neighbours", style.OKABE_ITO[0], "o"),
            "site_knn": ("site, from 5 neighbours", style.OKABE_ITO[1], "s"),
            "slide_variance": ("variance between slides", style.OKABE_ITO[2], "^"),
        },
    ),
    (
        "the same tile under another stain or scanner (higher is better)",
        "cosine, or share of tiles found",
        {
            "cosine": ("cosine, same tile", style.OKABE_ITO[0], "o"),
            "cosine_other": ("cosine, other tiles", style.GREY, "o"),
            "top10_scanner": ("top-10, other scanner", style.OKABE_ITO[2], "^"),
            "top10_stain": ("top-10, other stain", style.OKABE_ITO[1], "s"),
            "top10_both": ("top-10, both", style.OKABE_ITO[3], "D"),
        },
    ),
)


@figure(
    "stain_audit",
    table="stain_audit",
    category="cohort",
    caption="The same tiles encoded as they are (none) and after each stain normalisation, fitted to each slide and "
    "aimed at published constants or the study's target; the study's own features in bold. Bars: bootstrap intervals "
    "over patients, of one pool of tiles; short vertical lines: chance. Left: share of tiles whose slide is told by "
    "their 5 nearest neighbours among all other tiles, whose site is told by those of other patients, and share of the "
    "variance that lies between slides. Right: the tiles under simulated stains and scanners, medians over pairs of "
    "versions; top-10: share of tiles whose counterpart is among the 10 nearest of all tiles of both versions. A high "
    "cosine with a low retrieval, or one that other tiles reach too, means a collapsed space, not a robust one (marked "
    "!). Simulated change is not a slide stained and scanned again.",
)
def stain_audit(table: pd.DataFrame) -> Figure:
    """Draw `evaluation.stain_audit.audit_table`.

    Parameters
    ----------
    table : DataFrame
        method, in_use, measure, estimate, low, high, chance, n, slides, patients, pairs, fallbacks, warning.

    Returns
    -------
    Figure
    """
    from matplotlib.transforms import ScaledTranslation

    if not len(table):
        return style.empty("No audit of stain: the study does not ask for one.")
    methods = style.ordered(table, "method")
    used = table.drop_duplicates("method").set_index("method")["in_use"]
    with style.style():
        fig = style.canvas(style.PAGE_IN, 1.9 + 0.6 * len(methods))
        axes = fig.subplots(1, 2, sharey=True)
        for ax, (title, label, measures) in zip(axes, PANELS, strict=True):
            _panel(ax, table, methods, measures)
            one = table[table["measure"].isin(measures)]
            ax.set_title(f"{title}\n{_counts(one)}", fontsize=7)
            ax.set_xlabel(label)
            below = ax.transAxes + ScaledTranslation(0, -32 / 72, fig.dpi_scale_trans)  # clear of the label
            ax.legend(loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=below, ncols=2, fontsize=6.5)
        axes[0].set_yticks(range(len(methods)), methods)
        axes[0].set_ylim(len(methods) - 0.5, -0.5)
        for text, method in zip(axes[0].get_yticklabels(), methods, strict=True):
            text.set_weight("bold" if used[method] else "normal")
    return fig


def _panel(ax: Axes, table: pd.DataFrame, methods: list[str], measures: dict[str, tuple[str, str, str]]) -> None:
    """A row each method, its measures one under the other."""
    shown = [name for name in measures if (table["measure"] == name).any()]
    for k, measure in enumerate(shown):
        name, colour, mark = measures[measure]
        mine = table[table["measure"] == measure].set_index("method")
        at = [y + 0.72 * ((k + 0.5) / len(shown) - 0.5) for y in range(len(methods)) if methods[y] in mine.index]
        rows = mine.loc[[m for m in methods if m in mine.index]]
        ax.hlines(at, rows["low"], rows["high"], color=colour, linewidth=1.1)
        ax.plot(rows["estimate"], at, linestyle="none", marker=mark, markersize=4, color=colour, label=name)
        for y, row in zip(at, rows.itertuples(), strict=True):
            if pd.notna(row.chance):
                ax.vlines(row.chance, y - 0.08, y + 0.08, color=style.DARK, linewidth=1)
            if row.warning == "collapsed":
                ax.annotate("!", (row.estimate, y), xytext=(-8, 1), textcoords="offset points", color=style.DARK,
                            weight="bold", fontsize=8)  # fmt: skip
    for y in range(1, len(methods)):
        ax.axhline(y - 0.5, color=style.LIGHT, linewidth=0.6)
    ax.set_xlim(-0.03, 1.03)
    ax.grid(axis="x")


def _counts(table: pd.DataFrame) -> str:
    row = table.iloc[0]
    words = f"n = {row['n']} tiles, {row['patients']} patients"
    pairs = int(table["pairs"].max())
    return words + (f", {pairs} pairs of versions" if pairs else "")
