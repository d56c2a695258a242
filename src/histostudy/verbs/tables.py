"""The tables of a study: read and checked once for all verbs; their summary; the folds."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from histostudy.cohort.outcomes import Outcome, outcome_of
from histostudy.cohort.tables import ROW, Cohort, read_cohort
from histostudy.errors import TableError, at
from histostudy.files import write_json, write_table
from histostudy.layout import Layout
from histostudy.splits.folds import make_splits
from histostudy.study import Study, load_study

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)


@dataclass
class Tables:
    """A study with its tables: patients are those with at least one slide that has features.

    Parameters
    ----------
    study : Study
        The resolved study.
    layout : Layout
        Its paths.
    cohort : Cohort
        Slides and patients, joined; its flow counts those left out.
    features : DataFrame
        Index of the features, one row a slide of the cohort.
    outcomes : dict
        Task name to outcome.
    """

    study: Study
    layout: Layout
    cohort: Cohort
    features: pd.DataFrame
    outcomes: dict[str, Outcome]

    @property
    def patients(self) -> pd.DataFrame:
        """Patients of the study."""
        return self.cohort.patients

    @property
    def good(self) -> pd.DataFrame:
        """Rows of the slides that have features."""
        return self.features[self.features["status"] == "ok"]


def read(study: Study, layout: Layout) -> Cohort:
    """Read, check and join the tables of a study."""
    return read_cohort(layout.slides_csv, layout.patients_csv)


def slides_of(study: Study, layout: Layout) -> pd.DataFrame:
    """Slide rows of a study: those that are not excluded and whose patient is known."""
    return read(study, layout).slides


def check_tables(study: Study, layout: Layout) -> pd.DataFrame:
    """Check everything about the tables that can be checked before any work starts; returns the slides.

    Raises
    ------
    TableError
        One line naming file, row and column.
    """
    cohort = read(study, layout)
    outcomes = [outcome_of(task, cohort.patients, cohort.source) for task in study.tasks]
    if study.tasks:
        make_splits(cohort.patients, outcomes, study.splits, study.seed, slides=cohort.slides)
    if study.features.precomputed is None:
        for row in cohort.slides.to_dict("records"):
            if not row["path"] or not Path(row["path"]).exists():
                raise TableError(
                    f"no slide file {row['path']}" if row["path"] else "no path",
                    where=at(layout.slides_csv, row=int(row[ROW]), column="path"),
                    todo="mend the path, or write why in the column `exclude`",
                )
    return cohort.slides


def load_tables(study_file: Path) -> Tables:
    """Read a study with its tables and the index of its features."""
    import pandas as pd

    from histostudy.slides.status import REASONS

    study = load_study(study_file)
    layout = Layout(study)
    cohort = read(study, layout)
    features = pd.read_parquet(layout.features_table)
    features = features[features["slide_id"].isin(cohort.slides["slide_id"])].reset_index(drop=True)
    cohort.flow.index("slides with features", features, REASONS)
    kept = set(features.loc[features["status"] == "ok", "patient_id"])
    patients = cohort.patients[cohort.patients["patient_id"].isin(kept)].reset_index(drop=True)
    cohort = Cohort(cohort.slides, patients, cohort.flow, cohort.source)
    outcomes = {task.name: outcome_of(task, patients, cohort.source) for task in study.tasks}
    for outcome in outcomes.values():
        cohort.flow.task(outcome)
    return Tables(study, layout, cohort, features, outcomes)


def summarise(study_file: Path) -> None:
    """Write the flow of exclusions and Table 1."""
    from histostudy.cohort.table_one import table_one

    tables = load_tables(study_file)
    write_json(tables.layout.home / "cohort_flow.json", tables.cohort.flow.as_dict())
    write_table(tables.layout.home / "table_one.csv", table_one(tables.patients, list(tables.outcomes.values())))


def split_study(study_file: Path) -> None:
    """Draw or read the folds, audit them, and write both."""
    from histostudy.splits.audit import audit

    tables = load_tables(study_file)
    outcomes = list(tables.outcomes.values())
    splits = make_splits(tables.patients, outcomes, tables.study.splits, tables.study.seed, slides=tables.cohort.slides)
    write_table(tables.layout.home / "splits.csv", splits)
    checked = audit(splits, tables.patients, tables.cohort.slides, outcomes, tables.study.splits.preserve)
    write_json(tables.layout.home / "leakage.json", checked)
