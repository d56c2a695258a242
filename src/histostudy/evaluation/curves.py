"""Curves of classification as tidy tables: ROC, precision-recall, calibration, confusion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from histostudy.evaluation.bootstrap import BAND_RESAMPLES, interval
from histostudy.evaluation.metrics.base import Run
from histostudy.evaluation.metrics.classification import Classes, probabilities, truth_codes
from histostudy.evaluation.metrics.kernels import Floats, mean_of, nanmean, ratio, tie_starts

#: Points of a curve.
GRID = np.linspace(0, 1, 101)
CALIBRATION_BINS = 8


def _cumulated(w: Floats, score: Floats, positive: Floats) -> tuple[Floats, Floats]:
    """Weight of positives and of negatives at or above each threshold, from none to all, (B, k + 1)."""
    order = np.argsort(-score, kind="stable")
    starts = tie_starts(score[order])
    hits, misses = (w * positive)[:, order], (w * (1 - positive))[:, order]
    hits, misses = (np.cumsum(np.add.reduceat(x, starts, axis=1), 1) for x in (hits, misses))
    none = np.zeros((w.shape[0], 1))
    return np.concatenate([none, hits], 1), np.concatenate([none, misses], 1)


def _place(rising: Floats, at: Floats, side: str) -> np.ndarray:
    """`searchsorted` of `at` in each row of values from 0 to 1, (B, len(at))."""
    b, k = rising.shape
    offset = 2.0 * np.arange(b)[:, None]
    flat = np.searchsorted((rising + offset).ravel(), (at[None] + offset).ravel(), side=side)  # type: ignore[call-overload]
    return flat.reshape(b, at.size) - k * np.arange(b)[:, None]


def roc_points(w: Floats, score: Floats, positive: Floats, grid: Floats = GRID) -> Floats:
    """True-positive rate at false-positive rates `grid`, shape (B, k); straight lines between thresholds."""
    true, false = _cumulated(w, score, positive)
    good = (true[:, -1] > 0) & (false[:, -1] > 0)
    tpr, fpr = true / np.maximum(true[:, -1:], 1e-300), false / np.maximum(false[:, -1:], 1e-300)
    left = np.clip(_place(fpr, grid + 1e-9, "right") - 1, 0, fpr.shape[1] - 1)
    right = np.minimum(left + 1, fpr.shape[1] - 1)
    x0, x1 = np.take_along_axis(fpr, left, 1), np.take_along_axis(fpr, right, 1)
    y0, y1 = np.take_along_axis(tpr, left, 1), np.take_along_axis(tpr, right, 1)
    share = np.clip(np.where(x1 > x0, (grid - x0) / np.where(x1 > x0, x1 - x0, 1), 0), 0, 1)
    return np.where(good[:, None], y0 + share * (y1 - y0), np.nan)


def pr_points(w: Floats, score: Floats, positive: Floats, grid: Floats = GRID) -> Floats:
    """Precision at the first threshold that reaches each recall of `grid`, shape (B, k)."""
    true, false = _cumulated(w, score, positive)
    recall = true / np.maximum(true[:, -1:], 1e-300)
    called = true + false
    at = np.clip(_place(recall, np.maximum(grid, 1e-6) - 1e-9, "left"), 1, recall.shape[1] - 1)
    precision = np.take_along_axis(true / np.maximum(called, 1e-300), at, 1)
    return np.where((true[:, -1] > 0)[:, None], precision, np.nan)


def band_curves(
    model: str, runs: Sequence[Run], weights: Floats, classes: Classes, confidence: float
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """ROC and precision-recall curves of a model, averaged vertically over runs, with pointwise bands.

    Returns
    -------
    roc, pr : DataFrame
        model, class, then fpr and tpr (or recall and precision), low, high, n, events.
    """
    weights = weights[:BAND_RESAMPLES]
    tables: dict[str, list[pd.DataFrame]] = {"roc": [], "pr": []}
    tail = 50 * (1 - confidence)
    for name in classes.ranked:
        hits: list[Floats] = [(run.frame["truth"].astype(str) == name).to_numpy().astype(float) for run in runs]
        usable = [(run, hit) for run, hit in zip(runs, hits, strict=True) if 0 < hit.sum() < hit.size]
        if not usable:
            continue
        truths = pd.concat([run.frame[["patient_id", "truth"]] for run in runs]).drop_duplicates("patient_id")["truth"]
        about: dict[str, Any] = {
            "model": model,
            "class": name,
            "n": len(truths),
            "events": int((truths.astype(str) == name).sum()),
        }
        for curve, points, x, y in (("roc", roc_points, "fpr", "tpr"), ("pr", pr_points, "recall", "precision")):
            scores = [run.frame[f"prob_{name}"].to_numpy(float) for run, _ in usable]
            lines = [points(np.ones((1, s.size)), s, hit) for s, (_, hit) in zip(scores, usable, strict=True)]
            draws = [points(weights[:, run.rows], s, hit) for s, (run, hit) in zip(scores, usable, strict=True)]
            low, high = np.nanpercentile(nanmean(np.stack(draws), 0), [tail, 100 - tail], axis=0)
            line = nanmean(np.stack(lines), 0)[0]
            tables[curve].append(pd.DataFrame({x: GRID, y: line, "low": low, "high": high}).assign(**about))
    roc, pr = (pd.concat(t, ignore_index=True) if t else pd.DataFrame() for t in tables.values())
    return roc, pr


def calibration(model: str, runs: Sequence[Run], weights: Floats, classes: Classes, confidence: float) -> pd.DataFrame:
    """Predicted against observed share, in bins of equal numbers of patients, over all test patients.

    Returns
    -------
    DataFrame
        model, class, bin, predicted, observed, low, high, n, events. A constant prediction is one bin.
    """
    frame = pd.concat([run.frame for run in runs], ignore_index=True)
    w = weights[:, np.concatenate([run.rows for run in runs])]
    truth = truth_codes(frame, classes)
    out = []
    for name in classes.ranked:
        said = probabilities(frame, classes)[:, classes.names.index(name)]
        right = (truth == classes.names.index(name)).astype(float)
        edges = np.unique(np.quantile(said, np.linspace(0, 1, CALIBRATION_BINS + 1)[1:-1]))
        bins = np.searchsorted(edges, said, side="left")
        for number in np.unique(bins):
            part = (bins == number).astype(float)
            draws = ratio(w @ (part * right), w @ part)
            low, high = interval(draws, confidence)
            one = part[None] * 1.0
            row = {"model": model, "class": name, "bin": int(number), "predicted": float(mean_of(one, said)[0])}
            row |= {"observed": float(mean_of(one, right)[0]), "low": low, "high": high}
            out.append(row | {"n": int(part.sum()), "events": int((part * right).sum())})
    return pd.DataFrame(out)


def confusion(model: str, runs: Sequence[Run], classes: Classes) -> pd.DataFrame:
    """Calls against truth over all test predictions: model, truth, predicted, count, share (of the truth)."""
    frame = pd.concat([run.frame for run in runs], ignore_index=True)
    called = probabilities(frame, classes).argmax(1)
    k = len(classes.names)
    counts = np.bincount(truth_codes(frame, classes) * k + called, minlength=k * k).reshape(k, k)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    rows = [
        {"model": model, "truth": t, "predicted": p, "count": int(counts[i, j]), "share": float(share[i, j])}
        for i, t in enumerate(classes.names)
        for j, p in enumerate(classes.names)
    ]
    return pd.DataFrame(rows)
