"""Who has an annotated slide: the patients of a segmentation task."""

from __future__ import annotations

from collections.abc import Iterable
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


def _names(task: Segmentation) -> set[str]:
    files = (path.name for path in task.annotations.glob(f"*{SUFFIX}"))
    return {name.removesuffix(SUFFIX) for name in files if not name.startswith(".")}


def check_strays(task: Segmentation, slide_ids: Iterable[str]) -> None:
    """Refuse annotations that nobody would miss.

    Parameters
    ----------
    task : Segmentation
    slide_ids : iterable of str
        All of the slide table, those that are left out of the cohort too.

    Raises
    ------
    TableError
        If a file of the folder is named after none of them.
    """
    if stray := sorted(_names(task) - set(slide_ids)):
        more = f" (nor are {len(stray) - 1} more)" if len(stray) > 1 else ""
        raise TableError(
            f"task {task.name}: {stray[0]}{SUFFIX} is of no slide of the slide table{more}", where=task.annotations,
            todo="name it as its slide's slide_id, or move it elsewhere",
        )  # fmt: skip


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
        If no slide of the cohort has annotations. Files of no slide at all are refused by `check_strays`.
    """
    import pandas as pd

    patients = patients.sort_values("patient_id", ignore_index=True)
    found = _names(task)
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
