"""Figures: one file each, a tidy table in, a matplotlib figure out.

`FIGURES` knows them by name with their captions; matplotlib is imported only when one is drawn.
"""

from histostudy.figures import (  # noqa: F401  (each registers itself)
    attention_map,
    calibration,
    cohort_flow,
    comparison_forest,
    confusion,
    contact_sheet,
    feature_pca,
    genes,
    kaplan_meier,
    metrics_forest,
    pr,
    regression_scatter,
    roc,
    top_tiles,
)
from histostudy.figures.registry import FIGURES, FigureEntry, FigureSpec

__all__ = ["FIGURES", "FigureEntry", "FigureSpec"]
