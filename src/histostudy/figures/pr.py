"""Precision-recall curves of a task's models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from histostudy.figures.registry import figure
from histostudy.figures.roc import draw_curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@figure(
    "pr",
    kinds=("classification", "tile_classification"),
    table="pr",
    category="results",
    caption="Precision-recall curves, averaged over the test folds at each recall. Bands: pointwise bootstrap"
    " interval over patients. Grey line: share of positives, which a useless model reaches. Legend: "
    "average precision.",
)
def pr(table: pd.DataFrame) -> Figure:
    """Draw `curves["pr"]`: model, class, recall, precision, low, high, n, events [, estimate and its interval]."""
    return draw_curves(table, "recall", "precision", "recall", "precision", "average precision")
