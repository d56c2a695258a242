"""The few-shot curve: how well prototypes of so many labelled tiles a class tell test tiles apart."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from histostudy.evaluation.bootstrap import BAND_RESAMPLES, Floats, bootstrap_weights, interval
from histostudy.evaluation.metrics.kernels import nanmean, ratio
from histostudy.training.runfolder import SHOTS

COLUMNS = [
    "model", "metric", "shots", "estimate", "low", "high", "draw_low", "draw_high", "draws", "runs", "n", "patients",
]  # fmt: skip


def few_shot_table(
    folders: Mapping[str, Path], predictions: Mapping[str, pd.DataFrame], classes: Sequence[str],
    owners: Mapping[str, str], *, resamples: int, confidence: float, seed: int,
) -> pd.DataFrame:  # fmt: skip
    """Balanced accuracy over the number of shots.

    A point is the mean over the draws of the balanced accuracy of all test tiles together. Two spreads, never one for
    the other: `low` and `high` are the interval of that mean over resampled patients (within the fold that tests
    them), `draw_low` and `draw_high` the same quantiles of the single draws, that is the luck of which tiles were
    labelled. A number of shots that some fold could not draw is left out.

    Parameters
    ----------
    folders : mapping of str to Path
        Folder of the runs of each model that drew shots.
    predictions : mapping of str to DataFrame
        Of those models, for the truth of each test tile.
    classes : sequence of str
        In the order of the codes.
    owners : mapping of str to str
        Patient of each tile.
    resamples : int
        At most `BAND_RESAMPLES` are drawn.
    confidence : float
    seed : int
        Of the resamples.

    Returns
    -------
    DataFrame
        `COLUMNS`; empty where nothing was drawn.
    """
    rows = []
    for model, folder in folders.items():
        called = _called(folder)
        if called is None:
            continue
        truth = predictions[model][["repeat", "fold", "patient_id", "truth"]]
        table = truth.merge(called, on=["repeat", "fold", "patient_id"], validate="1:1")
        codes = pd.Categorical(table["truth"].astype(str), categories=list(classes)).codes
        one = np.eye(len(classes))[codes.astype(int)]
        patient = np.unique([owners[tile] for tile in table["patient_id"]], return_inverse=True)[1]
        once = len(table) == table["patient_id"].nunique()
        strata = table["fold"].to_numpy() if once else np.zeros(len(table), int)
        weights = bootstrap_weights(strata, min(resamples, BAND_RESAMPLES), seed, patient)
        for shots, columns in _by_shots(list(called.columns)).items():
            hits = table[columns].to_numpy() == codes[:, None]
            if table[columns].isna().any(axis=None):
                continue
            each = nanmean(ratio(hits.T.astype(float) @ one, one.sum(0)[None]), 1)
            # the share called right is linear in the hits: the mean over draws is that of the mean hits
            low, high = interval(_balanced(weights, hits.mean(1), one), confidence)
            tail = (1 - confidence) / 2
            luck = np.quantile(each, [tail, 1 - tail])
            row = {"model": model, "metric": "balanced_accuracy", "shots": shots, "estimate": float(each.mean())}
            row |= {"low": low, "high": high, "draw_low": float(luck[0]), "draw_high": float(luck[1])}
            row |= {"draws": len(columns), "runs": len(table.groupby(["repeat", "fold"]))}
            rows.append(row | {"n": len(table), "patients": int(patient.max()) + 1})
    return pd.DataFrame(rows, columns=COLUMNS)


def _balanced(weights: Floats, right: Floats, one: Floats) -> Floats:
    """Balanced accuracy of each resample, from the share of draws in which each tile was called right."""
    return nanmean(ratio(weights @ (one * right[:, None]), weights @ one), 1)


def _called(folder: Path) -> pd.DataFrame | None:
    """Classes called by every draw, of all runs; None where there are none."""
    frames = []
    for file in sorted(folder.glob(f"r*f*/{SHOTS}")):
        match = re.fullmatch(r"r(\d+)f(\d+)", file.parent.name)
        if match is not None:
            frames.append(pd.read_parquet(file).assign(repeat=int(match[1]), fold=int(match[2])))
    return pd.concat(frames, ignore_index=True) if frames else None


def _by_shots(columns: Sequence[str]) -> dict[int, list[str]]:
    """Columns ``s<shots>_d<draw>`` by their shots, rising."""
    found: dict[int, list[str]] = {}
    for column in columns:
        if match := re.fullmatch(r"s(\d+)_d\d+", column):
            found.setdefault(int(match[1]), []).append(column)
    return dict(sorted(found.items()))
