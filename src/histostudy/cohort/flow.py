"""The flow of a cohort: how many slides and patients are left after each step, and why the others are not."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histostudy.files import write_json

if TYPE_CHECKING:
    import pandas as pd

    from histostudy.cohort.outcomes import Outcome


class Flow:
    """Exclusions in the order they happen.

    A patient is lost when his last slide is, and counts under the reason of that slide (where his slides fall
    to several reasons in one step, under the commonest of them); so the numbers of each step add up.
    """

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []
        self.tasks: dict[str, dict[str, Any]] = {}
        self._patient_of: dict[str, str] = {}
        self._lonely: set[str] = set()

    def start(self, step: str, slides: pd.DataFrame, extra_patients: set[str] | None = None) -> None:
        """Begin with all slides of a table, and patients of the other table that have none."""
        self._patient_of = dict(zip(slides["slide_id"], slides["patient_id"], strict=True))
        self._lonely = set(extra_patients or ())
        self._append(step, [])

    def drop(self, step: str, reasons: Mapping[str, str], lonely: str | None = None) -> None:
        """Leave out slides, each with its reason.

        Parameters
        ----------
        step : str
            Name of the step.
        reasons : mapping
            Slide id to reason. Slides that are gone already are passed over.
        lonely : str, optional
            Leave out the patients who came without a slide too, for this reason.
        """
        gone = {s: r for s, r in reasons.items() if s in self._patient_of}
        slides = Counter(gone.values())
        of_patient: dict[str, Counter[str]] = defaultdict(Counter)
        for slide, reason in gone.items():
            of_patient[self._patient_of.pop(slide)][reason] += 1
        left = set(self._patient_of.values())
        patients: Counter[str] = Counter()
        for patient in sorted(set(of_patient) - left):
            patients[min(of_patient[patient], key=lambda r: (-of_patient[patient][r], r))] += 1
        if lonely is not None and self._lonely:
            patients[lonely] += len(self._lonely)
            slides.setdefault(lonely, 0)
            self._lonely = set()
        order = sorted(slides, key=lambda r: (-slides[r], -patients[r], r))
        self._append(step, [{"reason": r, "slides": slides[r], "patients": patients[r]} for r in order])

    def task(self, outcome: Outcome) -> None:
        """Count the patients of a task, and those without its outcome."""
        left = set(self._patient_of.values()) | self._lonely
        reasons = Counter(reason for patient, reason in outcome.excluded.items() if patient in left)
        self.tasks[outcome.name] = {
            "patients": sum(p in left for p in outcome.patient_ids),
            "events": int(outcome.event.sum()) if outcome.event is not None else None,
            "excluded": [{"reason": r, "patients": n} for r, n in sorted(reasons.items(), key=lambda i: (-i[1], i[0]))],
        }

    def index(self, step: str, index: pd.DataFrame, explain: Mapping[str, str] | None = None) -> None:
        """Leave out the slides whose `status` in a stage's index is not ``ok``; its `reason` is a code."""
        bad = index[index["status"] != "ok"]
        words = dict(explain or {})
        self.drop(step, {s: words.get(r, r) or "failed" for s, r in zip(bad["slide_id"], bad["reason"], strict=True)})

    @property
    def slides(self) -> list[str]:
        """Slides that are left, sorted."""
        return sorted(self._patient_of)

    @property
    def patients(self) -> list[str]:
        """Patients who are left, sorted."""
        return sorted(set(self._patient_of.values()) | self._lonely)

    def _append(self, step: str, excluded: list[dict[str, Any]]) -> None:
        self.steps.append(
            {"step": step, "slides": len(self._patient_of), "patients": len(self.patients), "excluded": excluded}
        )

    def as_dict(self) -> dict[str, Any]:
        """JSON-like: ``{steps: [{step, slides, patients, excluded: [{reason, slides, patients}]}], tasks: {}}``."""
        return {"steps": self.steps, "tasks": self.tasks}

    def write(self, path: str | Path) -> None:
        """Write `as_dict` as JSON."""
        write_json(path, self.as_dict())
