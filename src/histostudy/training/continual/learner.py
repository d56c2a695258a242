"""What the methods share: a network over the classes of all tasks, trained on one task after the other."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from histostudy.errors import ModelError
from histostudy.training.batchsize import batch_size_of

if TYPE_CHECKING:
    from histostudy.study import Training
    from histostudy.training.continual.regions import Regions
    from histostudy.training.tilestore import TileStore


@dataclass(frozen=True)
class Part:
    """Labelled patients of one or several tasks.

    Attributes
    ----------
    rows : list of int
        Places in the store.
    y : Tensor
        (n,) int64, of all classes of the sequence.
    task : Tensor
        (n,) int64, step of the sequence whose class `y` is.
    """

    rows: list[int]
    y: Tensor
    task: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def of(cls, parts: Sequence[Part]) -> Part:
        """Several, one after the other."""
        return cls(
            [row for part in parts for row in part.rows],
            torch.cat([part.y for part in parts]),
            torch.cat([part.task for part in parts]),
        )


@dataclass(frozen=True)
class Classes:
    """The classes of a sequence of tasks.

    Attributes
    ----------
    counts : tuple of int
        Classes of each task; they are numbered one task after the other.
    apart : bool
        Whether no patient has two tasks, so that a patient has one class of all.
    names : tuple of (str, tuple of str)
        Each task and its classes.
    """

    counts: tuple[int, ...]
    apart: bool = True
    names: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def total(self) -> int:
        """Classes of all tasks."""
        return sum(self.counts)

    def own(self, task: int) -> slice:
        """Classes of a task."""
        start = sum(self.counts[:task])
        return slice(start, start + self.counts[task])

    def rivals(self, task: Tensor, learned: int) -> Tensor:
        """(n, classes) bool: the classes that a patient's softmax is over in training.

        All that were seen, so that the tasks learn to be told from each other; where patients have several tasks, and
        so several right classes, those of his task alone.
        """
        step = torch.repeat_interleave(torch.arange(len(self.counts)), torch.tensor(self.counts)).to(task.device)
        seen = (step <= learned).expand(len(task), -1)
        return seen if self.apart else seen & (step == task[:, None])


@dataclass
class Setting:
    """What a learner is given.

    Attributes
    ----------
    store : TileStore
        Tiles of all patients.
    classes : Classes
    training : Training
        Epochs, rate, batch and patience.
    options : mapping
        Of the network.
    seed : int
    regions : Regions, optional
        For a method that sees regions.
    """

    store: TileStore
    classes: Classes
    training: Training
    options: dict[str, Any]
    seed: int
    regions: Regions | None = None


@dataclass
class Learned:
    """What training on a task leaves: its history, and counts for the record."""

    history: list[dict[str, Any]] = field(default_factory=list)
    info: dict[str, float] = field(default_factory=dict)


class Learner:
    """A method of continual learning; a subclass says what its network, its loss and its memory are.

    Parameters
    ----------
    setting : Setting
    """

    network: nn.Module

    def __init__(self, setting: Setting) -> None:
        self.setting, self.store, self.classes = setting, setting.store, setting.classes
        self.training, self.options = setting.training, setting.options
        self.generator = torch.Generator().manual_seed(setting.seed)
        self.learned = -1
        self.epoch = 0

    def learn(self, task: int, train: Part, val: Part) -> Learned:
        """Learn the next task; the inner part chooses the epoch, of which the weights are kept.

        Parameters
        ----------
        task : int
            Step of the sequence.
        train, val : Part
            Training and inner validation part of the task.

        Raises
        ------
        ModelError
            If the loss stops being finite.
        """
        if self.training.epoch == "last" and len(val):
            train, val = Part.of([train, val]), Part([], train.y[:0], train.task[:0])
        self.learned = task
        if task == 0:
            self.standardise(train.rows)
        self.start(task, train)
        history = self.fit(train, val)
        self.network.eval()
        self.finish(task, train)
        return Learned(history, self.info())

    def start(self, task: int, train: Part) -> None:
        """Get ready for a task; its weights are already those of the one before."""

    def finish(self, task: int, train: Part) -> None:
        """Remember what is needed of a task once it is learned."""

    def info(self) -> dict[str, float]:
        """Counts for the record of the run."""
        return {}

    def logits(self, rows: Sequence[int], most: int | None = None) -> Tensor:
        """(n, classes) of patients; in training mode with at most `most` tiles of each."""
        raise NotImplementedError

    def loss(self, rows: Sequence[int], y: Tensor, task: Tensor) -> Tensor:
        """Loss of a step, a scalar."""
        return self.cross_entropy(self.logits(rows, self.training.max_tiles), y, task)

    def before_epoch(self, train: Part) -> None:
        """Look at the training part as the network is now; `epoch` says which one begins."""

    def after_step(self) -> None:
        """Put weights right that the optimiser moved."""

    def trained(self) -> list[nn.Parameter]:
        """Weights that a task trains."""
        return [p for p in self.network.parameters() if p.requires_grad]

    def standardise(self, rows: list[int]) -> None:
        """Fix the moments of the tiles by the first task: those of later ones are not known then."""
        mean, spread = self.store.moments(rows)
        self.network.mean.copy_(mean)  # type: ignore[operator, union-attr]
        self.network.scale.copy_(torch.where(spread > 1e-6, spread, 1.0))  # type: ignore[operator, union-attr]
        self.network.to(self.store.device)

    def cross_entropy(self, logits: Tensor, y: Tensor, task: Tensor) -> Tensor:
        """Mean cross-entropy over the classes that a patient's class is told from."""
        return F.cross_entropy(logits.masked_fill(~self.classes.rivals(task, self.learned), -torch.inf), y)

    def fit(self, train: Part, val: Part) -> list[dict[str, Any]]:
        """AdamW with patience: stop after so many epochs in a row without a better loss on the inner part.

        ConSlide's code stops at any epoch past the tenth that is not better (``counter >= patience or epoch > 10``);
        this does not.
        """
        settings, device = self.training, self.store.device
        optimiser = torch.optim.AdamW(self.trained(), lr=settings.lr, weight_decay=settings.weight_decay)
        y, task = train.y.to(device), train.task.to(device)
        size = batch_size_of(settings, len(train))
        best, state, since = math.inf, None, 0
        history: list[dict[str, Any]] = []
        for epoch in range(settings.epochs):
            self.epoch = epoch
            shape = 0.5 * (1 + math.cos(math.pi * epoch / settings.epochs)) if settings.schedule == "cosine" else 1.0
            for group in optimiser.param_groups:
                group["lr"] = settings.lr * shape
            self.before_epoch(train)
            self.network.train()
            total = 0.0
            for chosen in torch.randperm(len(train), generator=self.generator).split(size):
                at = chosen.to(device)
                loss = self.loss([train.rows[i] for i in chosen.tolist()], y[at], task[at])
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                self.after_step()
                total += float(loss.detach()) * len(chosen)
            if not math.isfinite(total):
                raise ModelError(f"the loss is not finite in epoch {epoch + 1}", todo="lower training.lr")
            judged = self.judge(val) if len(val) else math.nan
            history.append(
                {"epoch": epoch + 1, "lr": settings.lr * shape, "train_loss": total / len(train), "val_loss": judged}
            )
            if judged < best:
                best, state, since = judged, copy.deepcopy(self.network.state_dict()), 0
            else:
                since += 1
            if len(val) and since >= settings.patience and epoch + 1 >= settings.min_epochs:
                break
        if state is not None:
            self.network.load_state_dict(state)
        for row in history:
            row["best"] = row["val_loss"] == best if state is not None else row is history[-1]
        return history

    def judge(self, part: Part) -> float:
        """Mean cross-entropy of a part."""
        logits = self.predict(part.rows).to(self.store.device)
        return float(self.cross_entropy(logits, part.y.to(logits.device), part.task.to(logits.device)))

    @torch.no_grad()
    def predict(self, rows: Sequence[int]) -> Tensor:
        """Logits (n, classes) of patients, on the CPU; some patients at a time, whoever they are with."""
        self.network.eval()
        return torch.cat([self.logits(some).cpu() for some in self._chunks(rows)])

    def _chunks(self, rows: Sequence[int], most: int = 1 << 15) -> list[list[int]]:
        """Patients in order, of so many tiles at a time."""
        chunks: list[list[int]] = [[]]
        tiles = 0
        for row in rows:
            count = self.store.offsets[row + 1] - self.store.offsets[row]
            if chunks[-1] and tiles + count > most:
                chunks.append([])
                tiles = 0
            chunks[-1].append(row)
            tiles += count
        return [chunk for chunk in chunks if chunk]
