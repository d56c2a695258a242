"""Averaged weights: what is judged and kept after an epoch is a mean of the weights on the way there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from histostudy.models.layers import full_precision
from histostudy.models.registry import is_count, is_share, require
from histostudy.training.recipes.base import RECIPES, Recipe, Run, Step


class _Averaging(Recipe):
    """Holds `average`, a weight by its name, of those that are trained; buffers are those of the live network."""

    average: dict[str, Tensor]

    def begin(self, run: Run) -> None:
        """Start from the initial weights."""
        self.network = run.network
        self.average = {name: full_precision(value).clone() for name, value in _trained(run.network).items()}

    def towards(self, share: float) -> None:
        """Move the average this share of the way to the weights as they are."""
        for name, value in _trained(self.network).items():
            self.average[name].lerp_(value.to(self.average[name].dtype), share)

    def state(self) -> Mapping[str, Tensor]:
        """The live state with the averaged weights in it."""
        return dict(self.network.state_dict()) | self.average


def _trained(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in network.named_parameters() if value.requires_grad}


@dataclass(frozen=True)
class EMASettings:
    """Settings of `EMA`: `decay` a step; `warmup`: in the t-th step (from 1) at most (1 + t) / (10 + t)."""

    decay: float = 0.99
    warmup: bool = True

    def __post_init__(self) -> None:
        require(is_share(self.decay), "decay is from 0 up to 1")
        require(isinstance(self.warmup, bool), "warmup is true or false")


@RECIPES.register("ema")
class EMA(_Averaging):
    """Exponential moving average of the weights (Polyak and Juditsky, SIAM J Control Optim 1992; in deep networks
    Tarvainen and Valpola, NeurIPS 2017).

    After step t: w' <- d_t w' + (1 - d_t) w with d_t = min(decay, (1 + t) / (10 + t)), so that the initial weights are
    soon forgotten. The averaged weights are judged on the inner part and kept; training goes on with its own.
    """

    Settings = EMASettings

    def begin(self, run: Run) -> None:
        """Start from the initial weights."""
        super().begin(run)
        self.steps = 0

    def after_step(self, step: Step) -> None:
        """Follow the weights."""
        self.steps += 1
        early = (1 + self.steps) / (10 + self.steps) if self.settings.warmup else 1.0
        self.towards(1 - min(self.settings.decay, early))

    def weights(self) -> Mapping[str, Tensor]:
        """The averaged state."""
        return self.state()


@dataclass(frozen=True)
class SWASettings:
    """Settings of `SWA`: `start`, the share of the epochs after which averaging begins; `every` so many epochs."""

    start: float = 0.5
    every: int = 1

    def __post_init__(self) -> None:
        require(is_share(self.start), "start is from 0 up to 1")
        require(is_count(self.every), "every is a whole number from 1")


@RECIPES.register("swa")
class SWA(_Averaging):
    """Stochastic weight averaging: the equal mean of the weights at the ends of epochs (Izmailov et al., UAI 2018).

    The first of them is epoch floor(`start` x epochs) + 1, then each `every`-th. Until then the live weights are
    judged, and an early stop before it leaves no average: ask for ``training.epoch: last`` or enough
    ``training.min_epochs``. The paper holds or cycles the learning rate while it averages:
    ``training.schedule: constant``.
    """

    Settings = SWASettings

    def begin(self, run: Run) -> None:
        """Count the epochs."""
        super().begin(run)
        self.first = int(self.settings.start * run.settings.epochs)
        self.epoch, self.averaged, self.seen = 0, 0, -1

    def after_step(self, step: Step) -> None:
        """Note the epoch."""
        self.epoch = int(step.moment.epoch)

    def weights(self) -> Mapping[str, Tensor] | None:
        """The mean state once there is one; asked again within an epoch it stays as it is."""
        if self.epoch < self.first:
            return None
        if self.epoch > self.seen and (self.epoch - self.first) % self.settings.every == 0:
            self.averaged += 1
            self.towards(1 / self.averaged)
            self.seen = self.epoch
        return self.state()
