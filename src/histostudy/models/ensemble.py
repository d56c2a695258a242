"""Several networks of one kind whose predictions are averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from histostudy.models.batch import BagBatch
from histostudy.models.heads import Head
from histostudy.models.model import MILModel
from histostudy.models.registry import Aggregator


class Ensemble(nn.Module):
    """The mean of the members' raw outputs, predicted by one head.

    The mean of logits is the geometric mean of probabilities, of hazards or of relative risks (Lakshminarayanan et al.,
    NeurIPS 2017, average probabilities; with one head for all outcomes the raw outputs are what members share).

    Parameters
    ----------
    members : sequence of MILModel
        Of one configuration, their heads started on the same outcomes.
    """

    def __init__(self, members: Sequence[MILModel]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.config: dict[str, Any] = {**members[0].config, "members": len(members)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Build the ensemble that has this `config`, with weights of its own."""
        return cls([MILModel.from_config(config) for _ in range(config["members"])])

    @property
    def head(self) -> Head:
        """The head that predicts: the first member's, finished on the mean of all."""
        return self.members[0].head  # type: ignore[return-value]

    @property
    def aggregator(self) -> Aggregator:
        """The first member's, for what it says of its kind."""
        return self.members[0].aggregator  # type: ignore[return-value]

    def forward(self, batch: BagBatch) -> tuple[Tensor, Tensor | None]:
        """Mean raw predictions (B, outputs) and mean attention (T,), or None without one."""
        raw, attention = zip(*(member(batch) for member in self.members), strict=True)
        mean = None if attention[0] is None else torch.stack(attention).mean(0)
        return torch.stack(raw).mean(0), mean

    def count_parameters(self) -> int:
        """Number of trained numbers of all members."""
        return sum(member.count_parameters() for member in self.members)  # type: ignore[operator]


#: What a run trains.
Network = MILModel | Ensemble
