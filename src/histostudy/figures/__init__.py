"""Figures: one file each, a tidy table in, a matplotlib figure out.

`FIGURES` knows them by name with their captions; matplotlib is imported only when one is drawn.
"""

from histostudy.figures import (  # noqa: F401  (each registers itself)
    added_value,
    attention_map,
    brier,
    calibration,
    cohort_flow,
    comparison_forest,
    confusion,
    contact_sheet,
    continual,
    cox_forest,
    decision_curve,
    epoch_choice,
    feature_pca,
    few_shot,
    folds,
    gene_scatter,
    genes,
    kaplan_meier,
    km_pooled,
    metrics_forest,
    modalities,
    model_overview,
    pr,
    regression_scatter,
    roc,
    segmentation,
    spatial_gene,
    stain_audit,
    subtypes,
    td_auc,
    top_tiles,
    transfer_matrix,
    within_patient,
)
from histostudy.figures.registry import FIGURES, FigureEntry, FigureSpec

__all__ = ["FIGURES", "FigureEntry", "FigureSpec"]
