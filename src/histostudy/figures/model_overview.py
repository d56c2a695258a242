"""All models over all tasks, beside the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histostudy.figures import style
from histostudy.figures.metrics_forest import label_of
from histostudy.figures.registry import figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Columns right of the last panel: points from its edge, and heading.
COSTS = ((6, "mean\nrank"), (36, "s a\nrun"), (70, "weights"))


@figure(
    "model_overview",
    kinds=(),
    table="models",
    category="results",
    caption="Difference of each model from the reference in each task, on the same resamples of the same patients, "
    "with its bootstrap interval; right of zero the model is better. Filled: p below 0.05, corrected over the models "
    "of the task (not over tasks). Under each task the reference's own estimate. Right: mean rank over tasks (1 is "
    "best), and medians over runs of the number of trained weights and, where asked for, of the seconds a run took. "
    "Models are in the order of their mean rank, controls among them.",
)
def model_overview(table: pd.DataFrame, *, ranks: pd.DataFrame) -> Figure:
    """Draw the tables of `histostudy.evaluation.overview`.

    Parameters
    ----------
    table : DataFrame
        As `model_table` returns it.
    ranks : DataFrame
        As `rank_table` returns it.

    Returns
    -------
    Figure
    """
    if not table["difference"].notna().any():
        return style.empty("No comparison: there is one model only.")
    compared = set(table.loc[table["difference"].notna(), "task"])
    tasks, models = [t for t in style.ordered(table, "task") if t in compared], list(ranks["model"])
    with style.style():
        fig = style.canvas(max(style.PAGE_IN, 2.6 + 0.95 * len(tasks)), 1.3 + 0.2 * len(models))
        axes = fig.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
        for ax, task in zip(axes, tasks, strict=True):
            _panel(ax, table[table["task"] == task].set_index("model"), models)
            ax.set_title(style.shorten(task, 70 // len(tasks)), fontsize=8)
        axes[0].set_yticks(range(len(models)), [style.shorten(m, 24) for m in models])
        axes[0].set_ylim(len(models) - 0.4, -0.6)
        _costs(axes[-1], table, ranks)
        metric = label_of(str(table["metric"].iloc[0]))[0] if table["metric"].nunique() == 1 else "the main metric"
        reference = " or ".join(dict.fromkeys(table["reference"].dropna()))
        fig.supxlabel(f"difference in {metric} from {reference}{_critical(ranks)}", fontsize=8)
    return fig


def _panel(ax: Axes, part: pd.DataFrame, models: list[str]) -> None:
    """Differences of one task."""
    ax.axvline(0, color=style.GREY, linewidth=0.8, linestyle=":")
    reference = part["reference"].dropna().iloc[0]
    others = part.drop("prior", errors="ignore")
    ends = others[["difference_low", "difference_high"]].abs().quantile(0.9).max()
    reach = max(0.05, 1.15 * float(np.nanmax([others["difference"].abs().max(), ends])))
    for row, model in enumerate(models):
        if model not in part.index or not np.isfinite(part.at[model, "difference"]):
            if model == reference:
                ax.plot(0, row, "|", color=style.DARK, markersize=7)
            continue
        one = part.loc[model]
        sure = one["p_adjusted"] < 0.05
        tone = style.OKABE_ITO[0] if sure else style.GREY
        # what lies outside (the prior) is an arrow: it must not flatten the rest
        if abs(one["difference"]) > reach:
            side = np.sign(one["difference"])
            ax.plot(side * reach * 0.93, row, ">" if side > 0 else "<", color=tone, markersize=4)
            continue
        ax.plot([one["difference_low"], one["difference_high"]], [row, row], color=tone, linewidth=1.1)
        ax.plot(one["difference"], row, "o", color=tone, markersize=3.5, markerfacecolor=tone if sure else "white")
    own = part.loc[reference]
    events = f"\n{int(own['events'])} events" if np.isfinite(own["events"]) else ""
    words = f"{reference}: {own['estimate']:.3f}\n[{own['low']:.3f}, {own['high']:.3f}]\nn = {int(own['n'])}{events}"
    ax.set_xlabel(words, fontsize=6.5)
    ax.set_xlim(-reach, reach)
    tick = _round_below(0.8 * reach)
    ax.set_xticks([-tick, 0, tick], [f"\N{MINUS SIGN}{tick:g}", "0", f"{tick:g}"])
    ax.tick_params(axis="y", length=0)
    ax.tick_params(axis="x", labelsize=6)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="x")


def _round_below(value: float) -> float:
    """The largest of 1, 2 and 5 times a power of ten that is not above a value."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(next(power * k for k in (5, 2, 1) if power * k <= value * (1 + 1e-9)))


def _costs(ax: Axes, table: pd.DataFrame, ranks: pd.DataFrame) -> None:
    """Mean rank, seconds and weights right of the last panel."""
    costs = table.groupby("model")[["seconds", "parameters"]].median()
    timed = bool(costs["seconds"].notna().any())
    at = [x for x, _ in COSTS]
    for row, (model, rank) in enumerate(zip(ranks["model"], ranks["mean_rank"], strict=True)):
        seconds, weights = (costs.at[model, key] for key in ("seconds", "parameters"))
        words = [f"{rank:.1f}", f"{seconds:.1f}" if np.isfinite(seconds) else "", _thousands(weights)]
        style.beside(ax, row, words, at)
    for x, heading in COSTS:
        if not timed and heading.startswith("Sec"):
            continue
        ax.annotate(heading, (1, 1), xycoords="axes fraction", xytext=(x, 2), textcoords="offset points", fontsize=6.5,
                    color=style.DARK, va="bottom", weight="bold")  # fmt: skip


def _thousands(count: float) -> str:
    """``34k``; nothing for a control, which has none."""
    if not np.isfinite(count) or not count:
        return ""
    return f"{count / 1e6:.1f}M" if count >= 1e6 else f"{count / 1e3:.0f}k" if count >= 1e3 else f"{count:.0f}"


def _critical(ranks: pd.DataFrame) -> str:
    """What the ranks say as a whole."""
    difference, p = ranks["critical_difference"].iloc[0], ranks["friedman_p"].iloc[0]
    if not np.isfinite(difference):
        return ""
    tasks = int(ranks["tasks"].iloc[0])
    return f"\nranks over {tasks} tasks: Friedman {style.p_text(p)}, Nemenyi's critical difference {difference:.1f}"
