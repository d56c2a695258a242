"""What each model adds to the clinical one, and the reverse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histostudy.figures import style
from histostudy.figures.registry import figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Where the columns of words stand, points right of the axes.
COLUMNS = (6, 72, 126, 166)
HEADS = ("c, alone \u2192 both", "\u03c7\u00b2 (df)", "p", "n / events")


@figure(
    "added_value",
    kinds=("survival",),
    table="added",
    category="results",
    caption="Likelihood-ratio tests of nested Cox models, stratified by the run that tested the patient: what the "
    "model's out-of-fold risk adds to the clinical one (upper), and what that adds to the model (lower). Open: "
    "Harrell's c of the smaller Cox model, mean over runs; filled: of both, whose two weights are fitted on the same "
    "patients: a little high. Blue: p below 0.05; p is not corrected over the models.",
)
def added_value(table: pd.DataFrame) -> Figure:
    """Draw `curves["added"]`: model, base, added, chi2, df, p, c_base, c_both, n, events.

    Parameters
    ----------
    table : DataFrame
        A row each model and direction; `added` reads ``<what> added to <what>``.

    Returns
    -------
    Figure
    """
    if not len(table) or not np.isfinite(table["chi2"]).any():
        return style.empty("No added value: there is no clinical model, or no model's risk varies.")
    what = table["added"].astype(str).str.partition(" added to ")
    table = table.assign(what=what[0], to=what[2])
    forward = table["what"] == table["model"].astype(str)
    sections = [(name, table[rows]) for name, rows in (("what", forward), ("to", ~forward)) if rows.any()]
    ends = table[["c_base", "c_both"]].to_numpy(float)
    ends = ends[np.isfinite(ends)]
    ends = ends if len(ends) else np.array([0.5])
    limits = (min(0.5, float(ends.min())) - 0.015, max(float(ends.max()), 0.55) + 0.015)
    with style.style():
        from matplotlib.ticker import MaxNLocator

        sizes = [len(part) for _, part in sections]
        fig = style.canvas(style.PAGE_IN, 0.55 + sum(0.24 * s + 0.55 for s in sizes))
        axes = fig.subplots(len(sizes), 1, squeeze=False, sharex=True, height_ratios=[s + 1.2 for s in sizes])[:, 0]
        for ax, (varies, part) in zip(axes, sections, strict=True):
            title, labels = _names(part, varies)
            _section(ax, part, labels, limits)
            ax.set_title(title)
            style.beside(ax, -0.85, HEADS, COLUMNS, weight="bold")
        axes[-1].xaxis.set_major_locator(MaxNLocator(5))
        axes[-1].set_xlabel("Harrell's c, mean over runs (dotted: 0.5, no discrimination)")
    return fig


def _section(ax: Axes, part: pd.DataFrame, labels: list[str], limits: tuple[float, float]) -> None:
    """One row a test: a dumbbell and its numbers."""
    ax.axvline(0.5, color=style.GREY, linewidth=0.8, linestyle=":")
    for row, one in enumerate(part.itertuples()):
        if row % 2 == 0:
            ax.axhspan(row - 0.5, row + 0.5, color="#F6F6F6", linewidth=0, zorder=0)
        size = f"{int(one.n)} / {int(one.events)}" if np.isfinite([one.n, one.events]).all() else ""
        if not np.isfinite([one.chi2, one.p]).all():
            style.beside(ax, row, ("undefined", "", "", size), COLUMNS)
            continue
        tone = style.OKABE_ITO[0] if one.p < 0.05 else style.GREY
        ax.plot([one.c_base, one.c_both], [row, row], color=tone, linewidth=1.6, zorder=1)
        ax.plot(one.c_base, row, "o", color=tone, markersize=6.5, markerfacecolor="white")
        ax.plot(one.c_both, row, "o", color=tone, markersize=4)  # inside the ring where nothing changes
        p = style.p_text(one.p).removeprefix("p ").removeprefix("= ")
        change = f"{one.c_base:.3f} \u2192 {one.c_both:.3f}"
        style.beside(ax, row, (change, f"{one.chi2:.1f} ({int(one.df)})", p, size), COLUMNS)
    ax.set_yticks(range(len(part)), labels)
    ax.set(xlim=limits, ylim=(len(part) - 0.5, -1.2))
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="x")


def _names(part: pd.DataFrame, varies: str) -> tuple[str, list[str]]:
    """Title of a section and a label of each row: the model alone where all rows have one base, else both names."""
    bases = style.ordered(part, "to" if varies == "what" else "what")
    if len(bases) == 1:
        base = style.shorten(bases[0], 30)
        title = f"what each model adds to {base}" if varies == "what" else f"what {base} adds to each model"
        return title, [style.shorten(m, 32) for m in part[varies]]
    pairs = zip(part["what"], part["to"], strict=True)
    title = "what each model adds to another" if varies == "what" else "the reverse"
    return title, [f"{style.shorten(w, 20)} added to {style.shorten(t, 20)}" for w, t in pairs]
