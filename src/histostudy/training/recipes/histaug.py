"""HistAug: bags of features changed as if their tiles had been (Boutaj et al., ICCV 2025, arXiv 2508.14588)."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch

from histostudy.encoders.augment import REACH, Drawn, sample
from histostudy.errors import ModelError
from histostudy.features.pairs import PairSettings
from histostudy.models.histaug import Cosines, Generator, GeneratorSettings, columns_of, train_generator
from histostudy.models.registry import is_count, is_number, is_positive, require
from histostudy.seeds import derive_seed
from histostudy.training.recipes.base import RECIPES, Run, Step
from histostudy.training.recipes.subsample import TileRecipe

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HistAugSettings(GeneratorSettings, PairSettings):
    """Settings of `HistAug`: those of the pairs, those of the generator, and

    probability : that a bag is changed in a step (1 in the paper); mode : ``slide``, one change for all tiles of a bag
    (the paper's wsi_wise), or ``tile``, one for each (instance_wise).
    """

    probability: float = 0.5
    mode: str = "slide"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(is_number(self.intensity) and 0 <= self.intensity <= 1, "intensity is from 0 to 1")
        for name in ("tiles", "versions"):
            require(is_count(getattr(self, name)), f"{name} is a whole number from 1")
        require(is_positive(self.probability) and self.probability <= 1, "probability is above 0 and at most 1")
        require(self.mode in ("slide", "tile"), "mode is slide or tile")


@RECIPES.register("histaug")
class HistAug(TileRecipe):
    """Features of tiles are replaced by those that a generator says their changed images would have.

    The generator (`histostudy.models.histaug`) is trained at the start of the run, on pairs of its training patients
    alone: drawn tiles and changed versions of them through the study's own encoder, which the workflow's rule `pairs`
    makes. The published generators saw slides of the cohorts that they are evaluated on. What is done to a bag is drawn
    by the function that drew the pairs: the published sampler of bags never crops the centre, which its training did.

    A bag here is a patient, with all slides. Models in evaluation mode see plain features.

    The history gets the mean cosines on training patients held out of the generator's training: `histaug_original` (of
    a tile's and its changed version's features), `histaug_generated` (of the generated and the changed version's),
    `histaug_wrong` (told another pair's changes), `histaug_identity` (told that nothing is done); and
    `histaug_changed`, the share of bags changed in the epoch.
    """

    Settings = HistAugSettings
    does = "changes"
    #: Before recipes that choose tiles or mix them.
    order = 10
    #: Not `extra`: it is trained before the first step, and no more.
    generator: Generator
    cosines: Cosines = Cosines()

    def __init__(self, settings: HistAugSettings) -> None:
        super().__init__(settings)
        self._changed, self._bags = 0, 0

    def begin(self, run: Run) -> None:
        """Train the generator on the pairs of the training part.

        Raises
        ------
        ModelError
            If the run has no pairs, or they are of other features or changes than the study's.
        """
        if run.pairs is None:
            raise ModelError(
                "recipe histaug needs pairs of tiles and their changed versions, and this run has none",
                todo="run the rule `pairs` with an encoder of the study, or leave the recipe out",
            )
        pairs = run.pairs([run.store.patient_ids[row] for row in run.rows])
        dim = pairs.features.shape[1]
        if dim != run.store.dim or not math.isclose(pairs.reach, REACH * self.settings.intensity):
            raise ModelError(
                f"pairs {dim} wide with changes up to {pairs.reach:g} for features {run.store.dim} wide and "
                f"intensity {self.settings.intensity:g}",
                todo="run the rule `pairs` again",
            )
        seed = derive_seed(run.seed, "histaug")
        self.generator, self.cosines = train_generator(pairs, self.settings, seed, run.store.device)
        self._draw = np.random.default_rng(derive_seed(run.seed, "histaug", "bags"))
        said = ", ".join(f"{name} {value:.3f}" for name, value in asdict(self.cosines).items())
        patients = len(set(pairs.patients))
        logger.info("histaug: %d pairs of %d patients; cosines on those held out: %s", len(pairs), patients, said)
        if self.cosines.generated <= max(self.cosines.original, self.cosines.wrong):
            logger.warning("histaug: the generator is no better than doing nothing or anything; more pairs, or steps")

    def draw(self, bags: int) -> Drawn:
        """What is done to so many bags or tiles."""
        return sample(bags, self._draw, self.settings.intensity)

    def tiles(self, step: Step) -> None:
        """Replace the features of the tiles of drawn bags."""
        batch, network = step.batch, step.network
        if not network.training:
            return
        acts = torch.from_numpy(self._draw.random(len(batch)) < self.settings.probability)
        self._changed += int(acts.sum())
        self._bags += len(batch)
        if not acts.any():
            return
        device = batch.features.device
        # places of the bags that are changed among them
        number = (acts.cumsum(0) - 1).to(device)
        chosen = acts.to(device)[batch.segments]
        groups = number[batch.segments[chosen]] if self.settings.mode == "slide" else None
        drawn = self.draw(int(acts.sum()) if self.settings.mode == "slide" else int(chosen.sum()))
        values, positions = torch.from_numpy(drawn.values).to(device), torch.from_numpy(drawn.positions).to(device)
        with torch.autocast(device.type, enabled=False):
            plain = batch.features[chosen].float() * network.scale + network.mean
            changed = (self.generator(plain, values, positions, groups) - network.mean) / network.scale
            features = batch.features.clone()  # nobody may write to the store's
            features[chosen] = changed.to(features.dtype)
        step.batch = batch.with_features(features)

    def log(self) -> Mapping[str, float]:
        """The generator's cosines, and the share of bags changed in the epoch."""
        row = columns_of(self.cosines) | {"histaug_changed": self._changed / self._bags if self._bags else math.nan}
        self._changed, self._bags = 0, 0
        return row
