"""What the survival figures share: curves of some groups with the patients at risk under them, and the time axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histostudy.evaluation.time_dependent import MONTH_DAYS, YEAR_DAYS
from histostudy.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Colours of the two strata of a risk.
TONES: dict[str, Any] = {"low risk": style.OKABE_ITO[0], "high risk": style.OKABE_ITO[1]}


def draw_strata(
    ax: Axes,
    below: Axes,
    table: pd.DataFrame,
    tones: Mapping[str, Any],
    ticks: np.ndarray,
    unit: float,
    *,
    band: float = 0.13,
    fontsize: float = 7,
) -> None:
    """Curves, bands and censoring of each stratum in `ax`, and its patients at risk as a row of `below`.

    Parameters
    ----------
    ax, below : Axes
    table : DataFrame
        stratum, time_days, survival, low, high, at_risk, events; from day 0.
    tones : mapping of str to colour
        The strata, in the order of the rows; one that the table lacks keeps an empty row.
    ticks : ndarray
        Times, in `unit`, at which the patients at risk are counted.
    unit : float
        Days in a unit of time.
    band : float
        Opacity of the bands.
    fontsize : float
        Of the counts.
    """
    for row, (stratum, tone) in enumerate(tones.items()):
        part = table[table["stratum"] == stratum].sort_values("time_days", kind="stable") if len(table) else table
        if not len(part):
            continue
        t, at_risk = part["time_days"].to_numpy(float) / unit, part["at_risk"].to_numpy()
        ax.fill_between(t, part["low"], part["high"], step="post", color=tone, alpha=band, linewidth=0)
        ax.step(t, part["survival"], where="post", color=tone)
        gone = (at_risk - np.append(at_risk[1:], 0) > part["events"].to_numpy()) & (t > 0)
        ax.plot(t[gone], part["survival"].to_numpy()[gone], "|", color=tone, markersize=3, markeredgewidth=0.5)
        still = np.append(at_risk, 0)[np.searchsorted(t, ticks, side="left")]
        for x, number in zip(ticks, still, strict=True):
            text = str(int(number))
            below.text(x, len(tones) - 1 - row, text, color=tone, ha="center", va="center", fontsize=fontsize)


def frame(
    ax: Axes,
    below: Axes,
    tones: Mapping[str, Any],
    ticks: np.ndarray,
    last: float,
    time: str,
    *,
    first: bool = True,
) -> None:
    """Limits and labels of a panel and of the counts under it.

    Parameters
    ----------
    ax, below : Axes
    tones : mapping of str to colour
        The strata, as in `draw_strata`.
    ticks : ndarray
    last : float
        End of the follow-up, in the unit of `ticks`.
    time : str
        Label of the time axis, with its unit.
    first : bool
        Whether the panel is the first of its row, which bears the labels of the vertical axes.
    """
    ax.set(ylim=(0, 1.02), xlim=(-0.02 * last, 1.02 * last), xticks=ticks)
    ax.set_ylabel("survival" if first else "")
    ax.tick_params(labelbottom=False, labelleft=first)
    below.set(ylim=(-0.6, len(tones) - 0.4), xlabel=time)
    below.set_yticks(range(len(tones) - 1, -1, -1), [style.shorten(s) if first else "" for s in tones])
    for text, tone in zip(below.get_yticklabels(), tones.values(), strict=True):
        text.set_color(tone)
    below.tick_params(axis="y", length=0, pad=8)
    below.spines["left"].set_visible(False)


def size_text(table: pd.DataFrame) -> str:
    """``n = 240, 98 events`` of all strata of one panel."""
    n = int(table.loc[table["time_days"] == 0, "at_risk"].sum())
    return f"n = {n}, {int(table['events'].sum())} events"


def p_and_ratio(table: pd.DataFrame) -> str:
    """The log-rank p and, where the table has one, the hazard ratio of one panel; empty where undefined."""
    one = table.iloc[0]
    words = []
    if np.isfinite(one.p):
        words.append(f"log-rank {style.p_text(one.p)}")
    if "hr" in table and np.isfinite(one.hr):
        words.append(f"HR {style.with_interval(one.hr, one.hr_low, one.hr_high)}")
    return ", ".join(words)


def time_unit(last: float) -> tuple[float, str]:
    """Days in the unit that suits a follow-up of `last` days, and the unit's name."""
    if last > 3 * YEAR_DAYS:
        return YEAR_DAYS, "years"
    return (MONTH_DAYS, "months") if last > 180 else (1.0, "days")


def time_ticks(last: float, unit: float, horizons: Sequence[float] = (), most: int = 6) -> np.ndarray:
    """Where the time axis is marked, in `unit`: the horizons inside the follow-up, else round times from 0."""
    from matplotlib.ticker import MaxNLocator

    inside = sorted(float(h) for h in horizons if h <= last)
    if inside:
        return np.asarray([0.0, *inside]) / unit
    ticks = np.asarray(MaxNLocator(most, steps=[1, 2, 3, 5, 6, 10], integer=True).tick_values(0, last / unit))
    return ticks[(ticks >= 0) & (ticks <= last / unit)]
