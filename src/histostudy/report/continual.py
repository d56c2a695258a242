"""Tasks learned in sequence, in words and as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from histostudy.report.numbers import count, listed

Spec = Mapping[str, Any]
METHODS = {
    "finetune": "trained on each task in turn, which forgets (gated ABMIL)",
    "joint": "trained afresh at each step on all tasks so far, usually the upper bound (gated ABMIL)",
    "replay": "rehearsing kept tiles of earlier patients (gated ABMIL)",
    "conslide": "ConSlide (Huang et al., ICCV 2023): a hierarchical transformer with rehearsal of regions",
    "comel": "our reading of CoMEL (2025): grouped double attention, with adapters kept off what earlier tasks "
    "put into each layer",
}
METRICS = {
    "average_accuracy": "average accuracy", "forgetting": "forgetting \N{DOWNWARDS ARROW}",
    "backward_transfer": "backward transfer", "learning_accuracy": "accuracy when just learned",
}  # fmt: skip
READINGS = {"task": "known", "class": "not known"}


def learners_of(study: Spec) -> dict[str, Spec]:
    """Models that learn the sequence, by name."""
    return {name: model for name, model in (study.get("models") or {}).items() if model.get("continual")}


def continual_paragraph(study: Spec) -> str:
    """How the tasks were learned in sequence, and how that was scored; empty where none was."""
    learners = learners_of(study)
    if not learners:
        return ""
    ways = "; ".join(f"{name}, {_way(model['continual'])}" for name, model in learners.items())
    sequence = list(study.get("sequence") or [])
    return (
        f"The tasks {listed(sequence)} were learned in this order, in every fold, by {count(len(learners), 'model')}: "
        f"{ways}. In each task the epoch was chosen by its inner validation part; tiles were standardised by the first "
        "task's training part. After each task the test part of every task was predicted; the truth was not looked at "
        "before the last was learned. Two readings: the task of a patient is known, and the prediction is the "
        "likeliest of its classes; or it is not, and the prediction is the likeliest of the classes of all tasks "
        "learned so far, which is not given where patients have several tasks. Forgetting is the best accuracy on a "
        "task since it was learned less that at the end (Chaudhry et al., ECCV 2018), backward transfer the accuracy "
        "at the end less that when it was learned (Lopez-Paz and Ranzato, NeurIPS 2017), both means over all tasks "
        "but the last. Patients were resampled within fold and task."
    )


def _way(keys: Spec) -> str:
    """A method and the settings that decide what it may remember."""
    text = METHODS[str(keys["method"])]
    if keys.get("memory"):
        text += f", at most {count(int(keys['memory']), 'tile')}"
    if keys.get("region"):
        text += f" in regions of at most {keys['region']}"
    if keys.get("orthogonality") == "rows":
        text += " (here, as published, off the rows of earlier adapters)"
    return text


def continual_table(metrics: pd.DataFrame) -> pd.DataFrame:
    """`ContinualEvaluation.metrics` with a row each model and reading: every number with its interval.

    Parameters
    ----------
    metrics : DataFrame
        model, reading, metric, estimate, low, high, n, runs.
    """
    rows = []
    for (model, reading), mine in metrics.groupby(["model", "reading"], sort=False):
        row: dict[str, Any] = {"model": model, "task": READINGS[str(reading)]}
        of = mine.set_index("metric")
        for metric, title in METRICS.items():
            one = of.loc[metric]
            text = f"{one['estimate']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"
            row[title] = text.replace("-", "\N{MINUS SIGN}")
        rows.append(row | {"patients": int(mine["n"].iloc[0]), "runs": int(mine["runs"].iloc[0])})
    return pd.DataFrame(rows)
