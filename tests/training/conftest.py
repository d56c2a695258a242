"""Real bags of TCGA for training tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from training.trainingdata import PackedBags


@pytest.fixture(scope="session")
def tcga_bags(shared_data: Path) -> Callable[..., tuple[PackedBags, dict[str, str]]]:
    """HIPT bags of cohorts by patient (slides concatenated), and the cohort of each patient."""
    import h5py

    def load(*cohorts: str) -> tuple[PackedBags, dict[str, str]]:
        slides: dict[str, list[tuple[str, np.ndarray]]] = {}
        cohort_of: dict[str, str] = {}
        for cohort in cohorts:
            with h5py.File(shared_data / "tcga" / "hipt_bags" / f"TCGA-{cohort}.h5") as source:
                features, offset, names = source["features"][:], source["offset"][:], source["slide_id"][:]
            for i, name in enumerate(names):
                patient = name.decode()[:12]
                slides.setdefault(patient, []).append((name.decode(), features[offset[i] : offset[i + 1]]))
                cohort_of[patient] = cohort
        bags = {p: np.concatenate([x for _, x in sorted(s, key=lambda e: e[0])]) for p, s in slides.items()}
        return PackedBags.of(bags), cohort_of

    return load
