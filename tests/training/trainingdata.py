"""Bags, folds and outcomes for training tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histostudy.cohort.outcomes import Outcome
from histostudy.study import Study
from histostudy.studyfile import parse_study


@dataclass
class PackedBags:
    """What training reads of `histostudy.features.bags.Bags`."""

    features: np.ndarray
    offsets: np.ndarray
    patient_ids: list[str]
    positions: str = "unknown"
    digest: str | None = None
    coarser: None = None
    scales: None = None

    @classmethod
    def of(cls, bags: dict[str, np.ndarray]) -> PackedBags:
        ids = sorted(bags)
        offsets = np.cumsum([0, *(len(bags[p]) for p in ids)])
        return cls(np.concatenate([bags[p] for p in ids]).astype("float32"), offsets, ids)

    def bag(self, patient_id: str) -> np.ndarray:
        i = self.patient_ids.index(patient_id)
        return self.features[self.offsets[i] : self.offsets[i + 1]]


def study_of(task: dict[str, Any], models: dict[str, Any], tmp_path: Path, seed: int = 0) -> Study:
    """A study of one task; its tables are never read."""
    return parse_study(
        {
            "study": "test",
            "seed": seed,
            "cohort": {"name": "test", "simulate": {}},
            "tasks": [task],
            "models": models,
        }  # fmt: skip
    )


def folds_of(ids: list[str], strata: np.ndarray, folds: int = 5, inner: float = 0.2, seed: int = 0) -> pd.DataFrame:
    """Stratified folds of patients with an inner part."""
    from sklearn.model_selection import StratifiedKFold, train_test_split

    rows = []
    every = np.array(ids, dtype=object)
    cut = StratifiedKFold(folds, shuffle=True, random_state=seed)
    for fold, (rest, test) in enumerate(cut.split(every, strata)):
        train, val = train_test_split(rest, test_size=inner, random_state=seed, stratify=strata[rest])
        for part, chosen in (("train", train), ("val", val), ("test", test)):
            rows += [{"repeat": 0, "fold": fold, "patient_id": every[i], "part": part} for i in chosen]
    return pd.DataFrame(rows)


def outcome_for(study: Study, ids: list[str], **values: Any) -> Outcome:
    """An outcome of the study's first task."""
    adjust = values.pop("adjust", pd.DataFrame(index=pd.Index(ids)))
    y = values.pop("y", values.get("time"))
    return Outcome(
        task=study.tasks[0], patient_ids=np.array(ids, dtype=object), y=np.asarray(y), adjust=adjust, **values
    )


def planted_bags(
    n: int, seed: int, share: float = 0.15, shift: float = 2.5
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Bags of noise; in half of them some tiles carry a signal in the first two of 12 dimensions."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    bags = {}
    for i in range(n):
        x = rng.normal(size=(rng.integers(10, 30), 12))
        if y[i]:
            x[: max(1, int(share * len(x))), :2] += shift
        bags[f"p{i:03d}"] = x
    return bags, y
