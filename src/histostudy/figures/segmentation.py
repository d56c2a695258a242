"""Segmentation: masks over the slides they are of, and Dice of every class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histostudy.figures import style
from histostudy.figures.registry import figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@figure(
    "segmentation_overlay",
    kinds=("segmentation",),
    table="slides",
    category="results",
    caption="Test slides of the reference model: that of lowest, middle and highest Dice (mean over the classes). "
    "Solid lines: what was drawn by hand; dashed lines: what was predicted.",
)
def segmentation_overlay(table: pd.DataFrame, *, parts: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> Figure:
    """Draw slides with both outlines.

    Parameters
    ----------
    table : DataFrame
        The evaluation's table of slides; only whether it is empty matters here.
    parts : sequence of mapping
        slide_id, dice, which, rgb (H, W, 3), width_px0, truth and found: class to rings, (n, 2) level-0 px.
    classes : sequence of str
        In their order, which gives their colours.
    """
    if not len(table) or not parts:
        return style.empty("No slide to show.")
    tones = style.colours(list(classes))
    with style.style():
        fig, axes = style.panels(len(parts), 2.4, 2.7)
        for ax, part in zip(axes, parts, strict=True):
            height, width = part["rgb"].shape[:2]
            ax.imshow(part["rgb"], interpolation="antialiased")
            ax.set(xlim=(0, width), ylim=(height, 0))
            ax.set_axis_off()
            scale = width / float(part["width_px0"])
            _outline(ax, part["truth"], tones, scale, "-")
            _outline(ax, part["found"], tones, scale, (0, (2.5, 1.5)))
            ax.set_title(f"{part['which']}: {style.shorten(part['slide_id'])}, Dice {part['dice']:.2f}", fontsize=7)
        for name in classes:
            axes[0].plot([], [], color=tones[name], label=name)
        axes[0].plot([], [], color=style.DARK, label="drawn by hand")
        axes[0].plot([], [], color=style.DARK, linestyle=(0, (2.5, 1.5)), label="predicted")
        style.legend_below(fig, axes[0], columns=len(classes) + 2)
    return fig


def _outline(
    ax: Axes, rings: Mapping[str, Sequence[np.ndarray]], tones: Mapping[str, Any], scale: float, line: Any
) -> None:
    """Rings of each class; white beneath, so that a line is seen on any tissue."""
    for name, those in rings.items():
        for ring in those:
            points = np.asarray(ring, float) * scale
            ax.plot(*points.T, color="white", linewidth=1.8, alpha=0.6)
            ax.plot(*points.T, color=tones[name], linewidth=0.9, linestyle=line)


@figure(
    "segmentation_forest",
    kinds=("segmentation",),
    table="metrics",
    category="results",
    caption="Dice of every class, a mean over the patients whose slides hold it, with bootstrap intervals over "
    "patients; `mean` is over the classes. The trivial controls are grey: `prior` calls all tissue the commonest "
    "class, `colour` sees the colour of a pixel.",
)
def segmentation_forest(table: pd.DataFrame, *, noun: str = "patients") -> Figure:
    """Draw Dice by class: model, metric, class, estimate, low, high, n, events (those with the class)."""
    table = table[table["metric"] == "dice"]
    models, classes = style.ordered(table, "model"), style.ordered(table, "class")
    looks = style.appearance(models)
    with style.style():
        fig, axes = style.panels(len(classes), 2.35, 0.75 + 0.3 * len(models), sharey=True, sharex=True)
        for ax, name in zip(axes, classes, strict=True):
            part = table[table["class"] == name].set_index("model")
            for row, model in enumerate(models):
                style.estimate_row(ax, row, part.loc[model], looks[model]["color"])
            ax.set_yticks(range(len(models)), [style.shorten(m) for m in models])
            ax.set_ylim(len(models) - 0.5, -0.75)
            ax.set_xlim(-0.02, 1.02)
            events = part["events"].max()
            ax.set_title(name + (f" ({int(events)} {noun})" if pd.notna(events) else ""))
            ax.grid(axis="x")
            ax.tick_params(axis="y", length=0)
            ax.spines["left"].set_visible(False)
        fig.supxlabel(f"Dice with its interval (n = {int(table['n'].max())} {noun})", fontsize=7.5)
    return fig
