"""Losses against loops in float64."""

from __future__ import annotations

import numpy as np
import torch

from histostudy.training.segmentation.annotations import IGNORE
from histostudy.training.segmentation.losses import EPSILON, cross_entropy, dice_loss, pixel_loss


def _batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, (2, 6, 5))
    truth[rng.random(truth.shape) < 0.3] = IGNORE
    return torch.from_numpy(rng.normal(size=(2, 3, 6, 5))), torch.from_numpy(truth)


def test_dice_and_entropy_against_a_slow_loop() -> None:
    logits, truth = _batch(0)
    p = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(1, keepdims=True)
    above, below, entropy, n = np.zeros(3), np.zeros(3), 0.0, 0
    for b in range(2):
        for i in range(6):
            for j in range(5):
                t = int(truth[b, i, j])
                if t == IGNORE:
                    continue
                n += 1
                entropy -= np.log(p[b, t, i, j])
                for c in range(3):
                    above[c] += 2 * p[b, c, i, j] * (t == c)
                    below[c] += p[b, c, i, j] ** 2 + (t == c)
    expected = 1 - np.mean((above + EPSILON) / (below + EPSILON))
    assert abs(float(dice_loss(logits, truth)) - expected) < 1e-6
    assert abs(float(cross_entropy(logits, truth)) - entropy / n) < 1e-6


def test_ignored_pixels_have_no_gradient_and_a_batch_of_them_no_loss() -> None:
    logits, truth = _batch(1)
    logits.requires_grad_()
    pixel_loss(logits, truth).backward()
    assert logits.grad is not None
    gradient = logits.grad.abs().sum(1)
    assert (gradient[truth == IGNORE] == 0).all() and (gradient[truth != IGNORE] > 0).all()
    assert float(pixel_loss(logits.detach(), torch.full_like(truth, IGNORE))) < 1e-5


def test_the_truth_itself_has_no_loss() -> None:
    _, truth = _batch(2)
    logits = 60.0 * torch.stack([truth == c for c in range(3)], 1).float()
    assert float(pixel_loss(logits, truth)) < 1e-4
