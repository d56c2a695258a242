"""Attention of a trained run, for heat maps and the tiles a model looked at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from histostudy.errors import ModelError
from histostudy.training.runfolder import FILES, as_trained

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histostudy.features.bags import Bags


def attend(
    weights: str | Path,
    features: NDArray[np.float32],
    coords: NDArray[np.int64] | None = None,
    scales: NDArray[np.float32] | None = None,
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
    scales : ndarray, optional
        (N,) um per pixel of each, where the bag holds several scales.

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
        batch = BagBatch.pack([torch.as_tensor(features, dtype=torch.float32)], places)
        if scales is not None:
            batch.scales = torch.as_tensor(scales)
        _, attention = model(batch)
    if attention is None:
        raise ModelError(f"{config['aggregator']} has no attention", where=weights, todo="draw another model's")
    return attention.double().numpy()


def attention_of(run_dir: str | Path, bags: Bags, patient_id: str) -> NDArray[np.float64]:
    """Attention of a run over the tiles of a patient, in the order of his bag (see `attend`).

    Of a model that sees several scales, what the tiles' parents have is left out, and the rest brought to a sum of 1.
    """
    from histostudy.features.scales import of_all_scales
    from histostudy.models.io import load_model
    from histostudy.models.registry import aggregator_kind

    weights = as_trained(Path(run_dir), FILES[0])
    known = bags.positions != "unknown"
    if bags.coarser is None or not aggregator_kind(load_model(weights)[1]["aggregator"]).scales:
        coords = bags.coords[bags.rows(patient_id)] if known else None
        return attend(weights, bags.bag(patient_id), coords)
    mine = replace(bags.take([patient_id]), coarser=bags.coarser.take([patient_id]))
    seen = of_all_scales(mine)
    attention = attend(weights, seen.bag(patient_id), seen.coords if known else None, seen.scales)[: len(mine.features)]
    total = attention.sum()
    return attention / total if total > 0 else np.full(len(attention), 1 / len(attention))
