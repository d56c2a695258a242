"""Verbs of tasks of labelled tiles: their vectors, the training of their models, their scores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from histostudy.errors import ConfigError, StudyError
from histostudy.files import frame_to_json, write_json, write_table
from histostudy.layout import Layout, shard_count
from histostudy.seeds import derive_seed
from histostudy.study import Model, Study
from histostudy.studyfile import load_study
from histostudy.tasks import TileClassification
from histostudy.training.runfolder import write_index
from histostudy.training.tile_classification.table import needs_pixels, read_tile_table, scale_of

if TYPE_CHECKING:
    import pandas as pd

    from histostudy.verbs.tables import Tables


def embed_labelled_of_study(study_file: Path, name: str) -> None:
    """Compute the vectors, mean colours and, where a model needs them, pixels of a task's labelled tiles."""
    from histostudy.training.tile_classification.embed import INDEX, embed_labelled
    from histostudy.verbs.slides import device_of, joined_shards, located
    from histostudy.verbs.tables import slides_of

    study = load_study(study_file)
    layout, task = Layout(study), _task(study, name)
    table = read_tile_table(task)
    slides = None
    if table.from_slides:
        if not study.has_slides:
            raise StudyError("its tiles are cut from slides", where=task.table, todo="give cohort.slides")
        ids = slides_of(study, layout)["slide_id"]
        shards = shard_count(len(ids), study.cohort.shard_size)
        slides = located(study, layout, joined_shards(layout, layout.slides, shards, ids))
    folder = layout.labelled(name)
    index = embed_labelled(
        table, scale_of(task, table, study.tiles), slides, study.features, folder, device=device_of(study.features),
        pixels=needs_pixels(study, name), max_failed=study.cohort.max_failed,
    )  # fmt: skip
    write_table(folder / INDEX, index)


def train_tiles_of_study(tables: Tables, task: TileClassification, model: str, splits: pd.DataFrame) -> None:
    """Train all runs of a model on a task of labelled tiles."""
    from histostudy.training.tile_classification.embed import load_labelled
    from histostudy.training.tile_classification.run import train_tiles

    study, layout = tables.study, tables.layout
    scale = scale_of(task, read_tile_table(task), study.tiles)
    tiles, folder = load_labelled(layout.labelled(task.name)), layout.runs(task.name, model)
    index = train_tiles(study, task.name, model, tiles, scale, tables.outcomes[task.name], splits, folder)
    write_index(folder, index, tables.study.compare.timings)


def evaluate_tiles_of_study(tables: Tables, task: TileClassification, splits: pd.DataFrame) -> None:
    """Score a task of labelled tiles, patients resampled with all their tiles."""
    from histostudy.evaluation.appendix import Beside
    from histostudy.evaluation.few_shot import few_shot_table
    from histostudy.evaluation.runs import gather, pool_predictions
    from histostudy.evaluation.stage import evaluate_task

    study, layout, outcome = tables.study, tables.layout, tables.outcomes[task.name]
    name, owners = task.name, outcome.patient_of
    predictions = {model: gather(layout.runs(name, model)) for model in study.model_names(name)}
    reference = study.compare.model_copy(update={"reference": study.reference_of(name)})
    mine = study.model_copy(update={"compare": reference})
    of_tiles = _splits_of_tiles(splits, owners)
    scored = evaluate_task(mine, outcome.task, predictions, outcome, of_tiles, Beside(owners=owners))
    drawn = {m: layout.runs(name, m) for m in predictions if m in study.models and study.models[m].classifier}
    scored.curves["few_shot"] = few_shot_table(
        drawn, predictions, outcome.classes, owners, resamples=study.compare.resamples,
        confidence=study.compare.confidence, seed=derive_seed(study.seed, "few_shot", name),
    )  # fmt: skip
    for model, frame in predictions.items():
        pooled = pool_predictions([frame]).rename(columns={"patient_id": "tile_id"})
        pooled.insert(1, "patient_id", pooled["tile_id"].map(owners))
        write_table(layout.predictions(name, model), pooled)
    write_table(layout.home / "metrics" / f"{name}.csv", scored.metrics)
    write_table(layout.home / "comparison" / f"{name}.csv", scored.comparison)
    write_json(layout.curves(name), {key: frame_to_json(frame) for key, frame in scored.curves.items()})


def check_labelled(study: Study) -> None:
    """Check the encoder's scale for every task of labelled tiles whose table is there already.

    Raises
    ------
    StudyError
        For features made elsewhere, stain normalisation, or an encoder off its scale.
    """
    from histostudy.encoders.registry import check_scale, facts_of
    from histostudy.training.tile_classification.embed import side_of

    features = study.features
    if features.precomputed is not None:
        raise ConfigError("labelled tiles have no features made elsewhere", todo="give features.encoder")
    if getattr(features, "stain", None) is not None:
        what = "features.stain is fitted to whole slides, and labelled tiles would be encoded without it"
        raise ConfigError(what, todo="leave it out, or normalise the images beforehand")
    for task in study.tasks:
        if not isinstance(task, TileClassification) or study.cohort.simulate is not None:
            continue
        table, facts = read_tile_table(task), facts_of(str(features.encoder))
        scale = scale_of(task, table, study.tiles)
        check_scale(facts, scale.mpp, side_of(table, scale), facts.input_px, features.allow_mpp_mismatch)


def check_classifier(study: Study, model: Model) -> None:
    """Check the options and the training of a model of labelled tiles.

    Raises
    ------
    StudyError
        For an unknown option, a value that cannot be, or fine-tuning of an encoder without weights.
    """
    from histostudy.encoders.registry import facts_of
    from histostudy.training.tile_classification.networks import check_training
    from histostudy.training.tile_classification.run import options_of

    classifier = str(model.classifier)
    options_of(classifier, model.options)
    check_training(model.training)
    if classifier == "finetune" and facts_of(str(study.features.encoder)).source == "builtin":
        raise ConfigError("the encoder builtin has no weights to tune", todo="name another features.encoder")


def _task(study: Study, name: str) -> TileClassification:
    found = [task for task in study.tasks if task.name == name and isinstance(task, TileClassification)]
    if not found:
        known = [task.name for task in study.tasks if isinstance(task, TileClassification)]
        raise ConfigError(f"no task of labelled tiles {name!r}", todo=f"the study has {', '.join(known) or 'none'}")
    return found[0]


def _splits_of_tiles(splits: pd.DataFrame, owners: dict[str, str]) -> pd.DataFrame:
    """The folds of the patients as folds of their tiles."""
    import pandas as pd

    tiles = pd.DataFrame({"tile_id": list(owners), "patient_id": list(owners.values())})
    merged = splits.merge(tiles, on="patient_id").drop(columns="patient_id")
    merged = merged.rename(columns={"tile_id": "patient_id"})[list(splits.columns)]
    return merged.sort_values(["repeat", "fold", "patient_id"], ignore_index=True)
