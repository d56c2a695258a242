"""Outcomes as tensors and as the truth columns of a prediction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from histostudy.cohort.outcomes import Outcome


def targets_of(outcome: Outcome, patient_ids: Sequence[str]) -> dict[str, Tensor]:
    """Targets of patients, as `histostudy.models.heads` takes them."""
    import torch

    rows = outcome.rows(list(patient_ids))
    if outcome.task.kind == "survival":
        time, event = np.asarray(outcome.time, "float32")[rows], np.asarray(outcome.event, "float32")[rows]
        return {"time": torch.from_numpy(time), "event": torch.from_numpy(event)}
    if outcome.task.kind == "classification":
        return {"y": torch.from_numpy(outcome.y[rows].astype("int64"))}
    values = np.asarray(outcome.y, "float32")[rows]
    return {"y": torch.from_numpy(values.reshape(len(rows), -1))}


def head_names(outcome: Outcome, days: Sequence[int]) -> dict[str, Any]:
    """What `head_config` wants to know of the task."""
    kind = outcome.task.kind
    if kind == "survival":
        return {"days": list(days)}
    if kind == "classification":
        return {"classes": list(outcome.classes)}
    return {"columns": outcome.prediction_columns}


def truth_frame(outcome: Outcome, patient_ids: Sequence[str]) -> pd.DataFrame:
    """Patients with their truth: `truth`, `time` and `event`, or ``truth_<gene>``."""
    import pandas as pd

    rows = outcome.rows(list(patient_ids))
    frame = pd.DataFrame({"patient_id": list(patient_ids)})
    kind = outcome.task.kind
    if kind == "survival":
        frame["time"] = np.asarray(outcome.time, float)[rows]
        frame["event"] = np.asarray(outcome.event)[rows].astype(bool)
    elif kind == "classification":
        frame["truth"] = [outcome.classes[int(code)] for code in outcome.y[rows]]
    elif kind == "regression":
        frame["truth"] = np.asarray(outcome.y, float).reshape(-1)[rows]
    else:
        values = np.asarray(outcome.y, float)[rows]
        truths = pd.DataFrame(values, columns=[f"truth_{gene}" for gene in outcome.genes])
        frame = pd.concat([frame, truths], axis=1)
    return frame
