"""Verbs that train and score the models of a study."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from histostudy.cohort.tables import ROW, read_table
from histostudy.errors import ConfigError
from histostudy.files import frame_to_json, write_json, write_table
from histostudy.training.runfolder import write_index
from histostudy.verbs.bags import load_bags
from histostudy.verbs.labelled import evaluate_tiles_of_study, train_tiles_of_study
from histostudy.verbs.pairs import load_pairs
from histostudy.verbs.segmentation import evaluate_segmentation_of_study, train_segmenter_of_study
from histostudy.verbs.tables import Tables, load_tables

if TYPE_CHECKING:
    import pandas as pd

    from histostudy.cohort.outcomes import Outcome
    from histostudy.evaluation.appendix import Beside
    from histostudy.features.bags import Bags

logger = logging.getLogger(__name__)


def load_splits(tables: Tables) -> pd.DataFrame:
    """The folds of a study; ids stay text."""
    import pandas as pd

    return pd.read_csv(tables.layout.home / "splits.csv", dtype={"patient_id": str})


def spot_bags(bags: Bags, tables: Tables, outcome: Outcome) -> Bags:
    """The tile of each spot as a bag of its own."""
    from histostudy.cohort.spots import read_spots
    from histostudy.features.spots import bags_of_spots

    wanted = set(outcome.patient_ids)
    spots = read_spots(str(tables.study.tiles.spots))
    return bags_of_spots(bags, spots[spots["spot_id"].isin(wanted)])


def splits_of_spots(splits: pd.DataFrame, outcome: Outcome) -> pd.DataFrame:
    """The folds of the patients as folds of their spots."""
    import pandas as pd

    spots = pd.DataFrame({"spot_id": list(outcome.patient_of), "patient_id": list(outcome.patient_of.values())})
    merged = splits.merge(spots, on="patient_id").drop(columns="patient_id")
    merged = merged.rename(columns={"spot_id": "patient_id"})[list(splits.columns)]
    return merged.sort_values(["repeat", "fold", "patient_id"], ignore_index=True)


def train_model_of_study(study_file: Path, task: str, model: str) -> None:
    """Train all runs of a model on a task; what still holds of an earlier call is kept."""
    tables = load_tables(study_file)
    study = tables.study
    if task not in tables.outcomes:
        raise ConfigError(f"no task {task!r}", where=study_file, todo=f"tasks: {', '.join(tables.outcomes)}")
    if model not in study.model_names(task):
        raise ConfigError(f"no model {model!r}", where=study_file, todo=f"models: {', '.join(study.model_names(task))}")
    splits = load_splits(tables)
    if (spec := study.task(task)).kind == "segmentation":
        train_segmenter_of_study(tables, spec, model, splits)
        return
    if spec.kind == "tile_classification":
        train_tiles_of_study(tables, spec, model, splits)
        return
    train_from_bags(tables, task, model, splits)


def train_from_bags(tables: Tables, task: str, model: str, splits: pd.DataFrame) -> None:
    """Train all runs of a model on a task of patients or spots: from bags of tiles, or from tables alone."""
    from histostudy.training.stage import looks_at_tiles, train_model

    study, outcome = tables.study, tables.outcomes[task]
    bags = load_bags(tables) if looks_at_tiles(study, model) else None
    if outcome.patient_of:
        bags = None if bags is None else spot_bags(bags, tables, outcome)
        splits = splits_of_spots(splits, outcome)
    folder = tables.layout.runs(task, model)
    sources = {t: tables.layout.runs(t, str(study.models[model].sources)) for t in study.source_tasks(model)}
    seen = study.models[model].modalities if model in study.models else []
    index = train_model(
        study, task, model, bags, outcome, splits, folder, modalities=tables.modalities if seen else {},
        sources=sources, pairs=load_pairs(tables, model),
    )  # fmt: skip
    write_index(folder, index, study.compare.timings)


def _beside(tables: Tables, task: str) -> Beside:
    """What the evaluation of a task needs beside its predictions."""
    from histostudy.cohort.spots import read_spots
    from histostudy.evaluation.appendix import Beside

    study, spec = tables.study, tables.study.task(task)
    places = centroids = survival = None
    if tables.outcomes[task].patient_of:
        spots = read_spots(str(study.tiles.spots))
        spots = spots[spots["spot_id"].isin(tables.outcomes[task].patient_of)]
        known = tables.features if "mpp" in tables.features else tables.cohort.slides
        mpp = spots["slide_id"].map(known.set_index("slide_id")["mpp"]).astype(float)
        if mpp.isna().any():
            slide = spots.loc[mpp.isna(), "slide_id"].iloc[0]
            raise ConfigError(f"slide {slide} has no mpp", where=study.cohort.slides, todo="give it in the column mpp")
        places = spots.assign(x_um=spots["x_px0"] * mpp, y_um=spots["y_px0"] * mpp)
    if spec.kind == "expression" and spec.subtypes:
        if spec.centroids is not None:
            table = read_table(spec.centroids, required=("gene",)).drop(columns=ROW)
            centroids = table.set_index("gene").astype(float)
        survival = next((o for o in tables.patient_outcomes if o.kind == "survival" and o.task.permute is None), None)
    return Beside(places, centroids, survival, study.untrained_twins())


def evaluate_task_of_study(study_file: Path, task: str) -> None:
    """Score a task: out-of-fold predictions, metrics with intervals, comparisons, curves."""
    tables = load_tables(study_file)
    if (spec := tables.study.task(task)).kind == "segmentation":
        evaluate_segmentation_of_study(tables, spec)
        return
    if spec.kind == "tile_classification":
        evaluate_tiles_of_study(tables, spec, load_splits(tables))
        return
    evaluate_from_bags(tables, task)


def evaluate_from_bags(tables: Tables, task: str) -> None:
    """Score a task of patients or spots."""
    from histostudy.evaluation.epochs import epoch_tables
    from histostudy.evaluation.runs import gather, pool_predictions
    from histostudy.evaluation.stage import evaluate_task

    study, layout, outcome = tables.study, tables.layout, tables.outcomes[task]
    predictions = {model: gather(layout.runs(task, model)) for model in study.model_names(task)}
    splits = load_splits(tables)
    if outcome.patient_of:
        splits = splits_of_spots(splits, outcome)
    # the study's reference may be a model of another kind of task
    reference = study.compare.model_copy(update={"reference": study.reference_of(task)})
    mine = study.model_copy(update={"compare": reference})
    scored = evaluate_task(mine, study.task(task), predictions, outcome, splits, _beside(tables, task))
    traced = {m: layout.runs(task, m) for m, spec in study.models.items() if spec.training.trace}
    scored.curves.update(epoch_tables(study, study.task(task), traced, outcome))
    for model, frame in predictions.items():
        write_table(layout.predictions(task, model), pool_predictions([frame]))
    write_table(layout.home / "metrics" / f"{task}.csv", scored.metrics)
    write_table(layout.home / "comparison" / f"{task}.csv", scored.comparison)
    write_json(layout.curves(task), {name: frame_to_json(frame) for name, frame in scored.curves.items()})
