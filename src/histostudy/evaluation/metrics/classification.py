"""Metrics of classification: ranking (one against the rest, macro), decisions, probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from histostudy.evaluation.metrics.base import Evaluate, Metric, Run
from histostudy.evaluation.metrics.kernels import Floats, auc, average_precision, nanmean, ratio

#: Bins of equal width of the expected calibration error.
ECE_BINS = 10
#: Columns of predictions of labelled tiles: whether one of the class is among the nearest, and the average precision.
RETRIEVAL = ("retrieval_acc@1", "retrieval_acc@3", "retrieval_acc@5", "retrieval_map")


@dataclass(frozen=True)
class Classes:
    """Classes of a task in the order of their probabilities, and the positive one of two."""

    names: tuple[str, ...]
    positive: str

    @property
    def ranked(self) -> tuple[str, ...]:
        """Classes to draw a curve of: the positive one of two, or each."""
        return (self.positive,) if len(self.names) == 2 else self.names


def probabilities(frame: pd.DataFrame, classes: Classes) -> Floats:
    """Predicted probabilities, shape (n, classes)."""
    return frame[[f"prob_{name}" for name in classes.names]].to_numpy(float)


def truth_codes(frame: pd.DataFrame, classes: Classes) -> np.ndarray:
    """Index of the true class of each row."""
    return pd.Categorical(frame["truth"].astype(str), categories=list(classes.names)).codes.astype(int)


def _over_classes(frame: pd.DataFrame, classes: Classes, kernel: str) -> Evaluate:
    truth = frame["truth"].astype(str).to_numpy()
    pairs = []
    for name in classes.ranked:
        positive = (truth == name).astype(float)
        if 0 < positive.sum() < positive.size:
            pairs.append((frame[f"prob_{name}"].to_numpy(float), positive))

    def take(w: Floats) -> Floats:
        if not pairs:
            return np.full(w.shape[0], np.nan)
        if kernel == "auc":
            each = [auc(w, score, positive, 1 - positive) for score, positive in pairs]
        else:
            each = [average_precision(w, score, positive) for score, positive in pairs]
        return nanmean(np.stack(each), 0)

    return take


def auroc(frame: pd.DataFrame, train: pd.DataFrame, classes: Classes) -> Evaluate:
    """Area under the ROC curve; more than two classes: mean over the classes present, each against the rest."""
    return _over_classes(frame, classes, "auc")


def auprc(frame: pd.DataFrame, train: pd.DataFrame, classes: Classes) -> Evaluate:
    """Average precision of the positive class, or the mean over the classes, each against the rest."""
    return _over_classes(frame, classes, "ap")


def _cells(frame: pd.DataFrame, classes: Classes) -> tuple[np.ndarray, np.ndarray]:
    """One-hot truth and decision (the most probable class), (n, classes) each."""
    one = np.eye(len(classes.names))
    return one[truth_codes(frame, classes)], one[probabilities(frame, classes).argmax(1)]


def balanced_accuracy(frame: pd.DataFrame, train: pd.DataFrame, classes: Classes) -> Evaluate:
    """Mean over the classes present of the share called right; the call is the most probable class."""
    truth, called = _cells(frame, classes)
    return lambda w: nanmean(ratio(w @ (truth * called), w @ truth), 1)


def f1_macro(frame: pd.DataFrame, train: pd.DataFrame, classes: Classes) -> Evaluate:
    """Mean over the classes present or called of the harmonic mean of precision and recall."""
    truth, called = _cells(frame, classes)
    return lambda w: nanmean(ratio(2 * (w @ (truth * called)), w @ truth + w @ called), 1)


def brier(frame: pd.DataFrame, train: pd.DataFrame, classes: Classes) -> Floats:
    """Squared error of the probabilities: of the positive class, or summed over more than two (Brier 1950)."""
    prob = probabilities(frame, classes)
    squared = ((prob - np.eye(prob.shape[1])[truth_codes(frame, classes)]) ** 2).sum(1)
    return squared / 2 if prob.shape[1] == 2 else squared


def ece(frame: pd.DataFrame, train: pd.DataFrame, classes: Classes) -> Evaluate:
    """Expected calibration error over ten bins of equal width (Naeini et al. 2015; Guo et al. 2017).

    Two classes: of the positive class's probability. More: of the probability of the class called.
    """
    prob = probabilities(frame, classes)
    truth = truth_codes(frame, classes)
    if len(classes.names) == 2:
        which = classes.names.index(classes.positive)
        said, right = prob[:, which], (truth == which).astype(float)
    else:
        said, right = prob.max(1), (prob.argmax(1) == truth).astype(float)
    bins = np.eye(ECE_BINS)[np.minimum((said * ECE_BINS).astype(int), ECE_BINS - 1)]
    return lambda w: np.abs(w @ (bins * (right - said)[:, None])).sum(1) / w.sum(1)


def _retrieval(name: str) -> Metric:
    """Mean over the rows of what a run found for each."""
    return Metric(name, "pooled", contribution=lambda frame, train, classes: frame[name].to_numpy(float))


def metrics(runs: Sequence[Run]) -> tuple[Metric, ...]:
    """Metrics of a model: where its runs looked for tiles of the same class, how well they found them too."""
    found = [name for name in RETRIEVAL if all(name in run.frame for run in runs)]
    return (*METRICS, *map(_retrieval, found))


METRICS = (
    Metric("auroc", "fold mean", auroc),
    Metric("auprc", "fold mean", auprc),
    Metric("balanced_accuracy", "pooled", balanced_accuracy),
    Metric("f1_macro", "pooled", f1_macro),
    Metric("brier", "pooled", contribution=brier),
    Metric("ece", "pooled", ece, centred=True, bounds=(0.0, 1.0)),
)
