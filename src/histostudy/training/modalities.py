"""Modalities of a run: columns chosen and moments taken on the training part, values of everybody beside the tiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from histostudy.errors import ModelError
from histostudy.models.batch import Modality, ModalityValues

if TYPE_CHECKING:
    from histostudy.cohort.modalities import ModalityTable
    from histostudy.models.model import MILModel
    from histostudy.study import Modality as Settings


@dataclass(frozen=True)
class RunModality:
    """A modality for one run.

    Attributes
    ----------
    spec : Modality
        Its columns and groups.
    values : Tensor
        (P, C) float32 of the store's patients, NaN where missing.
    present : Tensor
        (P,) bool.
    fill, centre, scale : Tensor
        (C,) median, and what `TableScale` subtracts and divides by; of the training part.
    """

    spec: Modality
    values: Tensor
    present: Tensor
    fill: Tensor
    centre: Tensor
    scale: Tensor

    @property
    def somebody_lacks_it(self) -> bool:
        """Whether any patient of the store has no such table."""
        return not bool(self.present.all())

    def of(self, rows: Sequence[int], device: str) -> ModalityValues:
        """The patients at `rows`."""
        index = torch.as_tensor(rows, dtype=torch.int64)
        return ModalityValues(self.values[index].to(device), self.present[index].to(device))

    def missing(self, rows: Sequence[int]) -> int:
        """How many patients at `rows` do not have it."""
        return int((~self.present[torch.as_tensor(rows, dtype=torch.int64)]).sum())


def fit_modality(
    table: ModalityTable, settings: Settings, patient_ids: Sequence[str], train_rows: Sequence[int]
) -> RunModality:
    """Choose columns and take moments on the training part alone.

    Parameters
    ----------
    table : ModalityTable
        As read.
    settings : histostudy.study.Modality
        Scaling, and how many columns are kept.
    patient_ids : sequence of str
        Patients of the store, in its order.
    train_rows : sequence of int
        Rows of the training part among them.

    Raises
    ------
    ModelError
        If nobody of the training part has the modality, no column varies there, or no group keeps one.
    """
    place = {patient: i for i, patient in enumerate(table.patient_ids)}
    where = np.array([place.get(p, -1) for p in patient_ids])
    present = where >= 0
    training = np.array(train_rows)[present[np.array(train_rows)]]
    if not len(training):
        raise ModelError(f"nobody in a training part has modality {table.name!r}", todo="use fewer folds")
    fit = table.values[where[training]]
    spread = np.nan_to_num(np.nanstd(np.where(np.isfinite(fit).any(0), fit, 0.0), axis=0))
    keep = np.flatnonzero(spread > 1e-12)
    if not len(keep):
        raise ModelError(f"no column of modality {table.name!r} varies in a training part", todo="use fewer folds")
    if settings.top is not None and len(keep) > settings.top:
        keep = np.sort(keep[np.argsort(-spread[keep], kind="stable")[: settings.top]])
    fit = fit[:, keep]
    fill = np.nanmedian(fit, axis=0)
    if settings.scale == "minmax":
        low, high = np.nanmin(fit, axis=0), np.nanmax(fit, axis=0)
        centre, scale = (low + high) / 2, (high - low) / 2
    elif settings.scale == "zscore":
        centre, scale = np.nanmean(fit, axis=0), spread[keep]
    else:
        centre, scale = np.zeros(len(keep)), np.ones(len(keep))
    values = np.full((len(patient_ids), len(keep)), np.nan)
    values[present] = table.values[where[present]][:, keep]
    tensors = [torch.as_tensor(np.asarray(x), dtype=torch.float32) for x in (values, fill, centre, scale)]
    return RunModality(_spec(table, keep), tensors[0], torch.from_numpy(present), *tensors[1:])


def _spec(table: ModalityTable, keep: np.ndarray) -> Modality:
    """Kept columns and the groups that still have some; without groups, one of all."""
    columns = tuple(table.columns[i] for i in keep)
    number = {name: i for i, name in enumerate(columns)}
    if not table.groups:
        return Modality(table.name, columns, (tuple(range(len(columns))),))
    groups = [tuple(number[c] for c in members if c in number) for members in table.groups.values()]
    if not any(groups):
        raise ModelError(f"no column of modality {table.name!r} that is kept is in a group", todo="raise its `top`")
    return Modality(table.name, columns, tuple(g for g in groups if g))


def install(network: MILModel, modalities: Mapping[str, RunModality]) -> None:
    """Give a network the moments of its modalities."""
    for name, one in modalities.items():
        scale = network.tables[name]
        for buffer in ("fill", "centre", "scale"):
            getattr(scale, buffer).copy_(getattr(one, buffer))
