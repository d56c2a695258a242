"""What choosing the epoch on the reported fold would have gained: optimism, not skill."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histostudy.evaluation.epochs import INNER, LAST, REPORTED
from histostudy.figures import style
from histostudy.figures.metrics_forest import label_of
from histostudy.figures.registry import figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Ways to choose the epoch: short name, colour, mark.
CHOICES = {
    LAST: ("last", style.OKABE_ITO[0], "o"),
    INNER: ("inner", style.OKABE_ITO[2], "s"),
    REPORTED: ("best", style.OKABE_ITO[1], "^"),
}
PER_ROW = 2


@figure(
    "epoch_choice",
    kinds=(),
    table="epochs",
    category="results",
    caption="Test metric after each epoch: a thin line a fold, the thick one their mean as far as all folds go; "
    "triangles: the best epoch of each fold. Right: the mean over folds when the epoch is the last, the one that the "
    "inner validation part chose, or the best on the very fold that is reported, with bootstrap intervals over "
    "patients. The third is what leaked model selection would report; optimism is its gain over the last epoch.",
)
def epoch_choice(table: pd.DataFrame, *, choice: pd.DataFrame | None = None) -> Figure:
    """Draw the study's epochs: model, repeat, fold, epoch, metric, estimate.

    Parameters
    ----------
    table : DataFrame
        A row each model, fold and epoch, of one metric, of which more is better.
    choice : DataFrame, optional
        model, choice, estimate, low, high, difference_to_last, n, events: the values that each way of choosing gives.

    Returns
    -------
    Figure
    """
    if len(table):
        table = table[np.isfinite(table["estimate"])]
    if not len(table):
        return style.empty("No metric after each epoch: no model was trained with its trace kept.")
    models = style.ordered(table, "model")
    named = str(table["metric"].iloc[0])
    columns = min(len(models), PER_ROW)
    rows = math.ceil(len(models) / columns)
    chosen = choice if choice is not None and len(choice) else pd.DataFrame(columns=["model"])
    with style.style():
        fig = style.canvas(3.6 * columns, 2.2 * rows)
        grid = fig.add_gridspec(rows, 2 * columns, width_ratios=[1, 0.42] * columns)
        useless = label_of(named)[1]
        low, high = _limits(table, chosen)
        for k, model in enumerate(models):
            row, column = k // columns, 2 * (k % columns)
            mine = chosen[chosen["model"].astype(str) == model]
            ax = fig.add_subplot(grid[row, column] if len(chosen) else grid[row, column : column + 2])
            strip = [fig.add_subplot(grid[row, column + 1], sharey=ax)] if len(chosen) else []
            for axes in (ax, *strip):
                axes.grid(axis="y")
                if useless is not None:
                    axes.axhline(useless, color=style.GREY, linewidth=0.8, linestyle=":")
            _lines(ax, table[table["model"] == model])
            ax.set(ylim=(low, high), xlabel="epoch", ylabel=label_of(named)[0])
            for axes in strip:
                _values(axes, mine)
            ax.set_title(f"{style.shorten(model, 30)}{_size(mine)}\n{_optimism(mine)}", fontsize=7)
    return fig


def _lines(ax: Axes, mine: pd.DataFrame) -> None:
    """A thin line a fold with its best epoch, and the mean of all folds."""
    wide = mine.pivot_table(index="epoch", columns=["repeat", "fold"], values="estimate").sort_index()
    for name in wide:
        one = wide[name].dropna()
        ax.plot(one.index, one, color="#9A9A9A", linewidth=0.6, alpha=0.8)
        at = int(np.argmax(one.to_numpy()))
        tone, mark = CHOICES[REPORTED][1:]
        ax.plot(one.index[at], one.iloc[at], mark, color=tone, markersize=3.4, zorder=3, linewidth=0)
    whole = wide.dropna()
    ax.plot(whole.index, whole.mean(axis=1), color="black", linewidth=1.6, zorder=2)
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def _values(ax: Axes, mine: pd.DataFrame) -> None:
    """What each way of choosing the epoch gives, with its interval."""
    for k, (name, (_, tone, mark)) in enumerate(CHOICES.items()):
        rows = mine[mine["choice"] == name] if len(mine) else mine
        if not len(rows) or not np.isfinite(rows["estimate"].iloc[0]):
            continue
        one = rows.iloc[0]
        ax.plot([k, k], [one.low, one.high], color=tone, linewidth=1.3)
        ax.plot(k, one.estimate, mark, color=tone, markersize=4.6)
    ax.set_xticks(range(len(CHOICES)), [short for short, *_ in CHOICES.values()], rotation=45, ha="right",
                  rotation_mode="anchor")  # fmt: skip
    ax.set_xlim(-0.6, len(CHOICES) - 0.4)
    ax.tick_params(axis="y", length=0, labelleft=False)
    ax.spines["left"].set_visible(False)


def _limits(table: pd.DataFrame, chosen: pd.DataFrame) -> tuple[float, float]:
    """One vertical axis for every panel."""
    values = [table["estimate"].to_numpy(float)]
    if "low" in chosen:
        values += [chosen["low"].to_numpy(float), chosen["high"].to_numpy(float)]
    every = np.concatenate(values)
    low, high = float(np.nanmin(every)), float(np.nanmax(every))
    room = 0.04 * (high - low or 1.0)
    return low - room, high + room


def _size(mine: pd.DataFrame) -> str:
    if not len(mine) or "n" not in mine or mine["n"].isna().all():
        return ""
    events = f", {int(mine['events'].max())} events" if mine["events"].notna().any() else ""
    return f" (n = {int(mine['n'].max())}{events})"


def _optimism(mine: pd.DataFrame) -> str:
    """``last 0.53, inner 0.54, best 0.58; optimism +0.042``; a space where the values are not known."""
    if not len(mine):
        return " "
    known = mine[np.isfinite(mine["estimate"])].set_index("choice")
    words = ", ".join(f"{CHOICES[c][0]} {known.at[c, 'estimate']:.2f}" for c in CHOICES if c in known.index)
    if REPORTED in known.index and np.isfinite(known.at[REPORTED, "difference_to_last"]):
        words += f"; optimism {known.at[REPORTED, 'difference_to_last']:+.3f}"
    return words.replace("-", "\N{MINUS SIGN}") or " "
