"""Points of the curves against scikit-learn."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import precision_recall_curve, roc_curve

from histostudy.evaluation.curves import pr_points, roc_points


def sample(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = (rng.uniform(size=60) < 0.4).astype(float)
    return np.round(rng.normal(size=60) + truth, 1), truth


def test_roc_points() -> None:
    for seed in range(5):
        score, truth = sample(seed)
        fpr, tpr, _ = roc_curve(truth, score, drop_intermediate=False)
        grid = np.unique(fpr)
        wanted = [tpr[fpr == x].max() for x in grid]
        np.testing.assert_allclose(roc_points(np.ones((1, 60)), score, truth, grid)[0], wanted)


def test_pr_points() -> None:
    for seed in range(5):
        score, truth = sample(seed)
        precision, recall, _ = precision_recall_curve(truth, score)
        grid = np.unique(recall[recall > 0])
        wanted = [precision[recall == x].max() for x in grid]
        np.testing.assert_allclose(pr_points(np.ones((1, 60)), score, truth, grid)[0], wanted)


def test_weights_are_repeated_rows() -> None:
    score, truth = sample(9)
    counts = np.random.default_rng(0).integers(0, 4, 60)
    s, t = np.repeat(score, counts), np.repeat(truth, counts)
    for points in (roc_points, pr_points):
        weighted = points(np.stack([np.ones(60), counts]), score, truth)[1]
        np.testing.assert_allclose(weighted, points(np.ones((1, s.size)), s, t)[0], atol=1e-9)
