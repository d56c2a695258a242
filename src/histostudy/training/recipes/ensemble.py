"""Ensembling over folds: a network for each way to leave an inner part out, their predictions averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histostudy.errors import ModelError
from histostudy.models.registry import is_count, require
from histostudy.seeds import derive_seed
from histostudy.training.recipes.base import RECIPES, Recipe

if TYPE_CHECKING:
    from histostudy.cohort.outcomes import Outcome
    from histostudy.study import Training


@dataclass(frozen=True)
class EnsembleSettings:
    """Settings of `EnsembleOfFolds`; members : networks, and inner parts, from 2."""

    members: int = 5

    def __post_init__(self) -> None:
        require(is_count(self.members) and self.members > 1, "members is a whole number from 2")


@RECIPES.register("ensemble")
class EnsembleOfFolds(Recipe):
    """Train `members` networks, each with another share of the training patients as its inner part, and average them.

    Training and inner part of a fold are cut into as many stratified parts as there are members; each part chooses the
    epoch of one member, which is trained on the others. So every training patient is learned from, and nobody who is
    tested in the fold has a part in it. It takes as many times longer.
    """

    Settings = EnsembleSettings
    settings: EnsembleSettings

    def parts(
        self, outcome: Outcome, patient_ids: list[str], settings: Training, seed: int
    ) -> list[tuple[list[str], list[str]]]:
        """Training and inner part of each member.

        Raises
        ------
        ModelError
            If there is no epoch to choose, a traced training, or fewer than two patients a member.
        """
        from histostudy.splits.strata import deal, strata_of

        if settings.epoch != "inner" or settings.trace:
            raise ModelError("recipe ensemble needs `epoch: inner` and no `trace`", todo="change the training settings")
        count = self.settings.members
        if len(patient_ids) < 2 * count:
            raise ModelError(f"{len(patient_ids)} training patients for {count} members", todo="use fewer members")
        rng = np.random.default_rng(derive_seed(seed, "members"))
        ids = np.asarray(patient_ids, dtype=object)
        if outcome.patient_of:  # spots: those of a patient stay together
            owners = np.asarray([outcome.patient_of[spot] for spot in patient_ids], dtype=object)
            patients = sorted(set(owners))
            if len(patients) < count:
                raise ModelError(f"{len(patients)} training patients for {count} members", todo="use fewer members")
            dealt = dict(zip(rng.permutation(patients), np.arange(len(patients)) % count, strict=True))
            part = np.asarray([dealt[owner] for owner in owners])
        else:
            labels, _ = strata_of(patient_ids, [outcome], count)
            part = deal(labels, [1 / count] * count, rng)
        return [(ids[part != k].tolist(), ids[part == k].tolist()) for k in range(count)]


def members_of(recipes: Sequence[Recipe]) -> EnsembleOfFolds | None:
    """The ensemble among recipes, if there is one."""
    return next((recipe for recipe in recipes if isinstance(recipe, EnsembleOfFolds)), None)
