"""A study's tasks in words, and what a survival task of so many events could find."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import PurePath
from statistics import NormalDist
from typing import Any

from histostudy.report.labelled import labelled_text
from histostudy.report.numbers import count, listed, number
from histostudy.report.segmentation import segmentation_text

#: Of the smallest hazard ratio that is not too easily missed.
LEVEL, POWER = 0.05, 0.8


def is_null(task: Mapping[str, Any]) -> bool:
    """Whether a task's outcomes are shuffled, so that nothing can be learned."""
    return task.get("permute") is not None


def unit_of(task: Mapping[str, Any]) -> str:
    """What a row of the task is: a patient, a spot or a tile."""
    if task.get("kind") == "tile_classification":
        return "tile"
    return "spot" if task.get("level") == "spot" else "patient"


def task_text(task: Mapping[str, Any]) -> str:
    """What a task predicts and of whom: `time os_days with event os_event; patients with cancer blca`."""
    match task["kind"]:
        case "survival":
            parts = [f"time {task.get('time')} with event {task.get('event')}"]
        case "expression":
            parts = _expression(task)
        case "tile_classification":
            parts = [labelled_text(task)]
        case "segmentation":
            parts = [segmentation_text(task)]
        case _:
            positive = f", positive class {task['positive']}" if task.get("positive") else ""
            parts = [f"target {task.get('target')}{positive}"]
    if task.get("where"):
        parts.append(f"of patients with {listed([_having(k, v) for k, v in task['where'].items()])}")
    if task.get("adjust"):
        parts.append(f"clinical model with {', '.join(task['adjust'])}")
    if is_null(task):
        parts.append("a null: outcomes shuffled")
    return "; ".join(parts)


def _having(column: str, wanted: Any) -> str:
    return f"{column} {' or '.join(str(w) for w in (wanted if isinstance(wanted, list) else [wanted]))}"


def _expression(task: Mapping[str, Any]) -> list[str]:
    genes = task.get("genes")
    what = count(len(genes), "gene") if genes else "all genes of the table"
    if task.get("top"):
        # the table, test rows too, decides what is asked; nothing of it reaches a model
        of = f" of the {what} named" if genes else ""
        what = f"the {count(task['top'], 'gene')} of largest variance{of} over all {unit_of(task)}s"
    steps = ["scaled to a total of 10,000"] if task.get("library") else []
    steps += ["as log2(1 + x)"] if task.get("log", True) else []
    parts = [f"{what}, one value a {unit_of(task)}" + (f", {' and '.join(steps)}" if steps else "")]
    if task.get("subtypes"):
        by = task.get("centroids")
        how = f"centroids of {PurePath(str(by)).name}" if by else "clusters of the training part, named by marker genes"
        parts.append(f"subtypes called from measured and predicted expression by the nearest centroid ({how})")
    return parts


def null_note(task: Mapping[str, Any]) -> str:
    """What a reader of a shuffled task's numbers must know; empty for any other task."""
    if not is_null(task):
        return ""
    return (
        f"A null: the outcomes were shuffled among the {unit_of(task)}s (seed {task['permute']}), so that there is "
        "nothing to learn. What differs from chance here is luck or a leak."
    )


def detectable_hazard_ratio(events: int, level: float = LEVEL, power: float = POWER) -> float:
    """Smallest hazard ratio between two groups of equal size that a log-rank test finds with a power.

    From d = 4 (z_{1 - level / 2} + z_power)^2 / (ln HR)^2 (Schoenfeld, Biometrika 1981, 68:316).

    Parameters
    ----------
    events : int
        d, of both groups together; infinite for none.
    level, power : float
        Two-sided level, and share of studies that find it.
    """
    if events <= 0:
        return math.inf
    normal = NormalDist()
    z = normal.inv_cdf(1 - level / 2) + normal.inv_cdf(power)
    return math.exp(2 * z / math.sqrt(events))


def power_note(events: int) -> str:
    """What could have been found with so many events."""
    return (
        f"With {count(events, 'event')} a hazard ratio below {number(detectable_hazard_ratio(events), 2)} between two "
        "groups of equal size would be missed more often than once in five (log-rank test, two-sided 0.05)."
    )
