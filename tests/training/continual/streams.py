"""Streams of small planted tasks, and what trains on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from pydantic import TypeAdapter

from histostudy.cohort.outcomes import Outcome
from histostudy.continual_keys import Continual
from histostudy.study import Training
from histostudy.tasks import Classification
from histostudy.training.continual.learner import Classes, Learner, Part, Setting
from histostudy.training.continual.methods import build_learner
from histostudy.training.continual.regions import regions_of
from histostudy.training.tilestore import TileStore


def keys_of(**given: Any) -> Continual:
    """Settings as a study file gives them."""
    return TypeAdapter(Continual).validate_python(given)


@dataclass
class Bags:
    """What continual learning reads of `histostudy.features.bags.Bags`: a slide a patient."""

    features: np.ndarray
    offsets: np.ndarray
    patient_ids: list[str]
    slide_index: np.ndarray
    positions: str = "unknown"
    coords: np.ndarray | None = None
    scales: np.ndarray | None = None
    digest: str | None = None

    @classmethod
    def of(cls, bags: list[np.ndarray]) -> Bags:
        lengths = [len(bag) for bag in bags]
        ids = [f"p{i:03d}" for i in range(len(bags))]
        whose = np.repeat(np.arange(len(bags)), lengths).astype("int32")
        return cls(np.concatenate(bags).astype("float32"), np.cumsum([0, *lengths]), ids, whose)


@dataclass
class Stream:
    """Patients of several tasks of two classes, each task with its own background and direction of its classes."""

    bags: Bags
    y: np.ndarray
    task: np.ndarray
    tasks: int

    @property
    def tiles(self) -> int:
        return len(self.bags.features)

    def part(self, task: int, fifths: tuple[int, ...]) -> Part:
        """Patients of a task, by fifths that hold both classes."""
        mine = np.flatnonzero(self.task == task)
        rows = [int(i) for k, i in enumerate(mine) if (k // 2) % 5 in fifths]
        y = torch.from_numpy(2 * task + self.y[rows]).long()
        return Part(rows, y, torch.full_like(y, task))

    def outcomes(self, shared: bool = False) -> list[Outcome]:
        """The tasks, each of its own patients (or all of all, `shared`)."""
        ids = np.array(self.bags.patient_ids, dtype=object)
        out = []
        for t in range(self.tasks):
            mine = np.ones(len(ids), bool) if shared else self.task == t
            spec = Classification(name=f"t{t}", kind="classification", target="c")
            nothing = pd.DataFrame(index=pd.Index(ids[mine]))
            out.append(Outcome(spec, ids[mine], self.y[mine].astype(float), nothing, classes=["no", "yes"]))
        return out

    def splits(self, folds: int = 3) -> pd.DataFrame:
        rows = []
        for fold in range(folds):
            for i, patient in enumerate(self.bags.patient_ids):
                k = (i // 2) % 6  # both classes in each sixth
                part = "test" if k % folds == fold else "val" if (k + 1) % 6 == (fold + folds) % 6 else "train"
                rows.append({"repeat": 0, "fold": fold, "patient_id": patient, "part": part})
        return pd.DataFrame(rows)


def stream(seed: int, *, patients: int = 60, tasks: int = 3, dim: int = 16, shift: float = 2.4) -> Stream:
    """Two in five tiles are shifted one way or the other along the task's own direction, by class."""
    rng = np.random.default_rng(seed)
    bags, y, task = [], [], []
    for t in range(tasks):
        background, direction = rng.normal(size=dim) * 0.7, rng.normal(size=dim)
        direction *= shift / np.linalg.norm(direction)
        for i in range(patients):
            x = rng.normal(size=(rng.integers(32, 65), dim)) + background
            x[rng.random(len(x)) < 0.4] += direction if i % 2 else -direction
            bags.append(x)
            y.append(i % 2)
            task.append(t)
    return Stream(Bags.of(bags), np.array(y), np.array(task), tasks)


def learner_of(
    data: Stream, keys: Continual, *, seed: int = 0, region: int = 16, epochs: int = 15, hidden: int = 32, **more: Any
) -> Learner:
    """A learner of a stream."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    store = TileStore(torch.from_numpy(data.bags.features), data.bags.offsets.tolist(), data.bags.patient_ids)
    regions = regions_of(data.bags, data.bags.patient_ids, region)  # type: ignore[arg-type]
    names = tuple((f"t{t}", ("no", "yes")) for t in range(data.tasks))
    training = Training(epochs=epochs, patience=8, lr=2e-3)
    classes = Classes((2,) * data.tasks, True, names)
    return build_learner(keys, Setting(store, classes, training, {"hidden": hidden, **more}, seed, regions))


def matrices(data: Stream, learner: Learner) -> np.ndarray:
    """Learn the stream; the accuracy matrices (2, T, T), the task known and not known."""
    out = np.zeros((2, data.tasks, data.tasks))
    for t in range(data.tasks):
        learner.learn(t, data.part(t, (0, 1, 2)), data.part(t, (3,)))
        for j in range(data.tasks):
            part = data.part(j, (4,))
            logits, own = learner.predict(part.rows), learner.classes.own(j)
            out[0, t, j] = (logits[:, own].argmax(1) + own.start == part.y).double().mean()
            out[1, t, j] = (logits[:, : 2 * t + 2].argmax(1) == part.y).double().mean()
    return out
