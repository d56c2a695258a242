"""Late fusion: an aggregator of tiles and the tables beside it, joined after each has become a vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from histostudy.errors import ModelError
from histostudy.models.batch import BagBatch, Modality
from histostudy.models.layers import relu_layers
from histostudy.models.multimodal.encoders import TableVectors
from histostudy.models.registry import Aggregator, DrawBags, DrawTiles, Loss, Moment

if TYPE_CHECKING:
    from histostudy.models.model import MILModel

FUSIONS = ("concat", "bilinear")


class GatedBilinear(nn.Module):
    """Gated bilinear fusion of two vectors (Pathomic Fusion, Chen et al., IEEE TMI 2022).

    With h_i = ReLU(W_i o_i) and z_i = o_1' B_i o_2, each vector is gated by both, sigmoid(z_i) * h_i, and goes
    through a ReLU layer of s = width / scale to u_i with a 1 appended. All products u_1 u_2' go through a layer, which
    a second layer joins with u_1 and u_2 themselves.

    Parameters
    ----------
    width : int
        Of both vectors and of the result; 256 in the paper.
    scale : int
        How much narrower u_i is; 8 in the paper.
    dropout : float
        After each layer but the gates.
    """

    def __init__(self, width: int, scale: int = 8, dropout: float = 0.25) -> None:
        super().__init__()
        narrow = max(1, width // scale)
        self.inner = nn.ModuleList(nn.Linear(width, narrow) for _ in range(2))
        self.gate = nn.ModuleList(nn.Bilinear(width, width, narrow) for _ in range(2))
        self.outer = nn.ModuleList(relu_layers(narrow, narrow, dropout=dropout) for _ in range(2))
        self.products = relu_layers((narrow + 1) ** 2, width, dropout=dropout)
        self.join = relu_layers(width + 2 * (narrow + 1), width, dropout=dropout)

    def narrow(self, one: Tensor, two: Tensor) -> list[Tensor]:
        """The two gated vectors (B, s + 1) with their 1, of two (B, width)."""
        parts = []
        dtype = self.get_parameter("gate.0.weight").dtype
        exact = [x.to(dtype) for x in (one, two)]  # autocast knows no bilinear form on a CPU
        for own, inner, gate, outer in zip((one, two), self.inner, self.gate, self.outer, strict=True):
            gated = torch.sigmoid(gate(*exact)) * inner(own).relu()
            parts.append(pad(outer(gated), (0, 1), value=1.0))
        return parts

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        """(B, width) of two (B, width)."""
        first, second = self.narrow(one, two)
        products = (first[:, :, None] * second[:, None, :]).flatten(1)
        return self.join(torch.cat([self.products(products), first, second], 1))


def _no_loss(vectors: Tensor, patients: Tensor | None = None) -> Tensor:
    raise ModelError(
        "an aggregator with a loss of other vectors cannot be fused with tables", todo="leave out modalities"
    )


class LateFusion(Aggregator):
    """A tile-only aggregator whose vector is fused with those of tables.

    ``concat``: the vectors side by side, then two ReLU layers (the late fusion that MCAT compares with, ICCV 2021).
    ``bilinear``: `GatedBilinear` of the tiles' vector and the tables'. The bag's vector first goes through a ReLU layer
    to the common width (our reading: the papers' ABMIL already ends in one). Several tables are set side by side, for
    ``bilinear`` after one more ReLU layer.

    Parameters
    ----------
    base : Aggregator
        Aggregator of the tiles. Its attention is returned, its penalty kept.
    modalities : tuple of Modality
        Tables, each through SNN blocks of its own.
    how : str
        ``concat`` or ``bilinear``.
    width : int
        Of the vectors; 256 in the paper.
    blocks : int
        SNN blocks of each table.
    dropout : float
        Of the tables and the fusion.

    Raises
    ------
    ModelError
        If `how` is neither, or the vectors of `base` are predictions, so that nothing is left to fuse.
    """

    multimodal: ClassVar[bool] = True

    def __init__(
        self,
        base: Aggregator,
        modalities: tuple[Modality, ...],
        how: Literal["concat", "bilinear"] | str = "concat",
        *,
        width: int = 128,
        blocks: int = 2,
        dropout: float = 0.25,
    ) -> None:
        if how not in FUSIONS:
            raise ModelError(f"unknown fusion {how!r}", todo=f"known: {', '.join(FUSIONS)}")
        if base.scores:
            raise ModelError(
                f"{type(base).__name__} predicts by itself and cannot be fused with tables",
                todo="leave out the model's modalities, or name another aggregator",
            )
        super().__init__(base.dim_in, base.options)
        self.base = base
        self.tables = TableVectors(modalities, width, blocks, dropout)
        self.project = relu_layers(base.dim_out, width, dropout=dropout)
        self.dim_out = width
        self.fuse: nn.Module
        if how == "concat":
            self.fuse = relu_layers(width + self.tables.dim_out, width, width)
        else:
            several = len(modalities) > 1
            self.merge = relu_layers(self.tables.dim_out, width, dropout=dropout) if several else nn.Identity()
            self.fuse = GatedBilinear(width, dropout=dropout)
        self.how = how

    @property
    def moment(self) -> Moment:  # type: ignore[override]
        """Where the training is, as the base knows it."""
        return self.base.moment

    @moment.setter
    def moment(self, moment: Moment) -> None:
        self.base.moment = moment

    def forward(self, batch: BagBatch) -> tuple[Tensor, Tensor | None]:
        """Pool the tiles, encode the tables, fuse."""
        vectors, attention = self.base(batch)
        image, tables = self.project(vectors), self.tables(batch)
        if self.how == "concat":
            return self.fuse(torch.cat([image, tables], 1)), attention
        return self.fuse(image, self.merge(tables)), attention

    def start(self, targets: Mapping[str, Tensor]) -> None:
        """Start the base."""
        self.base.start(targets)

    def set_sources(self, models: Sequence[MILModel], mean: Tensor, scale: Tensor) -> None:
        """Give the base its sources."""
        self.base.set_sources(models, mean, scale)

    def prepare(self, draw: DrawTiles, seed: int) -> None:
        """Prepare the base."""
        self.base.prepare(draw, seed)

    def pretrain(self, bags: DrawBags, seed: int) -> None:
        """Let the base learn from the bags."""
        self.base.pretrain(bags, seed)

    def penalty(self, targets: Mapping[str, Tensor], loss: Loss) -> Tensor | None:
        """The base's; it must not ask for the loss of vectors of its own, which are not those that are fused."""
        return self.base.penalty(targets, _no_loss)
