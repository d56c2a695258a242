"""Hazard ratios of a model's risk beside the clinical covariates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histostudy.figures import style
from histostudy.figures.registry import figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Models that are shown: the reference and the first others.
MOST = 4
#: Colour, marker and fill of an analysis, and its distance from the middle of the row.
ANALYSES = {
    "univariable": (style.GREY, "o", "white", -0.17),
    "multivariable": (style.OKABE_ITO[0], "s", style.OKABE_ITO[0], 0.17),
}
#: No axis goes further than this, either way; intervals beyond it end in an arrow.
FURTHEST = 32.0
#: Where the columns of words stand, points right of the axes.
COLUMNS = (9, 108, 166)


@figure(
    "cox_forest",
    kinds=("survival",),
    table="cox",
    category="results",
    caption="Hazard ratios of Cox models, stratified by the run that tested the patient: each term alone "
    "(univariable, open) and all of them together (multivariable, filled). risk: the model's out-of-fold risk per "
    "standard deviation within its run. Arrows: the interval goes on. \u2020: Schoenfeld's test finds the hazards not "
    "proportional (p below 0.05), so that the ratio is an average over time. At most four models are shown, the "
    "reference first; the table has all of them.",
)
def cox_forest(table: pd.DataFrame, *, reference: str | None = None, confidence: float = 0.95) -> Figure:
    """Draw `curves["cox"]`: model, analysis, term, hazard_ratio, low, high, p, ph_p, n, events.

    Parameters
    ----------
    table : DataFrame
        A row each model, analysis and term.
    reference : str, optional
        The model shown first; else the first of the table.
    confidence : float
        Of the intervals, for their heading.

    Returns
    -------
    Figure
    """
    if not len(table) or not np.isfinite(table["hazard_ratio"]).any():
        return style.empty("No hazard ratios: no model's risk varies, or there are no events.")
    known = table[np.isfinite(table["hazard_ratio"])]
    own = known[known["term"].astype(str).str.startswith("risk")]  # a risk that does not vary has no ratio
    models = chosen(style.ordered(own if len(own) else known, "model"), reference)
    table = table[table["model"].isin(models)]
    terms = {m: _terms(table[table["model"] == m]) for m in models}
    limits = ratio_limits(table)
    with style.style():
        sizes = [len(terms[m]) for m in models]
        fig = style.canvas(style.PAGE_IN, 0.85 + sum(0.36 * s + 0.52 for s in sizes))
        axes = fig.subplots(len(models), 1, squeeze=False, sharex=True, height_ratios=[s + 0.8 for s in sizes])[:, 0]
        for ax, model in zip(axes, models, strict=True):
            _panel(ax, table[table["model"] == model], terms[model], limits)
            ax.set_title(style.shorten(model, 40))
            heads = (f"HR ({confidence:.0%} CI)", "p", "n / events")
            style.beside(ax, -0.72, heads, COLUMNS, weight="bold")
        ratio_axis(axes[-1], limits)
        axes[-1].set_xlabel("hazard ratio (log scale); right of 1: higher hazard")
        handles, labels = axes[0].get_legend_handles_labels()
        if handles:
            fig.legend(handles, labels, loc="outside lower center", ncols=2)
    return fig


def chosen(models: Sequence[str], reference: str | None, most: int = MOST) -> list[str]:
    """The reference and the first others, controls last, `most` in all."""
    rest = [m for m in models if m != reference]
    rest = sorted(rest, key=lambda m: m in style.CONTROLS)  # stable: in the table's order otherwise
    first = [m for m in models if m == reference]
    return first + rest[: most - len(first)]


def _terms(part: pd.DataFrame) -> list[str]:
    """Terms of one model, its own risk first."""
    names = style.ordered(part, "term")
    return sorted(names, key=lambda name: not name.startswith("risk"))


def _panel(ax: Axes, part: pd.DataFrame, terms: list[str], limits: tuple[float, float]) -> None:
    ax.axvline(1, color=style.GREY, linewidth=0.8, linestyle=":")
    for row, term in enumerate(terms):
        if row % 2 == 0:
            ax.axhspan(row - 0.5, row + 0.5, color="#F6F6F6", linewidth=0, zorder=0)
        for analysis, (tone, marker, fill, off) in ANALYSES.items():
            rows = part[(part["term"].astype(str) == term) & (part["analysis"] == analysis)]
            if not len(rows):
                continue
            one = rows.iloc[0]
            known = bool(np.isfinite([one.hazard_ratio, one.low, one.high]).all())
            if known:
                interval(ax, one.hazard_ratio, one.low, one.high, row + off, limits, tone, marker, fill, analysis)
            words = f"{one.hazard_ratio:.2f} ({one.low:.2f}\N{EN DASH}{one.high:.2f})" if known else "not estimable"
            if known and max(one.high, one.hazard_ratio) >= 1000:
                words = "beyond 1000"
            dagger = " \u2020" if np.isfinite(one.ph_p) and one.ph_p < 0.05 else ""
            size = f"{int(one.n)} / {int(one.events)}" if np.isfinite([one.n, one.events]).all() else ""
            p = style.p_text(one.p).removeprefix("p ").removeprefix("= ") if known else ""
            style.beside(ax, row + off, (words + dagger, p, size), COLUMNS)
    ax.set_yticks(range(len(terms)), [style.shorten(t, 30) for t in terms])
    ax.set_ylim(len(terms) - 0.5, -0.95)
    ax.set(xscale="log", xlim=limits)
    ax.tick_params(axis="y", length=0)
    ax.tick_params(axis="x", which="minor", length=0)
    ax.spines["left"].set_visible(False)


def interval(
    ax: Axes, at: float, low: float, high: float, row: float, limits: tuple[float, float],
    tone: str, marker: str, fill: str, label: str = "",
) -> None:  # fmt: skip
    """A point with its interval; what runs out of `limits` ends in an arrow head at the edge."""
    left, right = max(low, limits[0]), min(high, limits[1])
    if left < right:
        ax.plot([left, right], [row, row], color=tone, linewidth=1.2, solid_capstyle="butt")
    for cut, edge, head in ((low < limits[0], limits[0], "<"), (high > limits[1], limits[1], ">")):
        if cut:
            ax.plot(edge, row, head, color=tone, markersize=4, clip_on=False)
    if limits[0] <= at <= limits[1]:
        seen = ax.get_legend_handles_labels()[1]
        ax.plot(at, row, marker, color=tone, markersize=4.3, markerfacecolor=fill, linestyle="none",
                label=label if label not in seen else None)  # fmt: skip


def ratio_limits(table: pd.DataFrame) -> tuple[float, float]:
    """Limits of a log axis of ratios: around 1, wide enough for the intervals, no wider than `FURTHEST`."""
    ends = table[["low", "high"]].to_numpy(float)
    ends = ends[np.isfinite(ends) & (ends > 0)]
    low, high = (float(ends.min()), float(ends.max())) if len(ends) else (1.0, 1.0)
    return max(min(low / 1.1, 0.66), 1 / FURTHEST), min(max(high * 1.1, 1.5), FURTHEST)


def ratio_axis(ax: Axes, limits: tuple[float, float]) -> None:
    """Mark a log axis of ratios at powers of two: at each, at every second where it is long, finer where short."""
    from matplotlib.ticker import NullFormatter

    octaves = float(np.log2(limits[1] / limits[0]))
    step = 2.0 if octaves > 7 else 1.0
    marks = 2.0 ** (np.arange(-6, 7) * step)
    if octaves < 3.5:
        marks = np.array([0.5, 0.67, 0.8, 1, 1.25, 1.5, 2] if octaves < 2 else [0.25, 0.33, 0.5, 0.75, 1, 1.5, 2, 3, 4])
    ticks = [float(t) for t in marks if limits[0] <= t <= limits[1]]
    ax.set_xticks(ticks, [f"{t:.2g}" if t < 1 else f"{t:.3g}" for t in ticks])
    ax.xaxis.set_minor_formatter(NullFormatter())
