"""PackMIL (Tang et al., arXiv 2509.20923): part of a bag is trained on as it is, the rest in hyperslides."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from histostudy.errors import ModelError
from histostudy.models.downsampler import CHANNELS
from histostudy.models.registry import Aggregator, is_count, is_number, is_share, require
from histostudy.training.recipes.base import RECIPES, Run, Step
from histostudy.training.recipes.packing import hyperslide_loss, hyperslides, sets_of, split_bags
from histostudy.training.recipes.subsample import TileRecipe

#: What is added of the residual loss, as published.
WEIGHT, SURVIVAL_WEIGHT = 0.2, 0.5


@dataclass(frozen=True)
class PackMILSettings:
    """Settings of `PackMIL`; in brackets those of the published commands for PANDA, BRCA subtypes and survival.

    keep : share of a bag's tiles that goes to the main branch (0.4, 0.5, 0.5); the published name, token_dropout, says
    the opposite of what it does. min_tiles : L_min; bags of fewer than L_min x `downsample` tiles are whole in both
    branches (0, 128, 256). max_tiles : L_max; each part is cut, at random, to L_max x `downsample` (600, 2400, 3200).
    pack_tiles : tokens of a hyperslide at most (L_max); the fewer, the fewer members, and the sharper its label.
    weight : of the residual loss (0.2, survival 0.5 unless given). labels : of classes, ``shares`` of the members'
    tokens, or ``isup`` for the six ISUP grades. downsample : tiles a token of the downsampler; 1 is without (none,
    4, 3). channels : of the downsampler, ``pick`` or ``subset``. attention : its width.
    """

    keep: float = 0.5
    min_tiles: int = 8
    max_tiles: int = 2400
    pack_tiles: int = 256
    weight: float | None = None
    labels: str = "shares"
    downsample: int = 1
    channels: str = "pick"
    attention: int = 128

    def __post_init__(self) -> None:
        require(is_share(self.keep) and self.keep > 0, "keep is above 0 and below 1")
        for name in ("max_tiles", "pack_tiles", "downsample", "attention"):
            require(is_count(getattr(self, name)), f"{name} is a whole number from 1")
        zero = self.min_tiles == 0 and isinstance(self.min_tiles, int) and not isinstance(self.min_tiles, bool)
        require(is_count(self.min_tiles) or zero, "min_tiles is a whole number from 0")
        weight = self.weight
        require(weight is None or (is_number(weight) and weight >= 0), "weight is a number from 0")
        require(self.labels in ("shares", "isup"), "labels is shares or isup")
        require(self.channels in CHANNELS, f"channels is {' or '.join(CHANNELS)}")
        # what is not grouped must fit too
        require(self.pack_tiles >= self.min_tiles * self.downsample, "pack_tiles is at least min_tiles x downsample")


@RECIPES.register("packmil")
class PackMIL(TileRecipe):
    """Main and residual branch of PackMIL, through the same aggregator and head.

    Our batches are packed without padding, so what is left of the method is: in each step the tiles of a bag are
    divided at random. The main part is trained on as the bag. The residual parts are packed, in the order of the batch,
    into hyperslides (`next_fit`); each is pooled as one bag, and its loss against the label that its members give it
    is added with `weight`:

    - classes: the members' shares of tokens, by cross-entropy (published for BRCA: divided by the largest, focal loss);
      ISUP grades: `isup_labels`;
    - survival, ``nll``: `survival_labels`. Cox's and the ranking loss compare a patient with those at risk at its time,
      which a mixture of patients has none of: refused;
    - numbers and expression: the mean over the members by their tokens, which is what the squared error of the
      mixture asks for.

    With `downsample` above 1 both parts first go through `histostudy.models.downsampler.Downsampler`, which stays in
    the model; an aggregator that fits prototypes, or trains itself, on tiles as they are does not go with it.
    Inference is on the whole bag, of which the main branch has seen parts.

    A layer with batch statistics would take those of hyperslides too (published: such layers are off there). The
    history gets `packmil_loss`, the mean residual loss, and `packmil_members`, the members of a hyperslide.
    """

    Settings = PackMILSettings
    needs_mean_loss = True
    #: After recipes that leave tiles out.
    order = 60

    def __init__(self, settings: PackMILSettings) -> None:
        super().__init__(settings)
        self.residual: Tensor | None = None
        self._forget()

    def _forget(self) -> None:
        self._loss, self._steps, self._members, self._slides = 0.0, 0, 0, 0

    def check(self, aggregator: Aggregator, kind: str) -> None:
        """Refuse tables beside the tiles, what is fitted to tiles before a downsampler, and losses of pairs."""
        super().check(aggregator, kind)
        if aggregator.multimodal:
            raise ModelError(
                "recipe packmil: patients mixed in a hyperslide have no table", todo="leave out modalities"
            )
        if self.settings.downsample > 1:
            if aggregator.sources:
                what = "recipe packmil: the sources of moe_pkt know tiles, not what a downsampler makes of them"
                raise ModelError(what, todo="set `downsample: 1`")
            for step in ("prepare", "pretrain"):
                if getattr(type(aggregator), step) is not getattr(Aggregator, step):
                    what = f"recipe packmil: {type(aggregator).__name__} is fitted to tiles that are not downsampled"
                    raise ModelError(what, todo="set `downsample: 1`")
        if self.settings.labels == "isup" and kind != "classification":
            raise ModelError(f"recipe packmil: ISUP grades are classes, not {kind}", todo="leave out `labels`")

    def front(self) -> Mapping[str, Mapping[str, Any]]:
        """The downsampler, if there is to be one."""
        settings = self.settings
        if settings.downsample == 1:
            return {}
        names = ("min_tiles", "channels", "attention")
        return {"downsampler": {"ratio": settings.downsample} | {name: getattr(settings, name) for name in names}}

    def begin(self, run: Run) -> None:
        """Look at the head.

        Raises
        ------
        ModelError
            If its classes are not the six ISUP grades that the settings say.
        """
        config = run.network.head.config
        if self.settings.labels == "isup":
            grades = [re.findall(r"\d", str(name))[:1] for name in config["classes"]]
            if grades != [[str(k)] for k in range(6)]:
                raise ModelError(
                    "recipe packmil: `labels: isup` is for six classes named after the grades 0 to 5, in order",
                    todo="leave it out",
                )

    def tiles(self, step: Step) -> None:
        """Leave the main part, and take the loss of the residual one.

        Before the main branch goes forward: an aggregator's own penalty is of the last bags that it saw.
        """
        settings, network = self.settings, step.network
        ratio = settings.downsample
        most = settings.max_tiles * ratio
        rest_most = min(settings.max_tiles, settings.pack_tiles) * ratio
        main, rest = split_bags(step.batch, settings.keep, settings.min_tiles * ratio, most, rest_most, step.generator)
        sets, patients = sets_of(step.batch, rest)
        step.batch = step.batch.select(main)
        self.residual = None
        if len(sets) == 0:
            return
        packed = hyperslides(network.front(sets), patients, settings.pack_tiles)
        vectors, _ = network.aggregator(packed.batch)
        isup = settings.labels == "isup"
        self.residual = hyperslide_loss(network.head, vectors, step.targets, packed, isup)
        self._loss += float(self.residual.detach())
        self._steps += 1
        self._members += len(patients)
        self._slides += len(packed.batch)

    def penalty(self, step: Step) -> Tensor | None:
        """The residual loss by its weight."""
        if self.residual is None:
            return None
        weight = self.settings.weight
        if weight is None:
            weight = SURVIVAL_WEIGHT if "time" in step.targets else WEIGHT
        return weight * self.residual

    def log(self) -> Mapping[str, float]:
        """Residual loss and members of the epoch."""
        row = {
            "packmil_loss": self._loss / self._steps if self._steps else math.nan,
            "packmil_members": self._members / self._slides if self._slides else math.nan,
        }
        self._forget()
        return row
