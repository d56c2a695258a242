"""The verb that tries a model's runs on every survival task of its study."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from histostudy.errors import ConfigError
from histostudy.files import write_table
from histostudy.log import progress
from histostudy.training.runfolder import FILES, as_trained
from histostudy.verbs.bags import load_bags
from histostudy.verbs.models import load_splits
from histostudy.verbs.tables import load_tables

logger = logging.getLogger(__name__)


def transfer_model(study_file: Path, model: str) -> None:
    """Predict the test patients of every survival task by the runs of every other, fold by fold, and score them.

    Nobody who is tested in a fold trained any of its runs: folds are of the study's patients, whatever the task.
    """
    import pandas as pd

    from histostudy.evaluation.runs import resampling
    from histostudy.evaluation.transfer import transfer
    from histostudy.models.io import load_model
    from histostudy.seeds import derive_seed
    from histostudy.training.loop import raw_predictions
    from histostudy.training.tilestore import TileStore

    tables = load_tables(study_file)
    study = tables.study
    if model not in study.compare.transfer:
        raise ConfigError(f"model {model!r} is not under compare.transfer", where=study_file, todo="add it there")
    tasks = [task.name for task in study.tasks if task.kind == "survival"]
    store, splits = TileStore.of(load_bags(tables)), load_splits(tables)
    known = set(store.patient_ids)
    frames = []
    for (repeat, fold), rows in progress(list(splits.groupby(["repeat", "fold"], sort=True)), f"transfer of {model}"):
        tested = set(rows.loc[rows["part"] == "test", "patient_id"])
        for source in tasks:
            network, _ = load_model(as_trained(tables.layout.runs(source, model) / f"r{repeat}f{fold}", FILES[0]))
            mine = store.means() if network.aggregator.linear else store
            for target in tasks:
                outcome = tables.outcomes[target]
                ids = [p for p in outcome.patient_ids if p in tested and p in known]
                if not ids:
                    continue
                place, raw = outcome.rows(ids), raw_predictions(network, mine, mine.rows(ids))
                frame = pd.DataFrame({"patient_id": ids, "risk": network.head.predict(raw)["risk"]})
                assert outcome.time is not None and outcome.event is not None
                frame["time"], frame["event"] = outcome.time[place], outcome.event[place]
                frames.append(frame.assign(source=source, target=target, repeat=int(repeat), fold=int(fold)))
    risks = pd.concat(frames, ignore_index=True)
    patients: dict[str, list[str]] = {}
    weights: dict[str, np.ndarray] = {}
    for target, mine in risks.groupby("target"):
        seed = derive_seed(study.seed, "bootstrap", target)  # as in the task's own evaluation
        one = mine[mine["source"] == mine["source"].iloc[0]]
        once, weights[str(target)] = resampling(one, study.compare.resamples, seed)
        patients[str(target)] = once["patient_id"].tolist()
    write_table(tables.layout.transfer(model), transfer(risks, patients, weights, study.compare.confidence))
