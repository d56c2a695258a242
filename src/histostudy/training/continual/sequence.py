"""All runs of one model on a sequence of tasks: in every fold the tasks are learned one after the other.

After each task the test part of every task is predicted, those of tasks not learned yet too; the truth meets the
predictions when the sequence is over, so that nothing that is learned later can come from it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histostudy.codeversion import code_version
from histostudy.continual_keys import CoMEL, ConSlide, Continual
from histostudy.errors import ConfigError, ModelError
from histostudy.files import digest_of, sha256, write_table
from histostudy.log import progress
from histostudy.seeds import derive_seed
from histostudy.tasks import EVALUATED_ONLY
from histostudy.training.runfolder import FILES, digest_of_arrays, forget, kept, write_record

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from histostudy.cohort.outcomes import Outcome
    from histostudy.features.bags import Bags
    from histostudy.study import Training
    from histostudy.training.continual.learner import Classes, Learner, Part
    from histostudy.training.continual.regions import Regions
    from histostudy.training.guard import TestPart
    from histostudy.training.tilestore import TileStore

#: Training settings that say nothing here, and the values that they are left at.
UNUSED: dict[str, Any] = {"l1": 0.0, "loss": None, "sampling": "shuffle", "start": "prior", "trace": False}


@dataclass(frozen=True)
class SequenceModel:
    """A model that learns tasks in sequence, as the study names it.

    Attributes
    ----------
    continual : Continual
        Method and settings.
    training : histostudy.study.Training
        Epochs, rate, batch and patience of each task.
    options : mapping
        Of the network: those of ``abmil`` for finetune, joint and replay; see `HITOptions` and `GDATOptions`.
    """

    continual: Continual
    training: Training
    options: Mapping[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Refuse settings that do nothing.

        Raises
        ------
        ConfigError
            If a training setting is given that continual learning does not know.
        """
        for key, value in UNUSED.items():
            if getattr(self.training, key, value) != value:
                raise ConfigError(f"training.{key} says nothing of a model with `continual`", todo="leave it out")
        if self.training.epochs < 1:
            raise ConfigError("a model with `continual` trains at least one epoch", todo="raise training.epochs")


def column_of(task: str, name: str) -> str:
    """Column of the probability of a class: names of classes need not differ between tasks."""
    return f"prob_{task}/{name}"


def train_sequence(
    seed: int,
    model: str,
    spec: SequenceModel,
    sequence: Sequence[Outcome],
    bags: Bags,
    splits: pd.DataFrame,
    out_dir: str | Path,
    *,
    threads: int = 1,
) -> pd.DataFrame:
    """Train a model on a sequence of tasks over all repeats and folds.

    A run's folder ``r<repeat>f<fold>`` holds `weights.safetensors` (after the last task), `predictions.parquet`,
    `history.csv` and `run.json` (identity, checksums, counts), and is kept while they hold, as
    `histostudy.training.stage.train_model` does.

    `predictions.parquet`: repeat, fold, model, task_learned, task (tested), patient_id, truth, and
    ``prob_<task>/<class>`` over the classes of all tasks, those not learned yet too: a reading of them is over some of
    the columns (see `histostudy.evaluation.continual`).

    Parameters
    ----------
    seed : int
        The study's.
    model : str
        Its name.
    spec : SequenceModel
        Its settings.
    sequence : sequence of Outcome
        Classification tasks, in the order in which they are learned.
    bags : Bags
        Features of all patients.
    splits : DataFrame
        `repeat`, `fold`, `patient_id`, `part` (train, val, test): of patients, whatever the task, so that nobody who
        is tested in a fold was trained on in it for another task.
    out_dir : path
        ``runs/sequence/<model>``.
    threads : int
        CPU threads of torch.

    Returns
    -------
    DataFrame
        One row a run: `repeat`, `fold`, `status`, `identity`, `sha256`, `seconds`, `parameters`, `epochs` (of all
        tasks), `n_train`, `n_val`, `n_test` (patients, each counted once a task), `without_features`, and what the
        method counts (tiles kept, directions used).

    Raises
    ------
    ConfigError
        If the sequence holds fewer than two tasks, one that is no classification, or a class that no task has.
    ModelError
        If an option is wrong, or a task has no patient in the training part of a fold.
    """
    import pandas as pd

    spec.check()
    _check_sequence(sequence, spec.continual)
    context = _context(seed, model, spec, sequence, bags, threads)
    trainer = _Trainer(seed, model, spec, sequence, bags, threads)
    groups = [(run, rows) for run, rows in splits.groupby(["repeat", "fold"], sort=True)]
    forget(Path(out_dir), {f"r{repeat}f{fold}" for (repeat, fold), _ in groups})
    runs = []
    for (repeat, fold), rows in progress(groups, f"sequence {model}", total=len(groups)):
        parts = {part: sorted(rows.loc[rows["part"] == part, "patient_id"]) for part in ("train", "val", "test")}
        folder = Path(out_dir) / f"r{repeat}f{fold}"
        identity = digest_of({**context, "repeat": int(repeat), "fold": int(fold), "parts": parts})
        run = kept(folder, identity)
        if run is None:
            run = trainer.run(int(repeat), int(fold), parts, folder, identity)
        runs.append(run)
    return pd.DataFrame(runs)


