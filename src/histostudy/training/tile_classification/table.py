"""The table of labelled tiles: read and checked, the scale they are seen at, and the outcome it makes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from histostudy.cohort.columns import Columns
from histostudy.cohort.identifiers import check_id
from histostudy.cohort.outcomes import Outcome, outcome_of, outside
from histostudy.cohort.tables import ROW, number, read_table
from histostudy.errors import TableError, at

if TYPE_CHECKING:
    import pandas as pd

    from histostudy.study import Study, Tiles
    from histostudy.tasks import TileClassification

PLACES = ("slide_id", "x_px0", "y_px0")
#: Columns of a table that are no class.
OWN = ("tile_id", "patient_id", "path", *PLACES, "mpp", ROW)
#: The classifiers that learn from pixels.
OF_PIXELS = ("finetune", "dct_histotransformer")


@dataclass(frozen=True)
class TileTable:
    """Labelled tiles.

    Attributes
    ----------
    frame : DataFrame
        One row a tile, sorted by `tile_id`: `tile_id`, `patient_id`, `path` (empty where it is cut from a slide),
        `slide_id` (empty where it is an image), `x_px0`, `y_px0` (int64, top left), `mpp` (float; NaN where the row
        gives none), `table_row`, and the task's target as text.
    source : Path
        The file.
    from_slides : bool
        Whether tiles are cut from slides.
    """

    frame: pd.DataFrame
    source: Path
    from_slides: bool

    @property
    def files(self) -> list[Path]:
        """The images, in the order of the rows; none of slides."""
        return [] if self.from_slides else [Path(path) for path in self.frame["path"]]


@dataclass(frozen=True)
class Scale:
    """How tiles are seen.

    Attributes
    ----------
    mpp : float
        Micrometres per pixel.
    size : int or None
        Side, px; None: that of the images, which must be one.
    """

    mpp: float
    size: int | None


def needs_pixels(study: Study, task: str) -> bool:
    """Whether a model of a task learns from pixels."""
    models = [study.models[name] for name in study.model_names(task) if name in study.models]
    return any(model.classifier in OF_PIXELS for model in models)


def read_tile_table(task: TileClassification) -> TileTable:
    """Read and check the table of a task.

    Raises
    ------
    TableError
        Naming file, row and column: a column that is missing, a tile listed twice, an image that is not there, a
        place or a scale that is no number.
    """
    import pandas as pd

    path = Path(task.table)
    if task.target in OWN:
        what = f"the target of task {task.name!r} is {task.target!r}, a column that says which tile it is"
        raise TableError(what, where=path, todo="give the class a column of its own")
    table = read_table(path, required=("tile_id", "patient_id", task.target))
    from_slides = "path" not in table
    if from_slides and (lacking := [name for name in PLACES if name not in table]):
        todo = "give path (an image a tile), or slide_id, x_px0 and y_px0 (cut from the cohort's slides)"
        raise TableError(f"no column {lacking[0]!r}", where=path, todo=todo)
    for column in ("tile_id", "patient_id", *(PLACES[:1] if from_slides else ("path",))):
        for value, row in zip(table[column], table[ROW], strict=True):
            if not isinstance(value, str):
                raise TableError(f"no {column}", where=at(path, row=int(row), column=column), todo="fill it in")
            if column != "path":
                check_id(value, path, int(row), column)
    again = table["tile_id"].duplicated()
    if again.any():
        row = table[again].iloc[0]
        where = at(path, row=int(row[ROW]), column="tile_id")
        raise TableError(
            f"tile {row['tile_id']!r} is there twice", where=where, todo="give every tile a name of its own"
        )
    frame = pd.DataFrame({name: table[name].astype(str) for name in ("tile_id", "patient_id")})
    frame["path"], frame["slide_id"] = "", ""
    frame["x_px0"], frame["y_px0"], frame["mpp"] = 0, 0, math.nan
    if from_slides:
        frame["slide_id"] = table["slide_id"].astype(str)
        for column in PLACES[1:]:
            frame[column] = np.rint(_numbers(table, column, path)).astype(np.int64)
    else:
        frame["path"] = [_image(cell, path, row) for cell, row in zip(table["path"], table[ROW], strict=True)]
        if "mpp" in table:
            frame["mpp"] = _numbers(table, "mpp", path, missing=True)
            for row in table.loc[frame["mpp"] <= 0, ROW].tolist()[:1]:
                raise TableError(
                    "an mpp that is not above 0", where=at(path, row=int(row), column="mpp"), todo="mend it"
                )
    frame[task.target], frame[ROW] = table[task.target], table[ROW]
    return TileTable(frame.sort_values("tile_id", ignore_index=True), path, from_slides)


def scale_of(task: TileClassification, table: TileTable, tiles: Tiles) -> Scale:
    """The scale a task's tiles are seen at.

    Raises
    ------
    TableError
        If images say no scale, or several of which the task chooses none.
    """
    if table.from_slides:
        return Scale(task.mpp or tiles.mpp, task.size or tiles.size)
    given = table.frame["mpp"]
    if task.mpp is not None:
        return Scale(task.mpp, task.size)
    if given.isna().any():
        row = int(table.frame.loc[given.isna(), ROW].iloc[0])
        todo = f"give the column mpp (um per pixel of each image), or mpp of task {task.name}"
        raise TableError("an image without a scale", where=at(table.source, row=row, column="mpp"), todo=todo)
    known = sorted(set(given))
    if len(known) > 1:
        todo = f"give mpp of task {task.name}: all are brought to it"
        what = f"images of {len(known)} scales, from {known[0]:g} to {known[-1]:g} um per pixel"
        raise TableError(what, where=at(table.source, column="mpp"), todo=todo)
    return Scale(float(known[0]), task.size)


def tile_outcome(task: TileClassification, table: TileTable, patients: pd.DataFrame, source: str) -> Outcome:
    """The classes of the tiles of a cohort's patients; `patient_of` says whose each tile is.

    Its task is the classification that the tiles' task is scored as, so that all that is made for classes of patients
    serves those of tiles.

    Parameters
    ----------
    task : TileClassification
    table : TileTable
        Its tiles; those of patients who are not in the cohort are left out.
    patients : DataFrame
        The cohort's patients, with the columns of the task's `where`.
    source : str
        Name of the patient table, for messages.

    Raises
    ------
    TableError
        If no tile is left, or they are of one class.
    """
    known, asked = Columns(patients.reset_index(drop=True), source), task.as_classification()
    frame = table.frame[table.frame["patient_id"].isin(known.ids)]
    if not len(frame):
        first = table.frame["patient_id"].iloc[0]
        todo = f"compare the ids: the tiles are of {first}, the patients {', '.join(known.ids[:2])}"
        raise TableError(f"no tile of task {task.name!r} is of a patient of the cohort", where=table.source, todo=todo)
    others = outside(asked, known.table, source)  # here, since a column of patients may have the target's name
    owner = dict(zip(frame["tile_id"], frame["patient_id"], strict=True))
    excluded = {tile: others[patient] for tile, patient in owner.items() if patient in others}
    units = frame.loc[~frame["patient_id"].isin(others), ["tile_id", task.target, ROW]]
    if not len(units):
        what = f"no tile of task {task.name!r} is of a patient its `where` asks for"
        raise TableError(what, where=table.source, todo="correct `where`")
    units = units.rename(columns={"tile_id": "patient_id"})
    outcome = outcome_of(asked.model_copy(update={"where": {}}), units, table.source)
    return replace(
        outcome, task=asked, excluded=excluded | outcome.excluded,
        patient_of={tile: owner[tile] for tile in outcome.patient_ids},
    )  # fmt: skip


def strata_outcomes(outcome: Outcome) -> list[Outcome]:
    """What folds of patients balance so that each has tiles of every class: who has tiles of a class.

    One classification where every patient has tiles of one class; else one a class, of having any. A class that all
    patients have needs no balance.

    Raises
    ------
    TableError
        For a class of one patient, who cannot be both trained on and tested.
    """
    import pandas as pd

    patients = np.array(sorted(set(outcome.patient_of.values())), dtype=object)
    place = {patient: i for i, patient in enumerate(patients)}
    rows = np.array([place[outcome.patient_of[tile]] for tile in outcome.patient_ids])
    has = np.zeros((len(patients), len(outcome.classes)), bool)
    has[rows, outcome.y.astype(int)] = True
    for name, count in zip(outcome.classes, has.sum(0), strict=True):
        if count < 2:
            what = f"task {outcome.name!r}: tiles of class {name!r} are all of one patient"
            raise TableError(what, todo="who cannot be both trained on and tested: merge the class, or leave it empty")
    nothing = pd.DataFrame(index=pd.Index(patients.astype(str)))
    plain = replace(outcome, patient_ids=patients, adjust=nothing, patient_of={}, excluded={})
    if (has.sum(1) == 1).all():
        return [replace(plain, y=has.argmax(1).astype(float))]
    out = []
    for k, name in enumerate(outcome.classes):
        if has[:, k].sum() < len(patients) - 1:
            named = outcome.task.model_copy(update={"name": f"{outcome.name} {name}"})
            out.append(replace(plain, task=named, y=has[:, k].astype(float), classes=["no", "yes"]))
    return out


def _numbers(table: pd.DataFrame, column: str, path: Path, *, missing: bool = False) -> np.ndarray:
    cells = zip(table[column], table[ROW], strict=True)
    found = [
        math.nan if missing and not isinstance(cell, str) else number(str(cell), path, int(row), column)
        for cell, row in cells
    ]
    return np.array(found, dtype=np.float64)


def _image(cell: str, table: Path, row: int) -> str:
    beside = table.parent / cell
    found = beside if beside.exists() else Path(cell)
    if not found.is_file():
        todo = "paths are relative to the table's own folder, then to here"
        raise TableError(f"no image {cell}", where=at(table, row=int(row), column="path"), todo=todo)
    return str(found)
