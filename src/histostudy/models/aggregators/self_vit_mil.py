"""The aggregator of Self-ViT-MIL: DSMIL with linear queries and values (Gul et al., SPIE Medical Imaging 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from histostudy.models.aggregators.dsmil import DSMIL, DSMILOptions
from histostudy.models.registry import AGGREGATORS


@dataclass(frozen=True)
class SelfViTMILOptions(DSMILOptions):
    """Options of `SelfViTMIL`: those of `histostudy.models.aggregators.dsmil.DSMILOptions`, with the paper's values."""

    hidden: int | None = None
    query: str = "linear"
    value: str = "linear"
    prediction: str = "bag"


@AGGREGATORS.register("self_vit_mil")
class SelfViTMIL(DSMIL):
    """`DSMIL` on the features themselves, with a linear query and a linear value; the bag's outputs are predicted.

    The paper's features are those of a vision transformer trained by DINO on the training slides: class tokens of its
    last four blocks and the mean patch token. They are an encoder's matter and come from the study's features; what is
    measured with other features says nothing of the paper's.
    """

    Options: ClassVar[type] = SelfViTMILOptions
