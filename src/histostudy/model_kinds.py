"""Which models a task has: those that learn its kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

#: Kinds of task that are learned from bags of tile features, by models with an `aggregator`.
BAG_KINDS = ("classification", "survival", "regression", "expression")
#: The key of a model that names its network -> the kinds of task such models learn.
FAMILIES: dict[str, tuple[str, ...]] = {"segmenter": ("segmentation",), "classifier": ("tile_classification",)}
#: Controls of the kinds that have other ones than `prior`, and `clinical` where the task names covariates.
CONTROLS_OF: dict[str, tuple[str, ...]] = {
    "segmentation": ("prior", "colour"),
    "tile_classification": ("prior", "colour"),
}


def kinds_of(model: Any) -> tuple[str, ...]:
    """The kinds of task that a model (`histostudy.study.Model`) learns."""
    for key, kinds in FAMILIES.items():
        if getattr(model, key, None) is not None:
            return kinds
    return BAG_KINDS


def learns(model: Any, kind: str) -> bool:
    """Whether a model learns tasks of a kind."""
    return kind in kinds_of(model)


def aggregators_of(models: Mapping[str, Any], name: str) -> frozenset[str]:
    """Names of the aggregators that a model (of `models`, or a control) is made of: its own, and its sources'."""
    seen: list[str] = []
    while name in models and name not in seen and models[name].aggregator is not None:
        seen.append(name)
        name = models[name].sources
    return frozenset(models[model].aggregator for model in seen)


def controls_of(kind: str, adjust: bool) -> list[str]:
    """Controls of a task; `clinical` only where it names covariates (`adjust`)."""
    return list(CONTROLS_OF.get(kind, ("prior", "clinical") if adjust else ("prior",)))


def check_kinds(models: Mapping[str, Any], kinds: Mapping[str, str], bagless: Iterable[str] = ()) -> None:
    """Refuse a model without a task of its kind, and a task that no model of the study learns.

    Parameters
    ----------
    models : mapping of str to Model
    kinds : mapping of str to str
        Kind of each task, by its name.
    bagless : iterable of str
        Models that need no task (those that learn the sequence).

    Raises
    ------
    ValueError
        In the words of the study file.
    """
    wanted = {kind: key for key, those in FAMILIES.items() for kind in those}
    for name, model in models.items():
        if name in set(bagless) or not kinds:
            continue
        if not any(learns(model, kind) for kind in kinds.values()):
            key = next((k for k in FAMILIES if getattr(model, k, None) is not None), "aggregator")
            raise ValueError(
                f"models.{name} has `{key}` and learns tasks of kind {' or '.join(kinds_of(model))}; no task is one"
            )
    for task, kind in kinds.items():
        if models and not any(learns(model, kind) for model in models.values()):
            raise ValueError(f"task {task} is of kind {kind}; give a model with `{wanted.get(kind, 'aggregator')}`")
