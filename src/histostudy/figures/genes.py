"""Genes ranked by how well they are predicted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histostudy.figures import style
from histostudy.figures.registry import figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Up to this many genes are named one by one.
NAMED = 60
#: Best genes named where there are more.
BEST = 8


@figure(
    "genes",
    kinds=("expression",),
    table="genes",
    category="results",
    caption="Pearson's r of each gene across test patients, or spots of sections (mean over folds), ranked, with "
    "bootstrap intervals over patients (over blocks of neighbouring spots). Blue: well predicted, by SEQUOIA's "
    "criterion against the untrained twin where the study has one (r above 0 and above the twin's by Steiger's test, "
    "error below the twin's), else r above 0 with Benjamini-Hochberg q below 0.05 over the model's genes and a squared "
    "error below the training mean's. Orange: r of the untrained twin. A prediction of every gene's mean has no r.",
)
def genes(table: pd.DataFrame, *, noun: str = "patients") -> Figure:
    """Draw `curves["genes"]`: model, gene, estimate, low, high, q, n [, skill, well_predicted, untrained_r].

    Models without a defined r are left out. Where well predicted genes are not told, those of q < 0.05 are marked.
    `noun` is what n counts: patients or spots.
    """
    table = table[np.isfinite(table["estimate"])] if len(table) else table
    if not len(table):
        return style.empty("No gene has a defined correlation.")
    models = style.ordered(table, "model")
    most = int(table.groupby("model").size().max())
    named = most <= NAMED
    with style.style():
        height = max(0.9 + 0.13 * most, 1.7) if named else 2.7
        fig, axes = style.panels(
            len(models), 2.4 if named else 3.6, height, per_row=3 if named else 2, sharex=named, sharey=not named
        )
        for ax, model in zip(axes, models, strict=True):
            part = table[table["model"] == model].sort_values("estimate", ascending=False, ignore_index=True)
            good, word = _marked(part)
            if named:
                _rows(ax, part, good)
            else:
                _curve(ax, part, good, _limits(table))
            ax.set_title(f"{style.shorten(model)}\n{int(good.sum())} of {len(part)} genes {word}", fontsize=7.5)
            unit = f"Pearson's r (n = {int(part['n'].max())} {noun})"
            (ax.set_xlabel if named else ax.set_ylabel)(unit)
        _legend(fig, table, _marked(table)[1], named)
    return fig


def _marked(part: pd.DataFrame) -> tuple[np.ndarray, str]:
    if "well_predicted" in part:
        return part["well_predicted"].to_numpy(bool), "well predicted"
    return (part["q"] < 0.05).to_numpy() & (part["estimate"] > 0).to_numpy(), "with q < 0.05"


def _limits(table: pd.DataFrame) -> tuple[float, float]:
    """Of the axis of r of all panels, with room for the ticks below and the names above."""
    shown = table[[c for c in ("low", "high", "untrained_r") if c in table]].to_numpy(float)
    low, high = min(float(np.nanmin(shown)), -0.1), max(float(np.nanmax(shown)), 0.3)
    return low - 0.06 * (high - low), high + 0.22 * (high - low)


def _rows(ax: Axes, part: pd.DataFrame, good: np.ndarray) -> None:
    """A row a gene, best first."""
    at, blue = np.arange(len(part)), style.OKABE_ITO[0]
    tone = np.where(good, blue, style.GREY)
    ax.axvline(0, color=style.GREY, linewidth=0.8, linestyle=":")
    ax.hlines(at, part["low"], part["high"], color=tone, linewidth=1)
    if "untrained_r" in part:
        ax.scatter(part["untrained_r"], at, s=14, marker="|", color=style.OKABE_ITO[1], linewidth=1.2, zorder=2)
    ax.scatter(part["estimate"], at, s=11, edgecolor=tone, facecolor=np.where(good, blue, "white"), zorder=3,
               linewidth=0.8)  # fmt: skip
    ax.set_yticks(at, [style.shorten(g, 14) for g in part["gene"]], fontsize=7 if len(part) <= 30 else 6)
    ax.set_ylim(len(part) - 0.4, -0.6)
    ax.tick_params(axis="x", labelbottom=True)
    ax.grid(axis="x")


def _curve(ax: Axes, part: pd.DataFrame, good: np.ndarray, limits: tuple[float, float]) -> None:
    """The ranked genes as a curve with its band, a tick under each that is well predicted, the best named."""
    rank = np.arange(1, len(part) + 1)
    low, high = (part[c].to_numpy(float) for c in ("low", "high"))
    ax.axhline(0, color=style.GREY, linewidth=0.8, linestyle=":")
    if len(part) <= 300:
        tone = np.where(good, style.OKABE_ITO[0], style.GREY)
        ax.vlines(rank, low, high, color=tone, linewidth=0.6, alpha=0.5)
    else:
        ax.fill_between(rank, low, high, color=style.LIGHT, linewidth=0)
    if "untrained_r" in part and part["untrained_r"].notna().any():
        size = max(0.4, min(4.0, 600 / len(part)))
        ax.scatter(rank, part["untrained_r"], s=size, color=style.OKABE_ITO[1], linewidth=0, zorder=2)
    ax.plot(rank, part["estimate"], color=style.DARK, linewidth=1.2, zorder=3)
    ax.vlines(rank[good], 0, 0.025, transform=ax.get_xaxis_transform(), color=style.OKABE_ITO[0], linewidth=0.6)
    names = [style.shorten(g, 14) for g in part["gene"][:BEST]]
    half = BEST // 2
    told = f"best: {', '.join(names[:half])},\n{', '.join(names[half:])}"
    ax.text(0.98, 0.98, told, transform=ax.transAxes, ha="right", va="top", fontsize=6.5)
    ax.set_yticks(np.arange(-1, 1.01, 0.25))  # the room above 1 is for the names
    ax.set_ylim(*limits)
    ax.set_xlim(0, len(part) + 1)
    ax.tick_params(axis="y", labelleft=True)
    ax.set_xlabel("rank of the gene")


def _legend(fig: Figure, table: pd.DataFrame, word: str, named: bool) -> None:
    """What the marks are, under the figure."""
    from matplotlib.lines import Line2D

    blue, orange, grey = style.OKABE_ITO[0], style.OKABE_ITO[1], style.GREY
    if named:
        mark: dict[str, Any] = {"marker": "o", "markersize": 3.5, "linewidth": 1}
        keys = [
            Line2D([], [], color=blue, label=word, **mark),
            Line2D([], [], color=grey, markerfacecolor="white", label="not", **mark),
        ]
    else:
        keys = [
            Line2D([], [], color=style.DARK, linewidth=1.2, label="r"),
            Line2D([], [], color=blue, marker="|", markersize=5, linewidth=0, label=word),
        ]
    if "untrained_r" in table and table["untrained_r"].notna().any():
        twin = "|" if named else "."
        keys.append(Line2D([], [], color=orange, marker=twin, markersize=5, linewidth=0, label="untrained twin"))
    fig.legend(handles=keys, loc="outside lower center", ncols=len(keys))
