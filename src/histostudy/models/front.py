"""Fronts: trained layers between the standardised tiles and the aggregator, which a recipe puts there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from histostudy.models.batch import BagBatch
from histostudy.registry import Registry

FRONTS: Registry[type[Front]] = Registry("front")


class Front(nn.Module):
    """Bags of tiles to bags of as many or, in training alone, fewer tokens of the same width.

    Parameters
    ----------
    dim : int
        Width of the tiles.
    **settings
        Of the subclass, JSON-like: they are stored with the weights.
    """

    def __init__(self, dim: int, **settings: Any) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, batch: BagBatch) -> BagBatch:
        """The same bags; in evaluation mode the tokens are the tiles, in their order."""
        raise NotImplementedError


def build_front(dim: int, fronts: Mapping[str, Mapping[str, Any]]) -> nn.Sequential:
    """The fronts of a model, one after the other; none leaves the tiles as they are."""
    import histostudy.models.downsampler  # noqa: F401  (registers its own)

    return nn.Sequential(*(FRONTS[name](dim, **settings) for name, settings in fronts.items()))
