"""The tables of a study: read and checked once for all verbs; their summary; the folds."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from histostudy.cohort.annotated import annotated_outcome
from histostudy.cohort.foreign import ForeignPredictions
from histostudy.cohort.modalities import ModalityTable, read_modalities
from histostudy.cohort.outcomes import Outcome, outcome_of, spot_outcome
from histostudy.cohort.spots import read_spots
from histostudy.cohort.tables import Cohort, read_cohort
from histostudy.errors import SplitError
from histostudy.files import write_json, write_table
from histostudy.layout import Layout
from histostudy.splits.folds import make_splits
from histostudy.study import Study
from histostudy.studyfile import load_study
from histostudy.tiles.spots import in_slide
from histostudy.training.tile_classification.table import read_tile_table, strata_outcomes, tile_outcome

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
        Task name to outcome; of a task at the level of spots, that of the spots.
    """

    study: Study
    layout: Layout
    cohort: Cohort
    features: pd.DataFrame
    outcomes: dict[str, Outcome]

    @cached_property
    def modalities(self) -> dict[str, ModalityTable]:
        """Tables beside the slides, by name; read when they are asked for, which few jobs do."""
        study, cohort = self.study, self.cohort
        return read_modalities(study.modalities, cohort.patients, cohort.source, study.outcome_columns())

    @property
    def patient_outcomes(self) -> list[Outcome]:
        """Outcomes of patients, which the folds are balanced by."""
        return [outcome for outcome in self.outcomes.values() if not outcome.patient_of]

    @property
    def balanced(self) -> list[Outcome]:
        """What the folds balance: outcomes of patients, and who has labelled tiles of which class."""
        return balanced_outcomes(self.study, self.outcomes)

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
    outcomes = outcomes_of(study, cohort)
    read_modalities(study.modalities, cohort.patients, cohort.source, study.outcome_columns())
    of_patients = [outcome for outcome in outcomes.values() if not outcome.patient_of]
    if study.tasks:
        balanced = balanced_outcomes(study, outcomes)
        splits = make_splits(
            cohort.patients, balanced, study.splits, study.seed, slides=cohort.slides, source=cohort.source
        )
        for outcome in balanced:
            check_folds(outcome, splits)
        for path in [model.predictions for model in study.models.values() if model.predictions is not None]:
            for outcome in of_patients:
                ForeignPredictions(path, outcome).check(splits)
    return cohort.slides


def check_folds(outcome: Outcome, splits: pd.DataFrame) -> None:
    """Refuse folds in which a task cannot be trained; one that tests nobody of it is passed over in training.

    Raises
    ------
    SplitError
        If no fold tests a patient of the task, or a training part has none of its patients, or no event.
    """
    known = set(outcome.patient_ids)
    events = set(outcome.patient_ids[outcome.event]) if outcome.event is not None else known
    mine = splits[splits["patient_id"].isin(known)]
    tested = mine[mine["part"] == "test"]
    if tested.empty:
        raise SplitError(f"task {outcome.name}: no fold tests any of its patients", todo="check the folds and `where`")
    for (repeat, fold), _ in tested.groupby(["repeat", "fold"], sort=True):
        run = mine[(mine["repeat"] == repeat) & (mine["fold"] == fold)]
        if not set(run.loc[run["part"] == "train", "patient_id"]) & events:
            raise SplitError(
                f"task {outcome.name}: no {'event' if outcome.event is not None else 'patient'} in the training part "
                f"of repeat {repeat} fold {fold}",
                todo="use fewer folds, or other ones",
            )


def spots_with_tiles(spots: pd.DataFrame, index: pd.DataFrame) -> pd.DataFrame:
    """Spots around which a tile lies in a slide that has features: no model could predict the others."""
    facts = index[index["status"] == "ok"].set_index("slide_id")
    spots = spots[spots["slide_id"].isin(facts.index)]
    if "size_px0" not in facts:  # another tool's features: its tiles are where it says
        return spots
    mine = facts.loc[spots["slide_id"]]
    kept = in_slide(spots[["x_px0", "y_px0"]].to_numpy(), mine["size_px0"], mine["width_px0"], mine["height_px0"])
    if not kept.all():
        logger.warning("%d of %d spots lie too near the edge for a tile and are left out", (~kept).sum(), len(kept))
    return spots[kept]


