"""Who has an annotated slide: the patients of a segmentation task."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from histostudy.cohort.outcomes import Outcome, outside
from histostudy.errors import TableError

if TYPE_CHECKING:
    import pandas as pd

    from histostudy.tasks import Segmentation

SUFFIX = ".geojson"


def annotation_of(task: Segmentation, slide_id: str) -> Path:
    """Where the annotations of a slide are looked for."""
    return task.annotations / f"{slide_id}{SUFFIX}"


def annotated_outcome(
    task: Segmentation, patients: pd.DataFrame, slides: pd.DataFrame, source: str | Path = "patients.csv"
) -> Outcome:
    """Patients with an annotated slide, as an outcome that folds can be drawn of; its `y` counts the slides.

    Parameters
    ----------
    task : Segmentation
    patients, slides : DataFrame
        Of the cohort.
    source : str or Path
        Name of the patient table, for messages.

    Raises
    ------
    TableError
        If no slide of the cohort has annotations, or a file of the folder is of no slide of the cohort.
    """
    import pandas as pd

    patients = patients.sort_values("patient_id", ignore_index=True)
    found = {path.name.removesuffix(SUFFIX) for path in task.annotations.glob(f"*{SUFFIX}")}
    drawn = slides[slides["slide_id"].isin(found)]
    if drawn.empty:
        known = f", such as {min(found)}{SUFFIX}" if found else ""
        raise TableError(
            f"none of {len(found)} files{known} is named <slide_id>{SUFFIX} for a slide of this cohort",
            where=task.annotations, todo="name each as its slide's slide_id",
        )  # fmt: skip
    excluded = outside(task, patients, source)
    have = drawn["patient_id"].value_counts()
    ids = patients["patient_id"].tolist()
    excluded |= {p: "no annotated slide" for p in ids if p not in have.index and p not in excluded}
    mine = np.array([p for p in ids if p not in excluded], dtype=object)
    nothing = pd.DataFrame(index=pd.Index(mine, name="patient_id", dtype="str"))
    return Outcome(task, mine, have.reindex(mine).to_numpy(float), nothing, excluded=excluded)
