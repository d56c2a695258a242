"""Who has which modality, and in which task somebody lacks it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from histostudy.figures import style
from histostudy.figures.registry import figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Columns of the table that count the patients of a task who lack the modality begin with this.
MISSING = "missing_"
#: Inches of a modality's row, of the bars, and of a task's column.
ROW, BARS, COLUMN = 0.42, 4.3, 0.55
#: Letters of a task's name; names up to the second number stand level.
LETTERS, LEVEL = 18, 8


@figure(
    "modalities",
    table="modalities.csv",
    category="cohort",
    caption="Patients of the cohort who have each modality beside the slides (a row that is not empty), and those who "
    "do not. Dots: the patients of each task; dark where all of them have the modality, open with the number of those "
    "who lack it.",
)
def modalities(table: pd.DataFrame) -> Figure:
    """Draw ``tables/modalities.csv``: a bar a modality, and a dot each modality and task.

    Parameters
    ----------
    table : DataFrame
        modality, columns, groups, patients, missing, and ``missing_<task>`` of each task.

    Returns
    -------
    Figure
    """
    if not len(table):
        return style.empty("No modality beside the slides.")
    tasks = [c for c in table.columns if str(c).startswith(MISSING)]
    with style.style():
        names = [style.shorten(t[len(MISSING) :], LETTERS) for t in tasks]
        longest = max(map(len, names), default=0)
        over = 0.05 * longest if longest > LEVEL else 0.1
        fig = style.canvas(BARS, 0.65 + ROW * len(table) + over)
        if tasks:
            wide = max(COLUMN * len(tasks), 1.3)
            fig.set_figwidth(BARS + wide)
            bars, dots = fig.subplots(1, 2, sharey=True, width_ratios=[BARS, wide])
            _dots(dots, table, tasks, names)
        else:
            bars = fig.subplots()
        _bars(bars, table)
    return fig


def _bars(ax: Axes, table: pd.DataFrame) -> None:
    """Patients with the modality, and in pale the rest of the cohort."""
    labels = []
    whole = int((table["patients"] + table["missing"]).max())
    for row, one in enumerate(table.itertuples()):
        have, total = int(one.patients), int(one.patients + one.missing)  # type: ignore[arg-type, operator]
        ax.barh(row, have, height=0.5, color=style.OKABE_ITO[0])
        ax.barh(row, total - have, left=have, height=0.5, color=style.LIGHT)
        share = f"{have:,} ({100 * have / total:.0f} %)" if total else "0"
        inside = have > 0.5 * whole
        ax.annotate(share, (have, row), xytext=(-4 if inside else 4, 0), textcoords="offset points", va="center",
                    ha="right" if inside else "left", fontsize=7, color="white" if inside else style.DARK)  # fmt: skip
        groups = f", {one.groups:,} groups" if one.groups else ""  # type: ignore[str-bytes-safe]
        labels.append(f"{style.shorten(str(one.modality))}\n{one.columns:,} columns{groups}")
    ax.set_yticks(range(len(table)), labels)
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.set_xlim(0, whole)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(f"patients with the modality (of {whole:,})")


def _dots(ax: Axes, table: pd.DataFrame, tasks: list[str], names: list[str]) -> None:
    """A column a task: a dark dot where nobody lacks the modality, else an open one with how many do."""
    for column, task in enumerate(tasks):
        for row, lacking in enumerate(table[task].astype(int)):
            face, edge = (style.DARK, style.DARK) if not lacking else ("white", style.GREY)
            ax.plot(column, row, "o", markersize=6, markerfacecolor=face, markeredgecolor=edge, markeredgewidth=1)
            if lacking:
                ax.annotate(f"{lacking:,}", (column, row), xytext=(0, -5), textcoords="offset points",
                            ha="center", va="top", fontsize=6.5, color=style.DARK)  # fmt: skip
    turned: dict[str, Any] = (
        {"rotation": 45, "ha": "left", "rotation_mode": "anchor"} if max(map(len, names)) > LEVEL else {}
    )
    ax.set_xticks(range(len(tasks)), names, **turned)
    ax.tick_params(axis="x", top=True, bottom=False, labeltop=True, labelbottom=False, length=0)
    ax.tick_params(axis="y", labelleft=False, length=0)
    ax.set_xlim(-0.7, len(tasks) - 0.3)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
    ax.set_xlabel("lacking it, by task")
