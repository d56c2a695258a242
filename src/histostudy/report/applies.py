"""Which reporting standards apply to a study, and the files that come of it; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Spec = Mapping[str, Any]
#: Kinds of task that predict something of a patient or a spot.
PREDICTS = ("classification", "survival", "regression", "expression")


def follows_tripod(study: Spec) -> bool:
    """Whether a study predicts something of patients, so that TRIPOD+AI applies."""
    return any(task["kind"] in PREDICTS for task in study.get("tasks") or [])


def follows_remark(study: Spec) -> bool:
    """Whether a study is prognostic, so that REMARK applies: it has a survival task."""
    return any(task["kind"] == "survival" for task in study.get("tasks") or [])


def reporting_names(study: Spec) -> list[str]:
    """Names of the files of a study's ``reporting`` folder: checklists only where they apply."""
    lists = ["tripod_ai.md"] * follows_tripod(study) + ["remark.md"] * follows_remark(study)
    return [*lists, "methods.md", "availability.md", "references.bib"]