def _check_sequence(sequence: Sequence[Outcome], keys: Continual) -> None:
    names = [outcome.name for outcome in sequence]
    if len(sequence) < 2 or len(set(names)) < len(names):
        raise ConfigError(f"sequence {names}: two tasks at least, each once", todo="name tasks of the study")
    for outcome in sequence:
        if outcome.kind != "classification" or outcome.patient_of:
            raise ConfigError(f"sequence: {outcome.name!r} is no classification of patients", todo="leave it out")
    for name, negative in keys.negatives.items() if isinstance(keys, CoMEL) else ():
        classes = next((o.classes for o in sequence if o.name == name), None)
        if classes is None or len(classes) != 2 or negative not in classes:
            raise ConfigError(
                f"continual.negatives: {negative!r} is not one of the two classes of {name!r} in the sequence",
                todo="name a task of two classes, and the one that has no tile of the other",
            )


class SequenceTest:
    """The test parts of a run: each (task learned, task tested) is predicted once, and the truth comes at the end.

    Parameters
    ----------
    sequence : sequence of Outcome
    patients : mapping of str to sequence of str
        Test patients of each task.
    """

    def __init__(self, sequence: Sequence[Outcome], patients: Mapping[str, Sequence[str]]) -> None:
        from histostudy.training.guard import TestPart

        names = [outcome.name for outcome in sequence]
        self._parts: dict[tuple[str, str], TestPart] = {
            (learned, outcome.name): TestPart(outcome, patients[outcome.name])
            for learned in names
            for outcome in sequence
            if len(patients[outcome.name])
        }
        self._seen: dict[tuple[str, str], pd.DataFrame] = {}

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Tasks learned and tested; those that a fold tests nobody of are left out."""
        return list(self._parts)

    def patients(self, learned: str, task: str) -> tuple[str, ...]:
        """Test patients of a pair."""
        return self._parts[learned, task].patient_ids

    def hand_in(self, learned: str, task: str, predictions: pd.DataFrame) -> None:
        """Take the predictions of a pair, which nothing that is learned later changes.

        Raises
        ------
        LeakError
            If they are the second ones of the pair.
        """
        from histostudy.training.guard import LeakError

        if (learned, task) in self._seen:
            raise LeakError(f"the test part of {task} was predicted before, after {learned}")
        self._seen[learned, task] = predictions.copy()

    def score(self) -> pd.DataFrame:
        """All predictions beside the truth, once each pair was handed in.

        Raises
        ------
        LeakError
            If a task is still to be learned, or this is the second time.
        """
        import pandas as pd

        from histostudy.training.guard import LeakError

        if missing := [pair for pair in self._parts if pair not in self._seen]:
            raise LeakError(f"the truth was asked for before {missing[0][1]} was predicted after {missing[0][0]}")
        frames = []
        for (learned, task), part in self._parts.items():
            scored = part.submit(self._seen[learned, task])
            frames.append(scored.assign(task_learned=learned, task=task))
        return pd.concat(frames, ignore_index=True)


class _Trainer:
    """What the folds of a model share: the tiles in memory, their regions, the numbers of the classes."""

    def __init__(
        self, seed: int, model: str, spec: SequenceModel, sequence: Sequence[Outcome], bags: Bags, threads: int
    ) -> None:
        from histostudy.training.continual.learner import Classes
        from histostudy.training.continual.regions import regions_of
        from histostudy.training.determinism import pick_device
        from histostudy.training.tilestore import TileStore

        self.seed, self.model, self.spec, self.sequence, self.threads = seed, model, spec, sequence, threads
        self.store: TileStore = TileStore.of(bags, pick_device(spec.training.device))
        self.regions: Regions | None = None
        if isinstance(spec.continual, ConSlide):
            self.regions = regions_of(bags, self.store.patient_ids, spec.continual.region)
        everybody = [patient for outcome in sequence for patient in outcome.patient_ids]
        self.classes: Classes = Classes(
            tuple(len(outcome.classes) for outcome in sequence),
            len(set(everybody)) == len(everybody),
            tuple((outcome.name, tuple(outcome.classes)) for outcome in sequence),
        )

    def run(self, repeat: int, fold: int, parts: dict[str, list[str]], folder: Path, identity: str) -> dict[str, Any]:
        """Learn the sequence, write the run's folder, return its row."""
        import pandas as pd

        from histostudy.models.io import save_tensors
        from histostudy.training.continual.learner import Setting
        from histostudy.training.continual.methods import build_learner
        from histostudy.training.determinism import deterministic

        start = time.perf_counter()
        seed = derive_seed(self.seed, "sequence", self.model, repeat, fold)
        known = set(self.store.patient_ids)
        have = [set(outcome.patient_ids) for outcome in self.sequence]
        wanted = {part: [[p for p in ids if p in mine] for mine in have] for part, ids in parts.items()}
        used = {part: [[p for p in some if p in known] for some in tasks] for part, tasks in wanted.items()}
        for outcome, patients in zip(self.sequence, used["train"], strict=True):
            if not patients:
                raise ModelError(
                    f"task {outcome.name}: no patient in the training part of repeat {repeat} fold {fold}",
                    todo="use fewer folds, or check that the outcome and the features cover the splits",
                )
        names = [outcome.name for outcome in self.sequence]
        test = SequenceTest(self.sequence, dict(zip(names, used["test"], strict=True)))
        history: list[dict[str, Any]] = []
        counts: dict[str, float] = {}
        with deterministic(seed, self.threads):
            setting = Setting(self.store, self.classes, self.spec.training, dict(self.spec.options), seed, self.regions)
            learner = build_learner(self.spec.continual, setting)
            for step, name in enumerate(names):
                learned = learner.learn(step, *(self._part(step, used[part][step]) for part in ("train", "val")))
                history += [{"task": name, **row} for row in learned.history]
                counts = learned.info
                for task in (task for after, task in test.pairs if after == name):
                    test.hand_in(name, task, self._predicted(learner, test.patients(name, task)))
        place = {"repeat": repeat, "fold": fold}
        columns = [column_of(task, one) for task, classes in self.classes.names for one in classes]
        scored = test.score().assign(**place, model=self.model)
        scored = scored[["repeat", "fold", "model", "task_learned", "task", "patient_id", "truth", *columns]]
        network = learner.network.cpu()
        save_tensors(folder / FILES[0], network.state_dict(), self._config(place))
        write_table(folder / FILES[1], scored)
        write_table(folder / FILES[2], pd.DataFrame(history))
        run = {
            **place, "status": "trained", "identity": identity, "sha256": sha256(folder / FILES[1]),
            "seconds": round(time.perf_counter() - start, 3),
            "parameters": sum(p.numel() for p in network.parameters()), "epochs": len(history),
            **{f"n_{part}": sum(map(len, used[part])) for part in ("train", "val", "test")},
            "without_features": sum(map(len, (some for tasks in wanted.values() for some in tasks)))
            - sum(map(len, (some for tasks in used.values() for some in tasks))),
            **counts,
        }  # fmt: skip
        write_record(folder, run, FILES)
        return run

    def _part(self, step: int, patients: Sequence[str]) -> Part:
        """Patients of a task with their classes."""
        import torch

        from histostudy.training.continual.learner import Part

        outcome = self.sequence[step]
        codes = torch.from_numpy(outcome.y[outcome.rows(list(patients))].astype("int64"))
        return Part(self.store.rows(patients), codes + self.classes.own(step).start, torch.full_like(codes, step))

    def _predicted(self, learner: Learner, patients: Sequence[str]) -> pd.DataFrame:
        """Probabilities over the classes of all tasks."""
        import pandas as pd

        logits: Tensor = learner.predict(self.store.rows(patients))
        shares = logits.double().softmax(1).numpy()
        columns = [column_of(task, one) for task, classes in self.classes.names for one in classes]
        return pd.DataFrame({"patient_id": list(patients)} | dict(zip(columns, shares.T, strict=True)))

    def _config(self, place: Mapping[str, int]) -> dict[str, Any]:
        """What rebuilds the network of the weights."""
        return {
            "continual": self.spec.continual.model_dump(mode="json"), "options": dict(self.spec.options),
            "dim_in": self.store.dim, "classes": [[task, list(names)] for task, names in self.classes.names],
            "extra": {**place, "model": self.model},
        }  # fmt: skip


def _context(
    seed: int, model: str, spec: SequenceModel, sequence: Sequence[Outcome], bags: Bags, threads: int
) -> dict[str, Any]:
    """All that every run of a model depends on, but its patients."""
    from histostudy.training.determinism import pick_device

    coords = None if bags.positions == "unknown" else bags.coords
    return {
        "code": code_version(__name__),
        "seed": seed,
        "model": [
            model,
            spec.continual.model_dump(mode="json"),
            spec.training.model_dump(mode="json"),
            dict(spec.options),
        ],
        "tasks": [outcome.task.model_dump(mode="json", exclude=EVALUATED_ONLY) for outcome in sequence],
        "outcomes": [digest_of_arrays(outcome.patient_ids, outcome.y, outcome.classes) for outcome in sequence],
        "features": bags.digest
        or digest_of_arrays(bags.patient_ids, bags.offsets, bags.features, bags.slide_index, coords),
        "machine": [pick_device(spec.training.device), threads],
    }
