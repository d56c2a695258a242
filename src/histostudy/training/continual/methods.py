"""Methods around gated ABMIL: what forgets, what may see everything, and what rehearses tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from histostudy.continual_keys import CoMEL, ConSlide, Continual, Joint, Replay
from histostudy.errors import ModelError
from histostudy.models.aggregators.abmil import ABMIL, ABMILOptions
from histostudy.models.batch import BagBatch
from histostudy.seeds import derive_seed
from histostudy.training.continual.buffer import Memory, labels_of
from histostudy.training.continual.comel import CoMELLearner
from histostudy.training.continual.conslide import ConSlideLearner
from histostudy.training.continual.gdat import GDATOptions
from histostudy.training.continual.hit import HITOptions
from histostudy.training.continual.learner import Learned, Learner, Part, Setting


class ABMILNetwork(nn.Module):
    """Standardisation, gated ABMIL and one linear head over the classes of all tasks."""

    mean: Tensor
    scale: Tensor

    def __init__(self, dim_in: int, classes: int, options: ABMILOptions) -> None:
        super().__init__()
        self.aggregator = ABMIL(dim_in, options)
        self.head = nn.Linear(self.aggregator.dim_out, classes)
        self.register_buffer("mean", torch.zeros(dim_in))
        self.register_buffer("scale", torch.ones(dim_in))

    def forward(self, batch: BagBatch) -> Tensor:
        """(B, classes) logits."""
        return self.head(self.aggregator(batch.with_features((batch.features - self.mean) / self.scale))[0])


class Finetune(Learner):
    """The network goes on with the next task, and nothing keeps it from forgetting the last."""

    network: ABMILNetwork

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.network = self.fresh()

    def fresh(self) -> ABMILNetwork:
        """A network of new weights."""
        options: ABMILOptions = options_of(ABMILOptions, self.options, "abmil")
        return ABMILNetwork(self.store.dim, self.classes.total, options).to(self.store.device)

    def logits(self, rows: Sequence[int], most: int | None = None) -> Tensor:
        """(n, classes) of patients."""
        return self.network(self.store.batch(rows, most, self.generator))


class JointLearner(Finetune):
    """At each step a new network, trained on all tasks so far: what a sequence costs is measured against it."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.parts: list[tuple[Part, Part]] = []

    def learn(self, task: int, train: Part, val: Part) -> Learned:
        """Train a new network on all tasks so far."""
        self.parts.append((train, val))
        train, val = (Part.of([parts[i] for parts in self.parts]) for i in (0, 1))
        torch.manual_seed(derive_seed(self.setting.seed, "joint", task))
        self.network = self.fresh()
        self.standardise(train.rows)
        return super().learn(task, train, val)


class ReplayLearner(Finetune):
    """Experience replay: at each step also some bags of tiles of earlier tasks' patients.

    A reservoir of patients, of each at most `tiles` tiles: as many tiles in all as the regions of conslide.
    """

    def __init__(self, setting: Setting, keys: Replay) -> None:
        super().__init__(setting)
        self.keys = keys
        self.memory = Memory(keys.memory, keys.tiles, setting.seed)

    def loss(self, rows: Sequence[int], y: Tensor, task: Tensor) -> Tensor:
        """The task's loss and that of bags that are kept."""
        loss = super().loss(rows, y, task)
        if not len(self.memory):
            return loss
        kept = self.memory.draw(self.keys.draws)
        batch = BagBatch.pack([one.tiles.to(y.device) for one in kept])
        tasks = torch.tensor([one.task for one in kept], device=y.device)
        return loss + self.keys.alpha * self.cross_entropy(self.network(batch), labels_of(kept).to(y.device), tasks)

    def finish(self, task: int, train: Part) -> None:
        """Show the task's patients to the memory, some tiles of each."""
        for at in torch.randperm(len(train), generator=self.generator).tolist():
            tiles = self.store.batch([train.rows[at]], self.keys.tiles, self.generator).features
            self.memory.offer(tiles, None, int(train.y[at]), task)

    def info(self) -> dict[str, float]:
        """Tiles that are kept."""
        return {"kept_tiles": self.memory.tiles}


def options_of(kind: type[Any], given: dict[str, Any], name: str) -> Any:
    """Options of a network; unknown ones are refused.

    Raises
    ------
    ModelError
        If there is no such option, or its value cannot be.
    """
    known = [field.name for field in fields(kind)]
    if unknown := sorted(set(given) - set(known)):
        raise ModelError(f"{name}: unknown option {unknown[0]!r}", todo=f"known: {', '.join(known)}")
    return kind(**given)


def check_options(keys: Continual, given: dict[str, Any]) -> Any:
    """The options of a method's network, checked.

    Raises
    ------
    ModelError
        If an option is wrong.
    """
    kinds: dict[type, type] = {ConSlide: HITOptions, CoMEL: GDATOptions}
    kind = kinds.get(type(keys))
    return options_of(ABMILOptions, given, "abmil") if kind is None else options_of(kind, given, keys.method)


def build_learner(keys: Continual, setting: Setting) -> Learner:
    """The learner of a method.

    Raises
    ------
    ModelError
        If an option is wrong.
    """
    options = check_options(keys, setting.options)
    if isinstance(keys, ConSlide):
        return ConSlideLearner(setting, keys, options)
    if isinstance(keys, CoMEL):
        return CoMELLearner(setting, keys, options)
    if isinstance(keys, Replay):
        return ReplayLearner(setting, keys)
    return JointLearner(setting) if isinstance(keys, Joint) else Finetune(setting)