def balanced_outcomes(study: Study, outcomes: Mapping[str, Outcome]) -> list[Outcome]:
    """Outcomes that folds of patients balance; of labelled tiles, of having tiles of each class."""
    tiles = {task.name for task in study.tasks if task.kind == "tile_classification"}
    found: list[Outcome] = []
    for name, outcome in outcomes.items():
        if name in tiles:
            found += strata_outcomes(outcome)
        elif not outcome.patient_of:
            found.append(outcome)
    return found


def outcomes_of(study: Study, cohort: Cohort, index: pd.DataFrame | None = None) -> dict[str, Outcome]:
    """Outcomes of all tasks, of patients or of spots; with an `index` of features, of the spots that have a tile."""
    out = {}
    for task in study.tasks:
        if task.kind == "expression" and task.level == "spot":
            slides = dict(zip(cohort.slides["slide_id"], cohort.slides["patient_id"], strict=True))
            spots = read_spots(str(study.tiles.spots))
            out[task.name] = spot_outcome(task, spots if index is None else spots_with_tiles(spots, index), slides)
        elif task.kind == "segmentation":
            out[task.name] = annotated_outcome(task, cohort.patients, cohort.slides, cohort.source)
        elif task.kind == "tile_classification":
            out[task.name] = tile_outcome(task, read_tile_table(task), cohort.patients, cohort.source)
        else:
            out[task.name] = outcome_of(task, cohort.patients, cohort.source)
    return out


def load_tables(study_file: Path) -> Tables:
    """Read a study with its tables and the index of its features."""
    import pandas as pd

    from histostudy.slides.status import REASONS

    study = load_study(study_file)
    layout = Layout(study)
    cohort = read(study, layout)
    if not study.uses_tissue:
        index = pd.DataFrame({"slide_id": [], "patient_id": [], "status": [], "reason": [], "file": []}, dtype="str")
        return _with_outcomes(Tables(study, layout, cohort, index, {}))
    features = pd.read_parquet(layout.features_table)
    features = features[features["slide_id"].isin(cohort.slides["slide_id"])].reset_index(drop=True)
    cohort.flow.index("slides with features", features, REASONS)
    kept = set(features.loc[features["status"] == "ok", "patient_id"])
    patients = cohort.patients[cohort.patients["patient_id"].isin(kept)].reset_index(drop=True)
    cohort = Cohort(cohort.slides, patients, cohort.flow, cohort.source)
    return _with_outcomes(Tables(study, layout, cohort, features, {}))


def _with_outcomes(tables: Tables) -> Tables:
    """Read the outcomes, count their patients in the flow, and those without a modality."""
    tables.outcomes.update(outcomes_of(tables.study, tables.cohort, tables.features))
    for outcome in tables.patient_outcomes:
        tables.cohort.flow.task(outcome)
    return tables


def summarise(study_file: Path) -> None:
    """Write the flow of exclusions and Table 1."""
    from histostudy.cohort.table_one import table_one

    tables = load_tables(study_file)
    write_json(tables.layout.home / "cohort_flow.json", tables.cohort.flow.as_dict())
    write_table(tables.layout.home / "table_one.csv", table_one(tables.patients, tables.patient_outcomes))
    if tables.modalities:
        write_table(tables.layout.home / "tables" / "modalities.csv", modality_counts(tables))


def modality_counts(tables: Tables) -> pd.DataFrame:
    """Who has each modality: modality, columns, groups, patients, missing, and `missing_<task>` of each task's."""
    import pandas as pd

    rows = []
    for name, table in tables.modalities.items():
        have = set(table.patient_ids)
        row: dict[str, object] = {"modality": name, "columns": len(table.columns), "groups": len(table.groups)}
        row |= {"patients": len(have & set(tables.patients["patient_id"]))}
        row |= {"missing": len(set(tables.patients["patient_id"]) - have)}
        row |= {f"missing_{o.name}": len(set(o.patient_ids) - have) for o in tables.patient_outcomes}
        rows.append(row)
    return pd.DataFrame(rows)


def split_study(study_file: Path) -> None:
    """Draw or read the folds, audit them, and write both."""
    from histostudy.splits.audit import audit

    tables = load_tables(study_file)
    outcomes = tables.balanced
    splits = make_splits(tables.patients, outcomes, tables.study.splits, tables.study.seed, slides=tables.cohort.slides)
    write_table(tables.layout.home / "splits.csv", splits)
    checked = audit(splits, tables.patients, tables.cohort.slides, outcomes, tables.study.splits.preserve)
    write_json(tables.layout.home / "leakage.json", checked)
