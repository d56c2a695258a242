"""The tiles of all patients in one tensor, and batches of some of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from histostudy.errors import ModelError
from histostudy.models.batch import BagBatch, segment_mean

if TYPE_CHECKING:
    from histostudy.features.bags import Bags
    from histostudy.training.modalities import RunModality

#: Tiles a batch when no gradient is kept.
EVALUATION_TILES = 1 << 16
#: Share of a GPU's free memory the tiles may take; otherwise they stay on the host.
DEVICE_SHARE = 0.5


class TileStore:
    """Tiles, contiguous by patient.

    Parameters
    ----------
    features : Tensor
        (T, D) float32.
    offsets : sequence of int
        (P + 1,) rows of each patient.
    patient_ids : sequence of str
        (P,) patients; those without a tile are left out of the store.
    device : str
        Where batches go.
    coords : Tensor, optional
        (T, 2) int64 positions, where they are known.
    """

    def __init__(
        self,
        features: Tensor,
        offsets: Sequence[int],
        patient_ids: Sequence[str],
        device: str = "cpu",
        coords: Tensor | None = None,
    ) -> None:
        pairs = [(p, int(a), int(b)) for p, a, b in zip(patient_ids, offsets[:-1], offsets[1:], strict=True)]
        full = [(patient, start) for patient, start, stop in pairs if stop > start]
        self.features, self.device, self.coords = features, device, coords
        self.offsets = [start for _, start in full] + [int(offsets[-1])]
        self.patient_ids = [patient for patient, _ in full]
        self._means: TileStore | None = None
        self.modalities: Mapping[str, RunModality] = {}
        self._row = {patient: i for i, patient in enumerate(self.patient_ids)}
        if device == "cuda" and features.nbytes < DEVICE_SHARE * torch.cuda.mem_get_info()[0]:
            self.features = features.to(device)

    @classmethod
    def of(cls, bags: Bags, device: str = "cpu") -> TileStore:
        """The tiles of `bags`, without a copy on the CPU."""
        coords = None if bags.positions == "unknown" else torch.from_numpy(bags.coords)
        return cls(torch.from_numpy(bags.features), bags.offsets.tolist(), bags.patient_ids, device, coords)

    @classmethod
    def without_tiles(cls, patient_ids: Sequence[str], device: str = "cpu") -> TileStore:
        """Patients of whom only tables are known: one tile of no width each."""
        return cls(torch.zeros(len(patient_ids), 0), range(len(patient_ids) + 1), patient_ids, device)

    def beside(self, modalities: Mapping[str, RunModality]) -> TileStore:
        """The same tiles beside the modalities of a run."""
        other = copy.copy(self)
        other.modalities, other._means = modalities, None
        return other

    @property
    def dim(self) -> int:
        """Width of the features."""
        return self.features.shape[1]

    def rows(self, patient_ids: Sequence[str]) -> list[int]:
        """Places of patients.

        Raises
        ------
        ModelError
            If a patient has no tiles.
        """
        missing = [p for p in patient_ids if p not in self._row]
        if missing:
            raise ModelError(f"patient {missing[0]} has no tiles", todo="leave the patient out of the splits")
        return [self._row[p] for p in patient_ids]

    def bag(self, row: int) -> Tensor:
        """(N, D) tiles of the patient at `row`."""
        return self.features[self.offsets[row] : self.offsets[row + 1]]

    def batch(
        self, rows: Sequence[int], max_tiles: int | None = None, generator: torch.Generator | None = None
    ) -> BagBatch:
        """Pack patients; with `max_tiles`, that many tiles of each, drawn without replacement."""
        slices = [slice(self.offsets[row], self.offsets[row + 1]) for row in rows]
        picked: list[slice | Tensor] = list(slices)
        if max_tiles is not None:
            picked = [_draw(one, max_tiles, generator) for one in slices]
        bags = [self.features[one] for one in picked]
        coords = None if self.coords is None else [self.coords[one] for one in picked]
        packed = BagBatch.pack(bags, coords)
        tables = {name: one.of(rows, self.device) for name, one in self.modalities.items()}
        return BagBatch(
            packed.features.to(self.device), packed.offsets.to(self.device),
            None if packed.coords is None else packed.coords.to(self.device), tables,
        )  # fmt: skip

    def evaluation_batches(self, rows: Sequence[int]) -> Iterator[BagBatch]:
        """Batches of whole bags, in order, each of about `EVALUATION_TILES` tiles at most."""
        some: list[int] = []
        tiles = 0
        for row in rows:
            size = self.offsets[row + 1] - self.offsets[row]
            if some and tiles + size > EVALUATION_TILES:
                yield self.batch(some)
                some, tiles = [], 0
            some.append(row)
            tiles += size
        if some:
            yield self.batch(some)

    def means(self) -> TileStore:
        """A store of one tile a patient: the mean. For a linear model of the mean that is all it needs."""
        if self._means is not None:
            return self._means
        means = [segment_mean(b.features, b) for b in self.evaluation_batches(range(len(self.patient_ids)))]
        count = len(self.patient_ids)
        self._means = TileStore(torch.cat(means), range(count + 1), self.patient_ids, self.device)
        self._means.modalities = self.modalities
        return self._means

    def draw(self, rows: Sequence[int], most: int, seed: int) -> Tensor:
        """At most `most` tiles of patients, in equal numbers where they have them: (n, D) on the CPU."""
        generator = torch.Generator().manual_seed(seed)
        each = max(1, most // len(rows))
        slices = [slice(self.offsets[row], self.offsets[row + 1]) for row in rows]
        drawn = [self.features[_draw(one, each, generator)].cpu() for one in slices]
        return torch.cat(drawn)[:most]

    def moments(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Mean and population standard deviation (D,) of the tiles of patients, in float64, in two passes."""
        count = sum(self.offsets[row + 1] - self.offsets[row] for row in rows)
        mean = torch.stack([self.bag(row).double().sum(0) for row in rows]).sum(0) / count
        squares = torch.stack([(self.bag(row).double() - mean).square().sum(0) for row in rows]).sum(0)
        return mean.cpu(), (squares / count).sqrt().cpu()


def _draw(rows: slice, most: int, generator: torch.Generator | None) -> slice | Tensor:
    """At most `most` of the rows, drawn without replacement, in order."""
    count = rows.stop - rows.start
    if count <= most:
        return rows
    return rows.start + torch.randperm(count, generator=generator)[:most].sort().values
