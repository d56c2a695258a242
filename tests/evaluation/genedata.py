"""Runs of expression models with a known relation of prediction and truth."""

from __future__ import annotations

import numpy as np
import pandas as pd

from histostudy.evaluation.metrics.base import Run
from histostudy.evaluation.runs import runs_of


def ids(n: int) -> list[str]:
    return [f"P{i:04d}" for i in range(n)]


def make_runs(
    truth: np.ndarray, predicted: np.ndarray, fold: np.ndarray, repeat: int = 0, genes: list[str] | None = None
) -> list[Run]:
    """Runs of one repeat; (n, genes) arrays."""
    names = genes or [f"g{k}" for k in range(truth.shape[1])]
    columns = {f"truth_{g}": truth[:, k] for k, g in enumerate(names)}
    columns |= {f"pred_{g}": predicted[:, k] for k, g in enumerate(names)}
    frame = pd.DataFrame({"patient_id": ids(len(truth)), "repeat": repeat, "fold": fold} | columns)
    return runs_of(frame, ids(len(truth)), {})


def training_means(truth: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """What the prior predicts: each gene's mean over the other folds."""
    return np.stack([truth[fold != k].mean(0) for k in np.unique(fold)])[fold]
