"""How many patients a training step sees."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from histostudy.study import Training

#: In a cohort of few patients the batch shrinks until an epoch has this many steps, but not below a size.
STEPS_AN_EPOCH = 8
SMALLEST_BATCH = 8


def batch_size_of(settings: Training, patients: int) -> int:
    """Patients a step, of so many in the training part."""
    return min(settings.batch_size, max(SMALLEST_BATCH, patients // STEPS_AN_EPOCH))
