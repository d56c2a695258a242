"""What changes over the steps: learning rate, weight decay, momentum of the moving average."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from histostudy.pretrain_keys import Pretrain


def schedule(step: int, total: int, start: float, end: float, warm_up: float = 0.0) -> float:
    """A cosine from `start` to `end`, after a share of the steps in which it rises in a line from 0.

    Parameters
    ----------
    step, total : int
        Of 0 to total - 1.
    start, end : float
    warm_up : float
        Share of the steps.
    """
    rising = math.floor(warm_up * total)
    if step < rising:
        return start * (step + 1) / rising
    share = (step - rising) / max(1, total - rising)
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))


def peak_lr(settings: Pretrain) -> float:
    """Learning rate after the warm-up: as given, or by the batch as DINO and (distil) DINOv2 scale theirs."""
    if settings.lr is not None:
        return settings.lr
    if settings.method == "distil":
        return 1e-3 * math.sqrt(settings.batch_size / 1024)
    return 5e-4 * settings.batch_size / 256


def momentum_at(step: int, total: int, settings: Pretrain) -> float:
    """Of the moving average: rises to 1 where it is the teacher, stays where it is a copy of the student."""
    if settings.method == "distil":
        return 0.99 if settings.momentum is None else settings.momentum
    return schedule(step, total, 0.996 if settings.momentum is None else settings.momentum, 1.0)
