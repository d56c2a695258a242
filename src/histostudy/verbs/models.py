"""Verbs that train and score the models of a study."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from histostudy.errors import ConfigError
from histostudy.files import frame_to_json, write_json, write_table
from histostudy.log import progress
from histostudy.stages import as_written
from histostudy.study import CONTROLS
from histostudy.verbs.tables import Tables, load_tables

if TYPE_CHECKING:
    import pandas as pd

    from histostudy.features.bags import Bags

logger = logging.getLogger(__name__)


def load_splits(tables: Tables) -> pd.DataFrame:
    """The folds of a study; ids stay text."""
    import pandas as pd

    return pd.read_csv(tables.layout.home / "splits.csv", dtype={"patient_id": str})


def load_bags(tables: Tables) -> Bags:
    """The features of every patient of a study, slides in the order of their ids."""
    from histostudy.features.bags import Bags

    good = tables.good.set_index("slide_id")
    patients = good["patient_id"].to_dict()
    features = tables.study.features
    if features.precomputed is None:
        paths = {slide: tables.layout.features / name for slide, name in good["file"].items()}
    else:
        paths = {slide: Path(path) for slide, path in good["path"].items()}
    for slide, path in progress(paths.items(), "checking features", total=len(paths)):
        as_written(path, good.loc[slide, "sha256"])
    scales = tables.cohort.slides.set_index("slide_id")["mpp"].dropna().to_dict()
    return Bags.load(paths, patients, layout="auto" if features.precomputed is None else features.layout, mpp=scales)


def train_model_of_study(study_file: Path, task: str, model: str) -> None:
    """Train all runs of a model on a task; what still holds of an earlier call is kept."""
    from histostudy.training.stage import train_model

    tables = load_tables(study_file)
    study = tables.study
    if task not in tables.outcomes:
        raise ConfigError(f"no task {task!r}", where=study_file, todo=f"tasks: {', '.join(tables.outcomes)}")
    if model not in study.model_names(task):
        raise ConfigError(f"no model {model!r}", where=study_file, todo=f"models: {', '.join(study.model_names(task))}")
    bags = None if model in CONTROLS else load_bags(tables)
    folder = tables.layout.runs(task, model)
    index = train_model(study, task, model, bags, tables.outcomes[task], load_splits(tables), folder)
    write_table(folder / "runs.parquet", index)


def evaluate_task_of_study(study_file: Path, task: str) -> None:
    """Score a task: out-of-fold predictions, metrics with intervals, comparisons, curves."""
    from histostudy.evaluation.runs import gather, pool_predictions
    from histostudy.evaluation.stage import evaluate_task

    tables = load_tables(study_file)
    study, layout = tables.study, tables.layout
    predictions = {model: gather(layout.runs(task, model)) for model in study.model_names(task)}
    scored = evaluate_task(study, study.task(task), predictions, tables.outcomes[task], load_splits(tables))
    for model, frame in predictions.items():
        write_table(layout.predictions(task, model), pool_predictions([frame]))
    write_table(layout.home / "metrics" / f"{task}.csv", scored.metrics)
    write_table(layout.home / "comparison" / f"{task}.csv", scored.comparison)
    write_json(layout.curves(task), {name: frame_to_json(frame) for name, frame in scored.curves.items()})
