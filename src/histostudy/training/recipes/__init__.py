"""Recipes: what is added to the plain training of a model, by name.

A recipe is a frozen dataclass of its settings with a `penalty`; a study names it under a model's `recipe` key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from histostudy.errors import ModelError
from histostudy.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from histostudy.models.batch import BagBatch

RECIPES: Registry[type[Recipe]] = Registry("recipe")


class Recipe:
    """Something added to the loss of each training batch."""

    def penalty(self, batch: BagBatch, attention: Tensor | None, progress: float) -> Tensor:
        """A scalar added to the loss.

        Parameters
        ----------
        batch : BagBatch
            The batch.
        attention : Tensor or None
            (T,) attention, None where the aggregator has none.
        progress : float
            Share of the training that is done, from 0.
        """
        raise NotImplementedError


def build_recipes(settings: Mapping[str, Mapping[str, Any]]) -> list[Recipe]:
    """Build the recipes of a model, in the order of their names.

    Raises
    ------
    ConfigError
        If no recipe has this name.
    ModelError
        If a recipe has no such setting.
    """
    recipes = []
    for name in sorted(settings):
        kind = RECIPES[name]
        known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
        if unknown := sorted(set(settings[name]) - set(known)):
            raise ModelError(f"recipe {name}: unknown key {unknown[0]!r}", todo=f"known: {', '.join(known)}")
        recipes.append(kind(**settings[name]))
    return recipes
