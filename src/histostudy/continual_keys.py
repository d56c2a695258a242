"""Keys of a model that learns the tasks of a study's `sequence` one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from histostudy.tasks import Keys, Name


class Finetune(Keys):
    """Gated ABMIL trained on each task in turn: what forgets, and how much."""

    method: Literal["finetune"]


class Joint(Keys):
    """Gated ABMIL trained afresh, at each step of the sequence, on all tasks so far: usually the upper bound."""

    method: Literal["joint"]


class Replay(Keys):
    """Gated ABMIL with experience replay: tiles of earlier patients are kept and trained on again."""

    method: Literal["replay"]
    memory: int = Field(4096, ge=1, description="Tiles kept in all, as many as conslide's regions hold.")
    tiles: int = Field(64, ge=1, description="Tiles kept of a patient.")
    alpha: float = Field(1.0, gt=0, description="Weight of the loss of the kept bags.")
    draws: int = Field(8, ge=1, description="Kept bags a step.")


class ConSlide(Keys):
    """ConSlide (ICCV 2023): a hierarchical transformer with asynchronous update and rehearsal of regions."""

    method: Literal["conslide"]
    region: int = Field(64, ge=1, le=1024, description="Most tiles a region; a square number (the paper: 8 x 8).")
    memory: int = Field(4096, ge=1, description="Tiles kept in all: `memory / region` regions (the paper: 1100).")
    share: float = Field(0.2, gt=0, le=1, description="Share of a slide's regions that are offered to the buffer.")
    alpha: float = Field(0.2, gt=0, description="Weight of the loss of the pseudo-slides (the paper: 0.2).")
    draws: int = Field(2, ge=1, description="Sets of pseudo-slides a step (the paper: one a slide).")
    pseudo: tuple[int, int] | None = Field(
        None,
        description="Fewest and most regions of a pseudo-slide (the paper: 100 and 249). None: as many as a training "
        "slide that is drawn.",
    )
    first_epochs: int = Field(10, ge=0, description="Epochs of the cross-scale loss alone before the first task.")
    first_weight: float = Field(1e-3, ge=0, description="Weight of the cross-scale loss in them.")
    weight: float = Field(1e-5, ge=0, description="Weight of the cross-scale loss in the tasks.")

    @model_validator(mode="after")
    def _can_be(self) -> ConSlide:
        if round(self.region**0.5) ** 2 != self.region:
            raise ValueError(f"region {self.region} is not a square number: 64, 16")
        if self.memory < self.region:
            raise ValueError(f"memory {self.memory} does not hold one region of {self.region} tiles")
        if self.pseudo is not None and not 1 <= self.pseudo[0] <= self.pseudo[1]:
            raise ValueError("pseudo: fewest, then most, at least 1")
        return self


class CoMEL(Keys):
    """CoMEL (2025), our reading: no rehearsal, adapters of each task kept off what earlier tasks put in."""

    method: Literal["comel"]
    orthogonality: Literal["inputs", "rows"] = Field(
        "inputs",
        description="What a task's adapters are kept orthogonal to: the inputs of earlier tasks, which protects "
        "them, or the rows of earlier adapters, as published, which does not.",
    )
    rank: int = Field(8, ge=1, description="Of an adapter.")
    energy: float = Field(0.99, gt=0, le=1, description="Share of the squared length of old inputs that is protected.")
    tokens: int = Field(2000, ge=1, description="Inputs a layer and task that the protected space is found from.")
    negatives: dict[Name, str] = Field(
        default_factory=dict,
        description="Class of a two-class task whose patients have no tile of the other: tiles are given pseudo-labels "
        "there. Not for tasks such as subtypes, where neither class is negative.",
    )
    instance: float = Field(0.1, ge=0, description="Weight of the loss of the tiles' pseudo-labels.")
    warm_up: int = Field(3, ge=0, description="Epochs of each task before pseudo-labels are used.")
    confident: float = Field(
        0.999, gt=0.5, lt=1,
        description="A tile of a positive bag is pseudo-positive above this quantile of the negative bags' tiles.",
    )  # fmt: skip
    doubtful: float = Field(0.5, gt=0, lt=1, description="And pseudo-negative below this one.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Of the prototypes' moving averages.")

    @model_validator(mode="after")
    def _in_order(self) -> CoMEL:
        if self.doubtful >= self.confident:
            raise ValueError("doubtful must lie below confident")
        return self


Continual = Annotated[Finetune | Joint | Replay | ConSlide | CoMEL, Field(discriminator="method")]


def check_sequence(sequence: Sequence[str], kinds: Mapping[str, str], methods: Mapping[str, Continual]) -> None:
    """Refuse a sequence of tasks that cannot be learned.

    Parameters
    ----------
    sequence : sequence of str
        The study's.
    kinds : mapping of str to str
        Kind of each of its tasks.
    methods : mapping of str to Continual
        Its models with `continual`.

    Raises
    ------
    ValueError
        Saying which key is wrong.
    """
    if bool(sequence) != bool(methods):
        raise ValueError("a sequence of tasks and a model with continual: give both, or neither")
    if not sequence:
        return
    if "sequence" in kinds:
        raise ValueError("task name 'sequence' is taken: it is the sequence's folder")
    if len(set(sequence)) < max(2, len(sequence)):
        raise ValueError(f"sequence {list(sequence)}: two tasks at least, each once")
    if odd := [name for name in sequence if kinds.get(name) != "classification"]:
        raise ValueError(f"sequence: {odd[0]!r} is not a classification task of this study")
    for name, keys in methods.items():
        if isinstance(keys, CoMEL) and (unknown := sorted(set(keys.negatives) - set(sequence))):
            raise ValueError(f"models.{name}.continual.negatives: {unknown[0]!r} is not in the sequence")
