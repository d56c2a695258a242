"""Molecular subtypes called from predicted expression: agreement with the measured ones, and survival of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histostudy.evaluation.expression import ALL
from histostudy.figures import style, survival_panel
from histostudy.figures.registry import figure
from histostudy.figures.survival_panel import time_ticks, time_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Inches of a row (a model in a group).
ROW = 0.155
#: Rows left free above each group.
GAP = 1.1


@figure(
    "subtypes",
    kinds=("expression",),
    table="subtype_scores",
    category="results",
    caption="Molecular subtypes by the nearest centroid, called from predicted and from measured expression. Left: how "
    "well the predicted correlation with a centroid tells the patients measured as its subtype from the rest (mean "
    "over test folds); in brackets their number. Right: agreement of the two calls over all test patients. Bars: "
    "bootstrap interval over patients. Dotted: a useless model, for the accuracy one that calls everybody the "
    "commonest subtype; kappa takes that chance agreement out.",
)
def subtypes(table: pd.DataFrame) -> Figure:
    """Draw `curves["subtype_scores"]`: AUROC of each subtype, and accuracy and kappa over all, by model.

    Parameters
    ----------
    table : DataFrame
        model, subtype, metric (``auroc``; of subtype ``all`` ``accuracy`` and ``kappa``), estimate, low, high, n,
        events (patients measured as the subtype).

    Returns
    -------
    Figure
    """
    if not len(table):
        return style.empty("No subtypes were called from the predicted expression.")
    models, looks = style.ordered(table, "model"), style.appearance(table["model"])
    areas, whole = table[table["metric"] == "auroc"], table[table["subtype"] == ALL]
    names = style.ordered(areas, "subtype")
    each, n = len(models) + GAP, int(table["n"].max())
    most = {name: areas.loc[areas["subtype"] == name, "events"] for name in names}
    common = max((float(events.max()) for events in most.values() if events.notna().any()), default=np.nan) / n
    with style.style():
        fig = style.canvas(style.PAGE_IN, 1.0 + ROW * each * len(names) + 0.16 * ((len(models) + 2) // 3))
        fig.get_layout_engine().set(wspace=0.06)  # type: ignore[union-attr, call-arg]
        grid = fig.add_gridspec(max(len(names), 2), 2, width_ratios=[1.25, 1])
        left, right = fig.add_subplot(grid[: len(names), 0]), fig.add_subplot(grid[:2, 1])  # rows of about one height
        labels = [f"{style.shorten(name)}\n({style.spread(most[name])})" for name in names]
        parts = [areas[areas["subtype"] == name] for name in names]
        _rows(left, labels, parts, models, looks, [0.5] * len(names))
        left.set_xlabel(f"AUROC against the rest (n = {n})")
        metrics = [(name, useless) for name, useless in (("accuracy", common), ("kappa", 0.0))]
        parts = [whole[whole["metric"] == name] for name, _ in metrics]
        _rows(
            right, ["accuracy", "Cohen's \N{GREEK SMALL LETTER KAPPA}"], parts, models, looks, [u for _, u in metrics]
        )
        right.set_xlabel(f"agreement of the calls (n = {n})")
        style.legend_below(fig, left, columns=min(3, len(models)))
    return fig


def _rows(
    ax: Axes,
    labels: Sequence[str],
    parts: Sequence[pd.DataFrame],
    models: Sequence[str],
    looks: dict[str, dict[str, Any]],
    useless: Sequence[float],
) -> None:
    """A group of rows each label, a row each model, with the numbers beside it."""
    each, middle = len(models) + GAP, (len(models) - 1) / 2
    for group, (part, level) in enumerate(zip(parts, useless, strict=True)):
        top = group * each
        if np.isfinite(level):
            span = [top - 0.5, top + len(models) - 0.5]
            ax.plot([level, level], span, color=style.GREY, linewidth=0.8, linestyle=":")
        for k, model in enumerate(models):
            mine = part[part["model"].astype(str) == model]
            one = mine.iloc[0] if len(mine) else pd.Series({"estimate": np.nan, "low": np.nan, "high": np.nan})
            colour, y = looks[model]["color"], top + k
            if np.isfinite(one.estimate):
                ax.plot([one.low, one.high], [y, y], color=colour, linewidth=1.2)
            ax.plot(
                one.estimate, y, "o", color=colour, markersize=3.5, label=style.shorten(model, 30) if not group else ""
            )
            words = style.with_interval(one.estimate, one.low, one.high)
            ax.annotate(words, (1.01, y), xycoords=("axes fraction", "data"), fontsize=6, color=colour, va="center")
        if group:
            ax.axhline(top - (GAP + 1) / 2, color=style.LIGHT, linewidth=0.6)
    ax.set_yticks([group * each + middle for group in range(len(labels))], list(labels))
    ax.set_ylim(len(labels) * each - GAP, -0.8)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="x")
    ax.margins(x=0.06)


@figure(
    "subtype_survival",
    kinds=("expression",),
    table="subtype_km",
    category="results",
    caption="Kaplan-Meier curves of molecular subtypes called from measured expression (left) and from that which one "
    "model predicts (right), in the same patients: the model with the highest kappa. Bands: pointwise log-log "
    "interval; ticks: censored; below: patients at risk. p: log-rank test over all groups, stratified by the run that "
    "tested the patient. That predicted groups part does not show that they are the measured ones.",
)
def subtype_survival(table: pd.DataFrame, *, scores: pd.DataFrame | None = None) -> Figure:
    """Draw `curves["subtype_km"]` of one model: curves of the measured calls beside those of its own.

    Parameters
    ----------
    table : DataFrame
        model, calls (``measured``, ``predicted``), stratum (the subtype), time_days, survival, low, high, at_risk,
        events, p.
    scores : DataFrame, optional
        `curves["subtype_scores"]`, whose kappa chooses the model. Without it the first whose predicted calls have
        curves.

    Returns
    -------
    Figure
    """
    if not len(table):
        return style.empty("No survival of subtypes: no survival task, or everybody is called alike.")
    model = _best(table, scores)
    mine = table[table["model"].astype(str) == model]
    names = sorted(style.ordered(mine, "stratum"), key=str.lower)
    tones = style.colours(names)
    last = float(mine["time_days"].max())
    unit, time = time_unit(last)
    ticks = time_ticks(last, unit, most=6)
    with style.style():
        fig = style.canvas(style.PAGE_IN, 2.6 + 0.2 * len(names))
        grid = fig.add_gridspec(2, 2, height_ratios=[2.0, 0.19 * len(names)])
        for column, calls in enumerate(("measured", "predicted")):
            ax = fig.add_subplot(grid[0, column])
            below = fig.add_subplot(grid[1, column], sharex=ax)
            part = mine[mine["calls"] == calls]
            survival_panel.draw_strata(ax, below, part, tones, ticks, unit, band=0.08)
            survival_panel.frame(ax, below, tones, ticks, last / unit, f"time, {time}", first=column == 0)
            ax.set_title(_title(calls, model, part), fontsize=7.5)
            below.set_title("patients at risk", fontsize=7, pad=2)
            if not len(part):
                ax.text(0.5, 0.5, "everybody is called alike", transform=ax.transAxes, ha="center", va="center",
                        color=style.GREY)  # fmt: skip
    return fig


def _best(table: pd.DataFrame, scores: pd.DataFrame | None) -> str:
    """The model with curves whose kappa is highest; else the first with curves of its own calls."""
    own = table[table["calls"] == "predicted"]
    there = style.ordered(own if len(own) else table, "model")
    if scores is not None and len(scores):
        kappa = scores[(scores["metric"] == "kappa") & scores["model"].astype(str).isin(there)]
        kappa = kappa[np.isfinite(kappa["estimate"].astype(float))]
        if len(kappa):
            return str(kappa.sort_values("estimate", ascending=False, kind="stable")["model"].iloc[0])
    return there[0]


def _title(calls: str, model: str, part: pd.DataFrame) -> str:
    """Whose calls, how many patients and events, and the test over the groups."""
    whose = "called from measured expression" if calls == "measured" else f"called by {style.shorten(model, 30)}"
    if not len(part):
        return f"{whose}\n "
    groups = part["stratum"].nunique()
    p = survival_panel.p_and_ratio(part) or "log-rank undefined"
    return f"{whose}\n{survival_panel.size_text(part)}; {p} ({groups} groups)"
