"""Error of the predicted survival over time: the Brier score against the Kaplan-Meier estimate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histostudy.figures import style
from histostudy.figures.registry import figure
from histostudy.figures.td_auc import draw_over_time

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@figure(
    "brier",
    kinds=("survival",),
    table="brier_curve",
    category="results",
    caption="Brier score of the predicted survival at each day, weighted for censoring; low is good. Dotted: the "
    "Kaplan-Meier estimate of the training part, the same for every patient: a model above it predicts worse than "
    "no covariates at all. Bands: pointwise bootstrap interval over patients. In brackets under the axis: events by "
    "the last computed day up to there. Above four models each has its own panel, with the others in pale grey and "
    "the clinical model dashed. Models that predict no survival probabilities are not shown.",
)
def brier(table: pd.DataFrame, *, horizons: Sequence[float] = ()) -> Figure:
    """Draw `curves["brier_curve"]`: model, days, estimate, low, high, n, events, reference.

    The model ``prior`` is the reference and is not drawn a second time, unless it is alone.

    Parameters
    ----------
    table : DataFrame
        A row each model and day.
    horizons : sequence of float
        Days that the axis marks; round times where none is given.

    Returns
    -------
    Figure
    """
    table = table[np.isfinite(table["estimate"])] if len(table) else table
    if not len(table):
        return style.empty("No Brier score over time: no model predicts survival probabilities.")
    known = table[np.isfinite(table["reference"])]
    reference = known.groupby("days", as_index=False)["reference"].mean() if len(known) else None
    others = table[table["model"] != "prior"]
    table = others if len(others) and reference is not None else table
    top = float(np.nanmax([table["estimate"].max(), np.nanquantile(table["high"].fillna(0), 0.98)]))
    if reference is not None:
        top = max(top, float(reference["reference"].max()))
    return draw_over_time(table, "Brier score (low is good)", (0, 1.06 * top), horizons, reference=reference)
