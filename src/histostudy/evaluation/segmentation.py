"""Segmentation scored slide by slide, averaged over patients, with intervals over resampled patients."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histostudy.errors import StudyError
from histostudy.evaluation.bootstrap import Floats, bootstrap_weights, interval
from histostudy.evaluation.comparison import MAIN_METRIC, Pair, compare
from histostudy.evaluation.runs import REDO
from histostudy.seeds import derive_seed

if TYPE_CHECKING:
    from histostudy.study import Study
    from histostudy.tasks import Segmentation

logger = logging.getLogger(__name__)

METRICS = ("dice", "iou", "precision", "recall", "dice_pooled")
#: The class whose row is the mean over all classes.
MEAN = "mean"
COLUMNS = [
    "task", "model", "metric", "class", "estimate", "low", "high", "n", "events", "pooling", "runs", "undefined",
    "resamples",
]  # fmt: skip


def scores(tp: Floats, fp: Floats, fn: Floats) -> dict[str, Floats]:
    """Dice, IoU, precision and recall from counts of pixels; NaN where undefined.

    - dice = 2 tp / (2 tp + fp + fn) and iou = tp / (tp + fp + fn), where the truth holds the class;
    - recall = tp / (tp + fn), of what is there; precision = tp / (tp + fp), of what was called, where something was.

    A slide without the class has no Dice: whether one counts 1 or 0 there would depend on the model. What is called
    on it lowers precision (to 0) and `dice_pooled`. The published code of H2G-Net calls tp / (tp + fn) precision.
    """
    there = tp + fn > 0

    def ratio(above: Floats, below: Floats, where: NDArray[np.bool_]) -> Floats:
        return np.divide(above, below, out=np.full(np.shape(tp), np.nan), where=where)

    return {
        "dice": ratio(2 * tp, 2 * tp + fp + fn, there),
        "iou": ratio(tp, tp + fp + fn, there),
        "precision": ratio(tp, tp + fp, tp + fp > 0),
        "recall": ratio(tp, tp + fn, there),
    }


def scored_slides(predictions: pd.DataFrame) -> pd.DataFrame:
    """Predictions with dice, iou, precision and recall of each row."""
    counted = (predictions[c].to_numpy(float) for c in ("tp", "fp", "fn"))
    return predictions.assign(**scores(*counted))


def evaluate_segmentation(
    study: Study, task: Segmentation, predictions: Mapping[str, pd.DataFrame]
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, pd.DataFrame]]:
    """Evaluate all models of a task on the same resamples of its patients.

    A patient's value is the mean over his slides (and repeats); an estimate the mean over the patients who have one;
    `mean` the mean over the classes. `dice_pooled` is of the pixels of all slides together, so that a large slide
    counts for more and what is called on a slide without the class counts.

    Parameters
    ----------
    study : Study
        Its `seed` and `compare` are used.
    task : Segmentation
    predictions : mapping of model to DataFrame
        repeat, fold, slide_id, patient_id, class, tp, fp, fn, tn of all runs.

    Returns
    -------
    metrics, comparison : DataFrame
        As of other tasks (`evaluation.stage`); metrics have a column `class`. `n` patients, `events` those with the
        class. Models are compared on the mean Dice.
    curves : dict of str to DataFrame
        `slides`: one row a model, test slide and class.

    Raises
    ------
    StudyError
        If two models did not predict the same slides in the same runs.
    """
    if not predictions:
        raise StudyError(f"no predictions of task {task.name}", todo="train its models first")
    _check(predictions, task)
    first = next(iter(predictions.values()))
    patients = sorted(first["patient_id"].unique())
    weights = _weights(first, patients, study.compare.resamples, derive_seed(study.seed, "bootstrap", task.name))
    rows, draws = [], {}
    for model, frame in predictions.items():
        for row, values in _rows(task, frame, patients, weights):
            low, high = interval(values, study.compare.confidence)
            rows.append({"task": task.name, "model": model} | row | {"low": low, "high": high})
            draws[model, row["metric"], row["class"]] = (row["estimate"], values)
    metrics = pd.DataFrame(rows)
    metrics["resamples"], metrics["runs"] = len(weights), first.groupby(["repeat", "fold"]).ngroups
    main = MAIN_METRIC["segmentation"]

    def pair(one: str, other: str) -> Pair:
        mine, theirs = draws[one, main, MEAN], draws[other, main, MEAN]
        return Pair(mine[0] - theirs[0], mine[1] - theirs[1], int(metrics["runs"].iloc[0]))

    reference = study.reference_of(task.name)
    comparison = compare(
        task.name, main, list(predictions), pair, [reference] if reference else [],
        n=len(patients), confidence=study.compare.confidence, correction=study.compare.correction,
    )  # fmt: skip
    slides = [scored_slides(frame).assign(model=model) for model, frame in predictions.items()]
    keep = ["model", "repeat", "fold", "slide_id", "patient_id", "class", "dice", "iou", "precision", "recall"]
    return metrics[COLUMNS], comparison, {"slides": pd.concat(slides, ignore_index=True)[keep]}


def _check(predictions: Mapping[str, pd.DataFrame], task: Segmentation) -> None:
    keys = ["repeat", "fold", "slide_id", "patient_id", "class"]
    first: tuple[str, pd.MultiIndex] | None = None
    for model, frame in predictions.items():
        mine = pd.MultiIndex.from_frame(frame[keys])
        where = f"predictions of {task.name}, {model}"
        if mine.has_duplicates:
            raise StudyError(f"slide {mine[mine.duplicated()][0][2]} twice", where=where, todo=REDO)
        if first is None:
            first = model, mine
        elif len(odd := mine.symmetric_difference(first[1])):
            raise StudyError(f"not the same slides as {first[0]}, such as {odd[0][2]}", where=where, todo=REDO)


def _weights(frame: pd.DataFrame, patients: list[str], resamples: int, seed: int) -> Floats:
    """Resamples of the patients, within the fold that tests them where each is tested once."""
    tested = frame[["patient_id", "repeat", "fold"]].drop_duplicates().sort_values(["patient_id", "repeat", "fold"])
    once = tested.drop_duplicates("patient_id")
    strata = once["fold"].to_numpy() if len(once) == len(tested) else np.zeros(len(once), int)
    return bootstrap_weights(strata, resamples, seed)


def _rows(task: Segmentation, frame: pd.DataFrame, patients: list[str], weights: Floats) -> list[tuple[dict, Floats]]:
    """Each metric of each class and of their mean, and its values on the resamples."""
    scored = scored_slides(frame)
    out: list[tuple[dict, Floats]] = []
    found: dict[str, list[tuple[float, Floats]]] = {metric: [] for metric in METRICS}
    for name in task.labels:
        mine = scored[scored["class"] == name]
        there = int((mine.groupby("patient_id")[["tp", "fn"]].sum().sum(axis=1) > 0).sum())
        for metric in METRICS:
            if metric == "dice_pooled":
                summed = mine.groupby("patient_id")[["tp", "fp", "fn"]].sum().loc[patients].to_numpy(float)
                one, drawn = (_pooled(w @ summed) for w in (np.ones((1, len(patients))), weights))
                undefined = 0
            else:
                values = mine.groupby("patient_id")[metric].mean().loc[patients].to_numpy(float)
                one, drawn = (_mean(w, values) for w in (np.ones((1, len(patients))), weights))
                undefined = int(np.isnan(values).sum())
            row = {"metric": metric, "class": name, "estimate": float(one[0]), "n": len(patients), "events": there}
            pooling = "pooled" if metric == "dice_pooled" else "patient mean"
            out.append((row | {"pooling": pooling, "undefined": undefined}, drawn))
            found[metric].append((float(one[0]), drawn))
    for metric in METRICS:
        estimates = [estimate for estimate, _ in found[metric]]
        row = {"metric": metric, "class": MEAN, "estimate": _defined(np.array(estimates)), "n": len(patients)}
        row |= {"events": np.nan, "pooling": "class mean", "undefined": int(np.isnan(estimates).sum())}
        stacked = np.stack([drawn for _, drawn in found[metric]])
        # a class that no resampled patient has leaves the mean of the others: another number, so it is left out
        out.append((row, stacked[np.isfinite(estimates)].mean(0) if np.isfinite(estimates).any() else stacked[0]))
    return out


def _mean(weights: Floats, values: Floats) -> Floats:
    """Weighted means over the patients who have a value, (B,); NaN where none of those drawn has."""
    have = np.isfinite(values)
    total = weights[:, have].sum(1)
    return np.divide(weights[:, have] @ values[have], total, out=np.full(len(weights), np.nan), where=total > 0)


def _pooled(summed: Floats) -> Floats:
    """Dice of summed counts, (B, 3): tp, fp, fn; NaN where nothing is there."""
    tp, fp, fn = summed.T
    return scores(tp, fp, fn)["dice"]


def _defined(values: Floats) -> float:
    good = values[np.isfinite(values)]
    return float(good.mean()) if good.size else float("nan")
