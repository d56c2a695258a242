"""Random patients with tiles and tables, for the tests of multimodal models."""

from __future__ import annotations

import torch
from torch import Tensor

from histostudy.models.batch import BagBatch, Modality, ModalityValues

RNA = Modality("rna", tuple(f"g{i}" for i in range(9)), ((0, 1, 2), (2, 3), (4, 5, 6, 7, 8), (8,)))
CLINICAL = Modality("clinical", ("age", "stage"), ((0, 1),))
BOTH = (RNA, CLINICAL)


def patients(sizes: list[int], seed: int = 0, dim: int = 5, missing: tuple[int, ...] = ()) -> BagBatch:
    """A float64 batch with both tables; the patients `missing` lack RNA."""
    generator = torch.Generator().manual_seed(seed)
    batch = BagBatch.pack([torch.randn(n, dim, generator=generator, dtype=torch.float64) for n in sizes])
    present = torch.ones(len(sizes), dtype=torch.bool)
    present[list(missing)] = False
    tables = {}
    for table, there in ((RNA, present), (CLINICAL, torch.ones_like(present))):
        values = torch.randn(len(sizes), len(table.columns), generator=generator, dtype=torch.float64)
        tables[table.name] = ModalityValues(values * there[:, None], there)
    batch.modalities = tables
    return batch


def pick(batch: BagBatch, rows: list[int]) -> BagBatch:
    """Some patients of a batch, in this order."""
    bags = [batch.features[batch.offsets[i] : batch.offsets[i + 1]] for i in rows]
    packed = BagBatch.pack(bags)
    packed.modalities = {k: ModalityValues(m.values[rows], m.present[rows]) for k, m in batch.modalities.items()}
    return packed


def with_values(batch: BagBatch, name: str, values: Tensor) -> BagBatch:
    """The same patients with other values of a table."""
    other = BagBatch(batch.features, batch.offsets)
    other.modalities = {**batch.modalities, name: ModalityValues(values, batch.modalities[name].present)}
    return other
