"""Correlation over genes within a patient: what each model reaches beside what the genes' means alone reach."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histostudy.evaluation.within_patient import CENTRED, RAW
from histostudy.figures import style
from histostudy.figures.registry import figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: The control that predicts every gene's training mean for everybody.
CONTROL = "prior"
#: What stands over the panel of each measure.
PANELS = {RAW: "raw values", CENTRED: "each gene's training mean taken out"}


@figure(
    "within_patient",
    kinds=("expression",),
    table="within",
    category="results",
    caption="Spearman's correlation over genes within a patient (or a spot of a section), mean over the tested ones "
    "with its bootstrap interval. Left: raw values; the dashed line is what the genes' training means alone reach, the "
    "same for everybody: a value up to it needs no slide. Right: after each gene's training mean is taken from "
    "measured and predicted values; dotted: a useless model. Open diamonds: the mean when a prediction is held against "
    "the others of its run, which knows nothing of the patient or spot itself.",
)
def within_patient(table: pd.DataFrame, *, noun: str = "patients") -> Figure:
    """Draw `curves["within"]`: a panel a measure, a row a model.

    Parameters
    ----------
    table : DataFrame
        model, measure (``across genes``, ``gene-centred``), mean, low, high, n, genes [, permuted].
    noun : str
        What n counts: patients or spots.

    Returns
    -------
    Figure
    """
    if not len(table):
        return style.empty("No correlation within patients: the study has no training-mean control.")
    models, looks = style.ordered(table, "model"), style.appearance(table["model"])
    measures = [m for m in PANELS if (table["measure"] == m).any()]
    with style.style():
        fig, axes = style.panels(len(measures), 3.6, 1.0 + 0.2 * len(models), sharey=True)
        for ax, measure in zip(axes, measures, strict=True):
            part = table[table["measure"] == measure].drop_duplicates("model").set_index("model")
            _panel(ax, part, models, looks)
            ax.set_title(PANELS[measure])
            ax.set_xlabel(_about(part, noun))
        _level(axes, table, measures)
        _legend(fig, table, noun)
    return fig


def _panel(ax: Axes, part: pd.DataFrame, models: list[str], looks: dict[str, dict[str, Any]]) -> None:
    """A row a model: its mean with the interval, the numbers beside it, and the mean over exchanged patients."""
    for row, model in enumerate(models):
        if model not in part.index:
            continue
        one, colour = part.loc[model], looks[model]["color"]
        if np.isfinite(one["mean"]):
            ax.plot([one["low"], one["high"]], [row, row], color=colour, linewidth=1.2)
            ax.plot(one["mean"], row, "o", color=colour, markersize=4, zorder=3)
        if "permuted" in part and np.isfinite(one["permuted"]):
            ax.plot(one["permuted"], row, "D", color=style.GREY, markerfacecolor="white", markersize=3.2,
                    markeredgewidth=0.8, zorder=2)  # fmt: skip
        words = style.with_interval(one["mean"], one["low"], one["high"])
        ax.annotate(words, (1.01, row), xycoords=("axes fraction", "data"), fontsize=6, color=colour, va="center")
    ax.set_yticks(range(len(models)), [style.shorten(m) for m in models])
    ax.set_ylim(len(models) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="x")
    ax.margins(x=0.08)


def _level(axes: list[Axes], table: pd.DataFrame, measures: list[str]) -> None:
    """The dashed line of the control over raw values, and none to reach once the means are out."""
    for ax, measure in zip(axes, measures, strict=True):
        if measure == CENTRED:
            ax.axvline(0, color=style.GREY, linewidth=0.8, linestyle=":", zorder=0.9)
            continue
        control = table[(table["model"] == CONTROL) & (table["measure"] == measure)]
        if len(control) and np.isfinite(control["mean"].iloc[0]):
            ax.axvline(control["mean"].iloc[0], color=style.DARK, linewidth=0.9, linestyle=(0, (4, 2)), zorder=0.9)


def _about(part: pd.DataFrame, noun: str) -> str:
    n = part.loc[np.isfinite(part["mean"]), "n"]
    genes = f"{style.spread(part['genes'])} genes"
    return f"mean Spearman's \N{GREEK SMALL LETTER RHO} ({genes}; n = {style.spread(n) if len(n) else 0} {noun})"


def _legend(fig: Figure, table: pd.DataFrame, noun: str) -> None:
    """What the line and the diamonds are, under the figure."""
    from matplotlib.lines import Line2D

    keys = []
    if (table["model"] == CONTROL).any():
        said = "what gene means alone reach"
        keys.append(Line2D([], [], color=style.DARK, linewidth=0.9, linestyle=(0, (4, 2)), label=said))
    if "permuted" in table and table["permuted"].notna().any():
        mark: dict[str, Any] = {"marker": "D", "markersize": 3.2, "markerfacecolor": "white", "markeredgewidth": 0.8}
        keys.append(Line2D([], [], color=style.GREY, linewidth=0, label=f"against other {noun}", **mark))
    if keys:
        fig.legend(handles=keys, loc="outside lower center", ncols=len(keys))
