"""A small forest plot of a task's models as inline SVG: points with their intervals on one axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from histostudy.report.numbers import interval, known, number

if TYPE_CHECKING:
    import pandas as pd

ROW, LEAST_LEFT, WIDTH, RIGHT, TOP = 26, 150, 340, 190, 8
LETTER = 7.4  # width of a letter of a name, about


def forest_svg(rows: pd.DataFrame, label: str, chance: float | None, controls: Sequence[str] = ()) -> str:
    """Draw one line a model.

    Parameters
    ----------
    rows : DataFrame
        model, estimate, low, high.
    label : str
        The axis' name.
    chance : float, optional
        Where a model without information lies: a dashed line.
    controls : sequence of str
        Models drawn in grey.

    Returns
    -------
    str
        An ``<svg>`` element; empty where no model has an estimate.
    """
    from html import escape

    rows = rows[rows["estimate"].map(known)]
    if len(rows) == 0:
        return ""
    low, high, ticks = _axis(rows, chance)
    left = max(LEAST_LEFT, round(16 + LETTER * max(len(str(name)) for name in rows["model"])))

    def x(value: float) -> float:
        return round(left + WIDTH * (min(max(value, low), high) - low) / (high - low), 1)

    bottom = TOP + ROW * len(rows)
    said = "; ".join(f"{r.model} {number(r.estimate)}" for r in rows.itertuples())
    out = [
        f'<svg class="forest" viewBox="0 0 {left + WIDTH + RIGHT} {bottom + 42}" role="img" '
        f'aria-label="{escape(label)} of each model: {escape(said)}">'
    ]
    for tick in ticks:
        out.append(f'<line class="grid" x1="{x(tick)}" x2="{x(tick)}" y1="{TOP}" y2="{bottom}"/>')
        out.append(f'<text class="tick" x="{x(tick)}" y="{bottom + 16}">{number(tick, 2)}</text>')
    if chance is not None:
        out.append(f'<line class="chance" x1="{x(chance)}" x2="{x(chance)}" y1="{TOP}" y2="{bottom}"/>')
    for i, row in enumerate(rows.itertuples()):
        y = TOP + ROW * (i + 0.5)
        out.append(f'<g class="{"control" if row.model in controls else "model"}">')
        out.append(f'<text class="name" x="{left - 12}" y="{y + 4}">{escape(str(row.model))}</text>')
        span = interval(row.low, row.high)
        if span:
            out.append(f'<line class="span" x1="{x(float(row.low))}" x2="{x(float(row.high))}" y1="{y}" y2="{y}"/>')
        out.append(f'<circle cx="{x(float(row.estimate))}" cy="{y}" r="4.5"/>')
        text = f"{number(row.estimate)} ({span})" if span else number(row.estimate)
        out.append(f'<text class="value" x="{left + WIDTH + 14}" y="{y + 4}">{text}</text></g>')
    out.append(f'<text class="label" x="{left + WIDTH / 2}" y="{bottom + 35}">{escape(label)}</text></svg>')
    return "".join(out)


def _axis(rows: pd.DataFrame, chance: float | None) -> tuple[float, float, list[float]]:
    """Limits and ticks that hold every interval and the line of chance."""
    values = rows[["estimate", "low", "high"]].astype(float).to_numpy().ravel()
    values = values[np.isfinite(values)]
    if chance is not None:
        values = np.append(values, chance)
    low, high = float(values.min()), float(values.max())
    span = max(high - low, 0.05)
    step = next((s for s in (0.02, 0.05, 0.1, 0.2, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0) if span / s <= 6), span / 5)
    first, last = np.floor(low / step + 1e-9), np.ceil(high / step - 1e-9)
    if last == first:
        last += 1
    return first * step, last * step, [float(k * step) for k in np.arange(first, last + 1)]
