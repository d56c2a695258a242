"""AEM: attention is kept from collapsing on few tiles by rewarding its entropy (arXiv 2406.15303; MICCAI 2025)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from histostudy.errors import ModelError
from histostudy.models.batch import BagBatch, segment_sum
from histostudy.models.layers import full_precision
from histostudy.models.registry import Aggregator, is_number, require
from histostudy.training.recipes.base import RECIPES, Recipe, Step


@dataclass(frozen=True)
class AEMSettings:
    """Settings of `AEM`.

    weight : lambda_0, of the penalty (0.1 in the published command; 0 only logs the entropy); annealing : the weight
    falls to 0 over the training by a cosine; normalise : each bag's entropy is divided by log N, so that the pull does
    not grow with the bag.
    """

    weight: float = 0.1
    annealing: bool = True
    normalise: bool = False

    def __post_init__(self) -> None:
        require(is_number(self.weight) and self.weight >= 0, "weight is a number from 0")
        for name in ("annealing", "normalise"):
            require(isinstance(getattr(self, name), bool), f"{name} is true or false")


@RECIPES.register("aem")
class AEM(Recipe):
    """Attention entropy maximisation (Zhang et al., MICCAI 2025).

    Adds lambda_t sum_i a_i log a_i, in nats, the mean over bags and attention maps, to the loss: its least value is
    that of even attention. lambda_t = lambda_0 (1 + cos(pi t)) / 2 with t the share of the training that is done (the
    paper's third version; without `annealing` its first). Nothing is changed in inference.

    It takes any aggregator whose training forward returns attention through which gradients go. The history gets
    `aem_entropy`, the mean of H / log N over the training bags of more than one tile.
    """

    Settings = AEMSettings

    def __init__(self, settings: AEMSettings) -> None:
        super().__init__(settings)
        self._sum, self._bags = 0.0, 0

    def check(self, aggregator: Aggregator, kind: str) -> None:
        """Refuse an aggregator of tables alone; one whose attention is not trained is found at the first step."""
        super().check(aggregator, kind)
        if not aggregator.uses_tiles:
            raise ModelError(f"recipe aem needs attention, and {type(aggregator).__name__} looks at no tiles")

    def penalty(self, step: Step) -> Tensor:
        """lambda_t times the mean negative entropy.

        Raises
        ------
        ModelError
            If there is no attention in training, or the weights do not decide it.
        """
        if step.maps is None or not step.maps.requires_grad:
            raise ModelError(
                f"recipe aem needs attention that is trained, which {type(step.network.aggregator).__name__} has not",
                todo="leave it out, or name an attention aggregator such as abmil",
            )
        entropy, share = entropies(step.maps, step.attended)
        several = step.attended.lengths > 1
        self._sum += float(share.detach()[several].mean(1).sum())
        self._bags += int(several.sum())
        weight = self.settings.weight
        if self.settings.annealing:
            weight *= (1 + math.cos(math.pi * step.moment.progress)) / 2
        return -weight * (share if self.settings.normalise else entropy).mean()

    def log(self) -> Mapping[str, float]:
        """Normalised entropy of the epoch."""
        mean = self._sum / self._bags if self._bags else math.nan
        self._sum, self._bags = 0.0, 0
        return {"aem_entropy": mean}


def entropies(maps: Tensor, batch: BagBatch) -> tuple[Tensor, Tensor]:
    """Entropy of attention maps.

    Parameters
    ----------
    maps : Tensor
        (T, K), each column summing to 1 over each bag.
    batch : BagBatch
        The bags.

    Returns
    -------
    tuple of Tensor
        (B, K) H = -sum_i a_i log a_i in nats, and (B, K) H / log N from 0 to 1, where N = 1 it is 0.
    """
    maps = full_precision(maps)
    # a tile of no attention adds 0, and its gradient stays finite
    logs = maps.clamp(min=torch.finfo(maps.dtype).tiny).log()
    entropy = -segment_sum(maps * logs, batch)
    most = batch.lengths.to(entropy.dtype).log()
    return entropy, entropy / torch.where(most > 0, most, 1.0)[:, None]
