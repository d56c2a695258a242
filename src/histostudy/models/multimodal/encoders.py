"""Encoders of tables beside the slides: self-normalising networks over a whole table or over its functional groups.

A block is Linear, ELU, AlphaDropout, with weights of variance 1 / fan-in and no bias at the start (Klambauer et al.,
NeurIPS 2017; ELU in place of SELU as Chen et al. use it, MCAT, ICCV 2021). A patient who lacks a table gets a learned
vector (our reading: the papers leave such patients out), which its values never reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import elu, embedding, pad

from histostudy.errors import ModelError
from histostudy.models.batch import BagBatch, Modality

#: Spread of a learned vector at the start: near the training mean, but not the same for any two numbers.
START = 0.02


class SNNBlock(nn.Sequential):
    """Linear, ELU, AlphaDropout, (..., dim_in) to (..., dim_out); weights N(0, 1 / fan-in), bias 0."""

    def __init__(self, dim_in: int, dim_out: int, dropout: float = 0.25) -> None:
        linear = nn.Linear(dim_in, dim_out)
        nn.init.normal_(linear.weight, std=dim_in**-0.5)
        nn.init.zeros_(linear.bias)
        super().__init__(linear, nn.ELU(), nn.AlphaDropout(dropout))


class GroupedLinear(nn.Module):
    """One linear map for each group of columns, all at once.

    Group g maps its own columns x[g] to x[g] W_g + b_g. Weights of all groups lie end to end; groups of like size
    (up to the next power of two) are padded together and multiplied as one batch of matrices, so that hundreds of
    pathways of 5 to 500 genes cost a few calls and at most twice their own multiplications.

    Parameters
    ----------
    groups : sequence of sequence of int
        Column numbers of each group; a column may be in several.
    columns : int
        Number of columns, P.
    width : int
        Width of the result, h.
    """

    order: Tensor

    def __init__(self, groups: Sequence[Sequence[int]], columns: int, width: int) -> None:
        super().__init__()
        sizes = torch.tensor([len(group) for group in groups])
        starts = sizes.cumsum(0) - sizes
        spread = sizes.repeat_interleave(sizes).rsqrt()
        self.weight = nn.Parameter(torch.randn(int(sizes.sum()), width) * spread[:, None])
        self.bias = nn.Parameter(torch.zeros(len(groups), 1, width))
        buckets: dict[int, list[int]] = {}
        for g, group in enumerate(groups):
            buckets.setdefault((len(group) - 1).bit_length(), []).append(g)
        self.buckets = len(buckets)
        for k, (_, members) in enumerate(sorted(buckets.items())):
            widest = max(len(groups[g]) for g in members)
            # padding reads column P, which is zero, and any row of the weights, which then gets no gradient
            read = torch.full((len(members), widest), columns)
            rows = torch.zeros(len(members), widest, dtype=torch.int64)
            for i, g in enumerate(members):
                read[i, : len(groups[g])] = torch.tensor(groups[g])
                rows[i, : len(groups[g])] = starts[g] + torch.arange(len(groups[g]))
            self.register_buffer(f"read{k}", read)
            self.register_buffer(f"rows{k}", rows)
        placed = torch.tensor([g for _, members in sorted(buckets.items()) for g in members])
        self.register_buffer("order", placed.argsort())

    def forward(self, values: Tensor) -> Tensor:
        """(B, P) to (G, B, h)."""
        values = pad(values, (0, 1)).T
        parts = []
        for k in range(self.buckets):
            own = values[self.get_buffer(f"read{k}")].transpose(1, 2)  # (g, B, size)
            parts.append(own @ embedding(self.get_buffer(f"rows{k}"), self.weight))
        return torch.cat(parts)[self.order] + self.bias


class GroupEncoder(nn.Module):
    """A token of each functional group of a table: its own stack of SNN blocks over its own columns.

    MCAT's six gene categories through two blocks of width 256; SurvPath's 331 pathways likewise.

    Parameters
    ----------
    modality : Modality
        The table; its groups hold at least one column each.
    width, blocks, dropout
        Of the tokens, number of blocks, of AlphaDropout.

    Raises
    ------
    ModelError
        If the table has no group, or a group no column or one that is not there.
    """

    def __init__(self, modality: Modality, width: int, blocks: int = 2, dropout: float = 0.25) -> None:
        super().__init__()
        _check_groups(modality)
        self.modality = modality
        groups = len(modality.groups)
        self.first = GroupedLinear(modality.groups, len(modality.columns), width)
        self.weights = nn.ParameterList(torch.randn(groups, width, width) * width**-0.5 for _ in range(blocks - 1))
        self.biases = nn.ParameterList(torch.zeros(groups, 1, width) for _ in range(blocks - 1))
        self.dropout = nn.AlphaDropout(dropout)
        self.missing = nn.Parameter(torch.randn(groups, width) * START)

    def forward(self, batch: BagBatch) -> Tensor:
        """(B, G, width) tokens."""
        values, present = table_of(batch, self.modality, self.missing.dtype)
        tokens = self.dropout(elu(self.first(values)))
        for weight, bias in zip(self.weights, self.biases, strict=True):
            tokens = self.dropout(elu(tokens @ weight + bias))
        return torch.where(present[:, None, None], tokens.transpose(0, 1), self.missing)


class GroupTokens(nn.Module):
    """The tokens of the groups of all modalities, one modality after the other; parameters as `GroupEncoder`.

    Attributes
    ----------
    count : int
        Number of tokens, G.
    """

    def __init__(self, modalities: Sequence[Modality], width: int, blocks: int = 2, dropout: float = 0.25) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(GroupEncoder(m, width, blocks, dropout) for m in modalities)
        self.count = sum(len(m.groups) for m in modalities)

    def forward(self, batch: BagBatch) -> Tensor:
        """(B, G, width) tokens."""
        return torch.cat([encoder(batch) for encoder in self.encoders], 1)


class TableEncoder(nn.Module):
    """A vector of a whole table: a stack of SNN blocks over all its columns.

    Parameters
    ----------
    modality : Modality
        The table; its groups do not matter.
    width, blocks, dropout
        Of the vector, number of blocks, of AlphaDropout.

    Raises
    ------
    ModelError
        If the table has no column.
    """

    def __init__(self, modality: Modality, width: int, blocks: int = 2, dropout: float = 0.25) -> None:
        super().__init__()
        if not modality.columns:
            raise ModelError(f"modality {modality.name} has no column", todo="give it columns, or leave it out")
        self.modality = modality
        sizes = [len(modality.columns)] + [width] * blocks
        self.blocks = nn.Sequential(*(SNNBlock(one, two, dropout) for one, two in pairwise(sizes)))
        self.missing = nn.Parameter(torch.randn(width) * START)

    def forward(self, batch: BagBatch) -> Tensor:
        """(B, width) vectors."""
        values, present = table_of(batch, self.modality, self.missing.dtype)
        return torch.where(present[:, None], self.blocks(values), self.missing)


class TableVectors(nn.Module):
    """The vectors of all modalities side by side; parameters as `TableEncoder`.

    Attributes
    ----------
    dim_out : int
        Width of the result.
    """

    def __init__(self, modalities: Sequence[Modality], width: int, blocks: int = 2, dropout: float = 0.25) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(TableEncoder(m, width, blocks, dropout) for m in modalities)
        self.dim_out = width * len(modalities)

    def forward(self, batch: BagBatch) -> Tensor:
        """(B, dim_out) vectors."""
        return torch.cat([encoder(batch) for encoder in self.encoders], 1)


def table_of(batch: BagBatch, modality: Modality, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Values (B, P) of a modality, zero wherever it is missing, and (B,) whether it is there.

    Raises
    ------
    ModelError
        If the batch does not have the modality, or has it with other columns.
    """
    if modality.name not in batch.modalities:
        raise ModelError(f"the patients come without modality {modality.name}", todo="give its table to the study")
    table = batch.modalities[modality.name]
    if table.values.shape[1] != len(modality.columns):
        raise ModelError(
            f"modality {modality.name} has {table.values.shape[1]} columns, the model expects {len(modality.columns)}",
            todo="give the table that the model was trained with",
        )
    # not by multiplication: a NaN in the row of a patient without the table must not survive, in the gradient either
    return torch.where(table.present[:, None], table.values, 0).to(dtype), table.present


def _check_groups(modality: Modality) -> None:
    """Refuse groups that cannot be encoded."""
    if not modality.groups:
        raise ModelError(f"modality {modality.name} has no group", todo="name groups of its columns, or one of all")
    for g, group in enumerate(modality.groups):
        if not group:
            raise ModelError(f"group {g} of modality {modality.name} has no column", todo="leave it out")
        if not all(0 <= column < len(modality.columns) for column in group):
            raise ModelError(
                f"group {g} of modality {modality.name} names a column that is not there",
                todo=f"the columns are 0 to {len(modality.columns) - 1}",
            )
