"""Attention of a trained run, for heat maps and the tiles a model looked at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from histostudy.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histostudy.features.bags import Bags


def attend(
    weights: str | Path, features: NDArray[np.float32], coords: NDArray[np.int64] | None = None
) -> NDArray[np.float64]:
    """Attention of a trained model over the tiles of one bag.

    Parameters
    ----------
    weights : path
        ``weights.safetensors`` of a run.
    features : ndarray
        (N, D) features as they were stored; the model standardises them itself.
    coords : ndarray, optional
        (N, 2) where the tiles lie, as in training.

    Returns
    -------
    ndarray
        (N,), not negative, with a sum of 1. For max pooling, the share of dimensions a tile decides.

    Raises
    ------
    ModelError
        If the model has no attention (a control), or the features have another width.
    """
    import torch

    from histostudy.models.batch import BagBatch
    from histostudy.models.io import load_model

    model, config = load_model(weights)
    if features.ndim != 2 or features.shape[1] != config["dim_in"]:
        raise ModelError(
            f"features of shape {features.shape} for a model of {config['dim_in']}",
            where=weights,
            todo="give the features the model was trained on",
        )
    with torch.no_grad():
        places = None if coords is None else [torch.as_tensor(coords)]
        _, attention = model(BagBatch.pack([torch.as_tensor(features, dtype=torch.float32)], places))
    if attention is None:
        raise ModelError(f"{config['aggregator']} has no attention", where=weights, todo="draw another model's")
    return attention.double().numpy()


def attention_of(run_dir: str | Path, bags: Bags, patient_id: str) -> NDArray[np.float64]:
    """Attention of a run over the tiles of a patient, in the order of his bag (see `attend`)."""
    known = bags.positions != "unknown"
    coords = bags.coords[bags.rows(patient_id)] if known else None
    return attend(Path(run_dir) / "weights.safetensors", bags.bag(patient_id), coords)
