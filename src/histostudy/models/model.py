"""A model: standardise the features, aggregate, predict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from histostudy.errors import ModelError
from histostudy.models.batch import BagBatch, Modality, ModalityValues
from histostudy.models.front import build_front
from histostudy.models.heads import HEADS, Head
from histostudy.models.registry import Aggregator, build_aggregator

#: What a model is built from; the first four are always needed.
CONFIG_KEYS = ("dim_in", "aggregator", "options", "head", "modalities", "fusion", "front")


class TableScale(nn.Module):
    """Standardises a modality by the training part: a missing cell takes the median, a missing patient zeros.

    Parameters
    ----------
    columns : int
        Width of the modality.
    """

    fill: Tensor
    centre: Tensor
    scale: Tensor

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.register_buffer("fill", torch.zeros(columns))
        self.register_buffer("centre", torch.zeros(columns))
        self.register_buffer("scale", torch.ones(columns))

    def forward(self, table: ModalityValues) -> ModalityValues:
        """Raw values (B, P), NaN where missing, to standardised ones."""
        filled = torch.where(torch.isnan(table.values), self.fill, table.values)
        scaled = (filled - self.centre) / self.scale
        return ModalityValues(torch.where(table.present[:, None], scaled, 0.0), table.present)


class MILModel(nn.Module):
    """Standardisation by the training part, an aggregator and a head.

    Parameters
    ----------
    dim_in : int
        Width of the features; 0 without tiles.
    aggregator : str
        Registered name.
    options : mapping
        The aggregator's options.
    head : mapping
        Configuration of the head (see `histostudy.models.heads.head_config`).
    modalities : sequence of Modality or mapping
        Tables beside the slides; an aggregator that takes none is fused with them late.
    fusion : str
        How: see `histostudy.models.multimodal.fusion`.
    front : mapping
        Layers before the aggregator, by name, with their settings: see `histostudy.models.front`.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        dim_in: int,
        aggregator: str,
        options: Mapping[str, Any],
        head: Mapping[str, Any],
        modalities: Sequence[Modality | Mapping[str, Any]] = (),
        fusion: str = "concat",
        front: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        tables = [m if isinstance(m, Modality) else _modality(m) for m in modalities]
        kind = HEADS[head["kind"]]
        outputs = kind.outputs(head)
        self.aggregator: Aggregator = build_aggregator(aggregator, dim_in, options, modalities=tables, outputs=outputs)
        if tables and not self.aggregator.multimodal:
            from histostudy.models.multimodal.fusion import LateFusion

            self.aggregator = LateFusion(self.aggregator, tuple(tables), fusion)
        self.config: dict[str, Any] = {
            "dim_in": dim_in, "aggregator": aggregator, "options": dict(options),
            "head": dict(head) | {"direct": self.aggregator.scores},
            "modalities": [asdict(table) for table in tables], "fusion": fusion,
            "front": {name: dict(settings) for name, settings in (front or {}).items()},
        }  # fmt: skip
        self.front = build_front(dim_in, self.config["front"])
        self.tables = nn.ModuleDict({table.name: TableScale(len(table.columns)) for table in tables})
        self.register_buffer("mean", torch.zeros(dim_in))
        self.register_buffer("scale", torch.ones(dim_in))
        self.head: Head = kind(self.aggregator.dim_out, self.config["head"])
        if self.aggregator.linear:
            nn.init.zeros_(self.head.linear.weight)  # type: ignore[arg-type]
        elif self.aggregator.lecun_head:
            nn.init.normal_(self.head.linear.weight, std=self.aggregator.dim_out**-0.5)  # type: ignore[arg-type]

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Build the model that has this `config`, with weights of its own.

        Parameters
        ----------
        config : mapping
            As `config` of a model or the metadata of its weights holds it; other keys than a model's are left aside.

        Raises
        ------
        ModelError
            If it lacks what a model needs.
        """
        for key in CONFIG_KEYS[:4]:
            if key not in config:
                raise ModelError(f"a model's configuration lacks {key!r}", todo="give that of a trained model")
        return cls(**{key: config[key] for key in CONFIG_KEYS if key in config})

    def standardise_by(self, mean: Tensor, spread: Tensor) -> None:
        """Set the moments (D,) of the training part; a constant feature is centred only."""
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(spread > 1e-6, spread, 1.0))

    def standardised(self, batch: BagBatch) -> BagBatch:
        """The same bags, tiles and tables standardised by the training part."""
        return replace(
            batch,
            features=(batch.features - self.mean).div_(self.scale),
            modalities={name: scale(batch.modalities[name]) for name, scale in self.tables.items()},
        )

    def forward(self, batch: BagBatch) -> tuple[Tensor, Tensor | None]:
        """Return (B, outputs) raw predictions and the (T,) attention, or None without one."""
        vectors, attention = self.aggregator(self.front(self.standardised(batch)))
        return self.head(vectors), attention

    def count_parameters(self) -> int:
        """Number of trained numbers."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)


def _modality(facts: Mapping[str, Any]) -> Modality:
    """A modality as JSON wrote it."""
    return Modality(facts["name"], tuple(facts["columns"]), tuple(tuple(group) for group in facts["groups"]))
