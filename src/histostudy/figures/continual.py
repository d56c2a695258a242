"""Tasks learned in sequence: the accuracy matrix of each model, and the accuracy over the sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histostudy.figures import style
from histostudy.figures.registry import figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

#: A cell, inches.
CELL = (0.78, 0.46)
READINGS = {"task": "the task is known", "class": "the task is not known"}


@figure(
    "continual_matrix",
    kinds=(),
    table="matrix",
    category="results",
    caption="Accuracy on the test patients of each task (column) after each step of the sequence (row), with its "
    "bootstrap interval over patients, a panel each model. The prediction is the likeliest of the task's own classes. "
    "Framed: the task that was just learned; below the frame, what was kept of it; grey words: tasks not learned yet. "
    "What a class-blind guess would reach depends on the classes of the task and is the panel prior.",
)
def continual_matrix(table: pd.DataFrame) -> Figure:
    """Draw `ContinualEvaluation.matrix` of the reading `task`: model, reading, learned, task, estimate, low, high, n.

    Parameters
    ----------
    table : DataFrame
        A row each model, task learned and task tested.

    Returns
    -------
    Figure
    """
    mine = table[table["reading"] == "task"] if len(table) else table
    if not len(mine):
        return style.empty("No sequence: no model of the study learns its tasks one after the other.")
    models, tasks = style.ordered(mine, "model"), list(dict.fromkeys(mine["learned"].astype(str)))
    with style.style():
        width, height = CELL[0] * len(tasks) + 1.7, CELL[1] * len(tasks) + 1.35
        per_row = max(1, min(style.PER_ROW, int(2 * style.PAGE_IN // width)))
        fig, axes = style.panels(len(models), width, height, per_row=per_row)
        shown = None
        for ax, model in zip(axes, models, strict=True):
            shown = _panel(ax, mine[mine["model"] == model], tasks)
            ax.set_title(style.shorten(model, 30))
        assert shown is not None
        bar = fig.colorbar(shown, ax=axes, shrink=0.6, pad=0.02, aspect=30)
        bar.set_label("accuracy")
        bar.outline.set_linewidth(0.5)  # type: ignore[operator]
    return fig


def _panel(ax: Axes, table: pd.DataFrame, tasks: list[str]) -> AxesImage:
    """The matrix of one model."""
    import matplotlib
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Rectangle

    cells = table.set_index(["learned", "task"])
    values = np.array([[cells["estimate"].get((t, j), np.nan) for j in tasks] for t in tasks], float)
    # black words can be read on all of it
    light = ListedColormap(matplotlib.colormaps["viridis"](np.linspace(0.45, 1, 256)))
    ahead = np.triu(np.ones_like(values, dtype=bool), 1)
    shown = ax.imshow(
        np.ma.masked_where(ahead | ~np.isfinite(values), values), cmap=light, vmin=0, vmax=1, aspect="auto"
    )
    for t, learned in enumerate(tasks):
        for j, task in enumerate(tasks):
            if not np.isfinite(values[t, j]):
                continue
            one = cells.loc[(learned, task)]
            tone = style.GREY if j > t else "black"
            ax.text(j, t - 0.15, f"{values[t, j]:.2f}", ha="center", va="center", fontsize=8, color=tone)
            if np.isfinite([one.low, one.high]).all():
                words = f"[{one.low:.2f}, {one.high:.2f}]"
                ax.text(j, t + 0.22, words, ha="center", va="center", fontsize=6, color=tone)
        ax.add_patch(Rectangle((t - 0.46, t - 0.45), 0.92, 0.9, fill=False, edgecolor="black", linewidth=1.4))
    counts = table.drop_duplicates("task").set_index("task")["n"]
    names = [f"{style.shorten(task, 16)}\nn = {counts[task]}" for task in tasks]
    ax.set_xticks(range(len(tasks)), names, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(tasks)), [style.shorten(task, 16) for task in tasks])
    ax.set(xlabel="tested on", ylabel="learned last")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return shown


@figure(
    "continual_course",
    kinds=(),
    table="course",
    category="results",
    caption="Mean accuracy over the tasks learned so far after each step of the sequence, with its bootstrap interval "
    "over patients; n: test patients of those tasks. The task is known: the prediction is the likeliest of the task's "
    "own classes. The task is not known: the likeliest of the classes of all tasks learned so far; not shown where "
    "patients have several tasks. Later steps are of more and other tasks, so that a line may fall without anything "
    "being forgotten: joint, where the study has it, was trained on all of them together.",
)
def continual_course(table: pd.DataFrame) -> Figure:
    """Draw `ContinualEvaluation.course`: model, reading, learned, steps, estimate, low, high, n.

    Parameters
    ----------
    table : DataFrame
        A row each model, reading and step.

    Returns
    -------
    Figure
    """
    if not len(table):
        return style.empty("No sequence: no model of the study learns its tasks one after the other.")
    models = style.ordered(table, "model")
    readings = [one for one in READINGS if (table["reading"] == one).any()]
    looks = style.appearance(models)
    steps = table.drop_duplicates("steps").sort_values("steps")
    with style.style():
        below = 0.16 * (-(-len(models) // 2))
        fig = style.canvas(3.3 * len(readings) + 0.3, 2.9 + below)
        axes = fig.subplots(1, len(readings), squeeze=False, sharey=True)[0]
        for ax, reading in zip(axes, readings, strict=True):
            for k, model in enumerate(models):
                mine = table[(table["model"] == model) & (table["reading"] == reading)].sort_values("steps")
                at = mine["steps"] + 0.12 * (k / max(len(models) - 1, 1) - 0.5)
                ax.plot(at, mine["estimate"], marker="o", markersize=3, label=style.shorten(model, 32), **looks[model])
                ax.vlines(at, mine["low"], mine["high"], color=looks[model]["color"], linewidth=0.8)
            words = [
                f"{style.shorten(str(name), 14)}\nn = {n}" for name, n in zip(steps["learned"], steps["n"], strict=True)
            ]
            ax.set_xticks(steps["steps"].tolist(), words, rotation=45, ha="right", rotation_mode="anchor")
            ax.set_title(READINGS[reading])
            ax.set_xlabel("learned last")
            ax.set_ylim(-0.03, 1.03)
            ax.grid(axis="y")
        axes[0].set_ylabel("mean accuracy, tasks so far")
        style.legend_below(fig, axes[0], columns=2)
    return fig
