"""A model: standardise the features, aggregate, predict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from histostudy.models.batch import BagBatch
from histostudy.models.heads import HEADS, Head
from histostudy.models.registry import Aggregator, build_aggregator


class MILModel(nn.Module):
    """Standardisation by the training part, an aggregator and a head.

    Parameters
    ----------
    dim_in : int
        Width of the features.
    aggregator : str
        Registered name.
    options : mapping
        The aggregator's options.
    head : mapping
        Configuration of the head (see `histostudy.models.heads.head_config`).
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, dim_in: int, aggregator: str, options: Mapping[str, Any], head: Mapping[str, Any]) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "dim_in": dim_in, "aggregator": aggregator, "options": dict(options), "head": dict(head),
        }  # fmt: skip
        self.register_buffer("mean", torch.zeros(dim_in))
        self.register_buffer("scale", torch.ones(dim_in))
        self.aggregator: Aggregator = build_aggregator(aggregator, dim_in, options)
        self.head: Head = HEADS[head["kind"]](self.aggregator.dim_out, head)
        if self.aggregator.linear:
            nn.init.zeros_(self.head.linear.weight)

    def standardise_by(self, mean: Tensor, spread: Tensor) -> None:
        """Set the moments (D,) of the training part; a constant feature is centred only."""
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(spread > 1e-6, spread, 1.0))

    def forward(self, batch: BagBatch) -> tuple[Tensor, Tensor | None]:
        """Return (B, outputs) raw predictions and the (T,) attention, or None without one."""
        features = (batch.features - self.mean) / self.scale
        vectors, attention = self.aggregator(batch.with_features(features))
        return self.head(vectors), attention

    def count_parameters(self) -> int:
        """Number of trained numbers."""
        return sum(p.numel() for p in self.parameters())
