"""Verbs of the tasks that are learned in sequence."""

from __future__ import annotations

from pathlib import Path

from histostudy.errors import ConfigError
from histostudy.files import write_table
from histostudy.training.runfolder import write_index
from histostudy.verbs.bags import load_bags
from histostudy.verbs.models import load_splits
from histostudy.verbs.tables import load_tables


def learn_sequence(study_file: Path, model: str) -> None:
    """Train a model on the study's sequence of tasks, all folds; what still holds of an earlier call is kept."""
    from histostudy.training.continual.sequence import SequenceModel, train_sequence

    tables = load_tables(study_file)
    study = tables.study
    if model not in study.learners:
        known = ", ".join(study.learners) or "none"
        raise ConfigError(f"no model {model!r} with continual", where=study_file, todo=f"models: {known}")
    spec = study.models[model]
    assert spec.continual is not None
    folder = tables.layout.runs("sequence", model)
    index = train_sequence(
        study.seed, model, SequenceModel(spec.continual, spec.training, spec.options),
        [tables.outcomes[name] for name in study.sequence], load_bags(tables), load_splits(tables), folder,
    )  # fmt: skip
    write_index(folder, index, study.compare.timings)


def evaluate_sequence_of_study(study_file: Path) -> None:
    """Score the sequence: accuracy matrices, forgetting, transfer, comparisons."""
    from histostudy.evaluation.continual import TaskClasses, evaluate_sequence, prior_predictions
    from histostudy.evaluation.runs import gather
    from histostudy.seeds import derive_seed

    tables = load_tables(study_file)
    study, layout = tables.study, tables.layout
    sequence = [tables.outcomes[name] for name in study.sequence]
    predictions = {model: gather(layout.runs("sequence", model)) for model in study.learners}
    tested = next(iter(predictions.values()))["patient_id"].unique().tolist()
    predictions = {"prior": prior_predictions(sequence, load_splits(tables), tested)} | predictions
    compared = study.compare
    scored = evaluate_sequence(
        predictions, [TaskClasses(o.name, tuple(o.classes)) for o in sequence],
        seed=derive_seed(study.seed, "bootstrap", "sequence"), resamples=compared.resamples,
        confidence=compared.confidence, reference=compared.sequence, correction=compared.correction,
    )  # fmt: skip
    for name, table in scored._asdict().items():
        write_table(layout.sequence(name), table)
