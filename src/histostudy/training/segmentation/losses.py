"""Losses of a class a pixel, of sums and products alone: on a GPU others are not the same every time."""

from __future__ import annotations

import torch
from torch import Tensor

from histostudy.training.segmentation.annotations import IGNORE

EPSILON = 1e-6


def _one_hot(truth: Tensor, classes: int) -> Tensor:
    """(B, H, W) -> (B, classes, H, W), all 0 where a pixel is ignored."""
    return (truth.unsqueeze(1) == torch.arange(classes, device=truth.device).view(1, -1, 1, 1)).float()


def dice_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """``1 - (2 sum p y + eps) / (sum p^2 + sum y^2 + eps)``, a mean over the classes, background among them.

    Source: H2G-Net (arXiv 2112.03455), after Milletari et al., 3DV 2016. Sums run over the batch, so that a class which
    one patch lacks is no loss of that patch alone.

    Parameters
    ----------
    logits : Tensor, (B, C, H, W)
    truth : Tensor of int64, (B, H, W)
        Class of each pixel; `IGNORE` counts for nothing.
    """
    y = _one_hot(truth, logits.shape[1])
    p = logits.softmax(1) * (truth != IGNORE).unsqueeze(1)
    over = (0, 2, 3)
    shares = (2 * (p * y).sum(over) + EPSILON) / ((p * p).sum(over) + (y * y).sum(over) + EPSILON)
    return 1 - shares.mean()


def cross_entropy(logits: Tensor, truth: Tensor) -> Tensor:
    """Mean of ``-log p`` of the true class over the pixels that count; 0 where none does. Shapes as `dice_loss`."""
    y = _one_hot(truth, logits.shape[1])
    return -(logits.log_softmax(1) * y).sum() / y.sum().clamp(min=1)


def pixel_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Dice loss plus cross-entropy."""
    return dice_loss(logits, truth) + cross_entropy(logits, truth)
