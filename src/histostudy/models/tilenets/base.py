"""Tile networks by name: from the pixels of a tile to its classes, and how one is built from options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from histostudy.errors import ModelError
from histostudy.registry import Registry

TILENETS: Registry[type[TileNet]] = Registry("tile network")


class TileNet(nn.Module):
    """A network of tiles.

    A subclass names its options as a frozen dataclass `Options`, whose fields have defaults and are checked in
    `__post_init__` by `histostudy.models.registry.require`.

    Parameters
    ----------
    classes : int
        Number of logits.
    options : Options
        The network's options.
    """

    Options: ClassVar[type]

    def __init__(self, classes: int, options: Any) -> None:
        super().__init__()
        self.classes, self.options = classes, options

    def forward(self, tiles: Tensor) -> Tensor:
        """Tiles (B, 3, H, W), standardised, to logits (B, classes)."""
        raise NotImplementedError


def build_tilenet(name: str, classes: int, options: Mapping[str, Any] | None = None) -> TileNet:
    """Build a registered tile network.

    Parameters
    ----------
    name : str
        Registered name.
    classes : int
        Number of logits.
    options : mapping
        Its options.

    Raises
    ------
    ConfigError
        If no tile network has this name.
    ModelError
        If an option is unknown or has a value that cannot be.
    """
    import histostudy.models.tilenets  # noqa: F401  (registers them)

    kind, options = TILENETS[name], dict(options or {})
    known = [field.name for field in fields(kind.Options)]
    if unknown := sorted(set(options) - set(known)):
        raise ModelError(f"{name}: unknown option {unknown[0]!r}", todo=f"known: {', '.join(known)}")
    return kind(classes, kind.Options(**options))


def multiply_adds(network: TileNet, height: int, width: int) -> int:
    """Multiplications with an addition that one tile of `height` x `width` pixels costs in evaluation.

    Convolutions and matrix products are counted, transforms and attention among them; what is done number by number
    (normalisation, activations, softmax) is not.
    """
    from torch.utils.flop_counter import FlopCounterMode

    training = network.training
    parameter = next(network.parameters())
    counter = FlopCounterMode(display=False)
    network.eval()
    try:
        with torch.no_grad(), counter:
            network(parameter.new_zeros(1, 3, height, width))
    finally:
        network.train(training)
    return counter.get_total_flops() // 2
