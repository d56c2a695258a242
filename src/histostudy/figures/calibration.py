"""Calibration: what was predicted against what happened."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from histostudy.figures import style
from histostudy.figures.registry import figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@figure(
    "calibration",
    kinds=("classification", "survival", "tile_classification"),
    table="calibration",
    category="results",
    caption="Predicted against observed, in groups of equal numbers of patients (or tiles); on the grey line they "
    "agree. Bars: bootstrap interval (classification) or Greenwood's interval of the Kaplan-Meier estimate "
    "(survival, thirds of the prediction).",
)
def calibration(table: pd.DataFrame) -> Figure:
    """Draw `curves["calibration"]`: model, class or horizon_days, predicted, observed, low, high, n."""
    if not len(table):
        return style.empty("No calibration: no horizon lies inside the follow-up.")
    survival = "horizon_days" in table
    series = "horizon_days" if survival else "class"
    models, names = style.ordered(table, "model"), style.ordered(table, series)
    tones = style.colours(names)
    with style.style():
        fig, axes = style.panels(len(models), 2.4, 2.5, sharex=True, sharey=True)
        for ax, model in zip(axes, models, strict=True):
            mine = table[table["model"] == model]
            ax.plot([0, 1], [0, 1], color=style.LIGHT, linewidth=1, zorder=0)
            for k, name in enumerate(names):
                part = mine[mine[series].astype(str) == name].sort_values("predicted")
                if not len(part):
                    continue
                bars = [part["observed"] - part["low"], part["high"] - part["observed"]]
                label = f"{int(float(name))} days" if survival else name
                ax.errorbar(
                    part["predicted"],
                    part["observed"],
                    yerr=[b.clip(lower=0) for b in bars],
                    color=tones[name],
                    marker="os^Dv"[k % 5],
                    markersize=3.5,
                    linewidth=1,
                    elinewidth=0.8,
                    label=label,
                )
            total = int(mine.groupby(series)["n"].sum().max())
            ax.set_title(f"{style.shorten(model)} (n = {total})")
            ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        of = f" of {names[0]}" if len(names) == 1 and not survival else ""
        for k, ax in enumerate(axes):
            if k + style.PER_ROW >= len(axes):
                ax.set_xlabel("predicted survival" if survival else f"predicted probability{of}")
            if k % style.PER_ROW == 0:
                ax.set_ylabel("observed survival (Kaplan-Meier)" if survival else f"observed share{of}")
        if len(names) > 1:
            full = max(axes, key=lambda ax: len(ax.get_legend_handles_labels()[0]))
            style.legend_below(fig, full, columns=min(len(names), 4), title="horizon" if survival else "class")
            width, height = fig.get_size_inches()
            fig.set_size_inches(width, height + 0.4)
    return fig
