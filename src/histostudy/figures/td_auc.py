"""Discrimination over time: the time-dependent AUC of each model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histostudy.figures import style
from histostudy.figures.registry import figure
from histostudy.figures.survival_panel import time_ticks, time_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@figure(
    "td_auc",
    kinds=("survival",),
    table="td_auc",
    category="results",
    caption="Time-dependent AUC: how well the risk tells patients who have had the event by a day from those still "
    "without it; mean over the test folds. Bands: pointwise bootstrap interval over patients; dotted line: a useless "
    "model. In brackets under the axis: events by the last computed day up to there; where they are few the curve is "
    "noise. Above four models each has its own panel, with the others in pale grey and the clinical model dashed.",
)
def td_auc(table: pd.DataFrame, *, horizons: Sequence[float] = ()) -> Figure:
    """Draw `curves["td_auc"]`: model, days, estimate, low, high, n, events (by that day).

    Parameters
    ----------
    table : DataFrame
        A row each model and day.
    horizons : sequence of float
        Days that the axis marks; round times where none is given.

    Returns
    -------
    Figure
    """
    table = table[np.isfinite(table["estimate"])] if len(table) else table
    if not len(table):
        return style.empty("No AUC over time: no day has both cases and patients still at risk.")
    low, high = np.nanquantile(table["low"].fillna(table["estimate"]), 0.1), np.nanquantile(table["high"], 0.95)
    limits = (max(0.0, min(0.4, low - 0.02)), min(1.02, max(0.8, high + 0.03, table["estimate"].max() + 0.02)))
    return draw_over_time(table, "time-dependent AUC", limits, horizons, level=0.5)


def draw_over_time(
    table: pd.DataFrame,
    y_label: str,
    limits: tuple[float, float],
    horizons: Sequence[float],
    *,
    level: float | None = None,
    reference: pd.DataFrame | None = None,
) -> Figure:
    """One line with its band a model against time; shared by the AUC and the Brier score.

    Parameters
    ----------
    table : DataFrame
        model, days, estimate, low, high, n, events.
    y_label : str
        What is drawn, with its unit.
    limits : tuple of float
        Of the vertical axis.
    horizons : sequence of float
        Days marked on the axis.
    level : float, optional
        Value of a useless model.
    reference : DataFrame, optional
        days, reference: a curve that every panel shows.

    Returns
    -------
    Figure
    """
    models, looks = style.ordered(table, "model"), style.appearance(table["model"])
    last = float(table["days"].max())
    unit, name = time_unit(last)
    together = len(models) <= style.TOGETHER
    n = f"n = {style.spread(table['n'])} patients"
    with style.style():
        if together:
            height = 3.2 + 0.17 * (len(models) + (reference is not None))
            fig = style.canvas(4.6, height)
            axes = [fig.subplots()]
        else:
            fig, axes = style.panels(len(models), 2.4, 1.75, sharey=True)
        for k, ax in enumerate(axes):
            shown = models if together else [models[k]]
            if level is not None:
                ax.axhline(level, color=style.DARK, linewidth=0.8, linestyle=":", zorder=0.9)
            if not together:
                _background(ax, table, models[k], unit)
            if reference is not None:
                ax.plot(reference["days"] / unit, reference["reference"], color="black", linestyle=(0, (1, 1)),
                        linewidth=1.2, label="Kaplan-Meier of the training part", zorder=2.5)  # fmt: skip
            for model in shown:
                curve = table[table["model"] == model].sort_values("days")
                look = looks[model] if together else style.alone(looks, model)
                ax.fill_between(curve["days"] / unit, curve["low"], curve["high"], color=look["color"],
                                alpha=0.13 if together else 0.2, linewidth=0)  # fmt: skip
                few = len(curve) < 3  # a band of one or two days cannot be seen
                if few:
                    ax.vlines(curve["days"] / unit, curve["low"], curve["high"], color=look["color"], linewidth=0.8)
                mark: dict[str, Any] = {"marker": "o", "markersize": 2.5} if few else {}
                ax.plot(curve["days"] / unit, curve["estimate"], label=style.shorten(model, 32), **look, **mark)
            ticks = time_ticks(last, unit, horizons, 8 if together else 4)
            counts = table[table["model"].isin(shown)]
            ax.set_xticks(ticks, [_tick(x, unit, counts) for x in ticks])
            ax.set(xlim=(0, 1.03 * last / unit), ylim=limits)
            ax.grid(axis="y")
            if not together:
                ax.set_title(style.shorten(models[k], 30), fontsize=7.5)
        if together:
            axes[0].set(xlabel=f"time, {name} (events by then); {n}", ylabel=y_label)
            style.legend_below(fig, axes[0], columns=1)
        else:
            fig.supxlabel(f"time, {name} (events by then); {n}", fontsize=8)
            fig.supylabel(y_label, fontsize=8)
    return fig


def _background(ax: Axes, table: pd.DataFrame, model: str, unit: float) -> None:
    """The other models, pale; the clinical one dashed and darker, since it is to be beaten."""
    for other, curve in table[table["model"] != model].groupby("model", sort=False):
        curve = curve.sort_values("days")
        ax.plot(curve["days"] / unit, curve["estimate"], **style.pale(str(other)))


def _tick(x: float, unit: float, table: pd.DataFrame) -> str:
    """A time and, in brackets, the events by the last computed day up to it."""
    before = table[table["days"] <= x * unit * (1 + 1e-9)]
    number = f"{round(x, 1):g}"
    if not len(before):
        return f"{number}\n "
    by_model = before.sort_values("days").groupby("model", sort=False)["events"].last()
    return f"{number}\n({style.spread(by_model)})"
