"""The tiles of all patients in one tensor, and batches of some of them."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
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
#: Numbers held in float64 at a time where moments are taken.
MOMENT_NUMBERS = 1 << 22

Picked = slice | Tensor


class TileStore:
    """Tiles, contiguous by patient.

    Parameters
    ----------
    features : Tensor
        (T, D) float32, or float16, of which batches are float32. Perhaps the pages of a file that nothing may write to.
    offsets : sequence of int
        (P + 1,) rows of each patient.
    patient_ids : sequence of str
        (P,) patients; those without a tile are left out of the store.
    device : str
        Where batches go.
    coords : Tensor, optional
        (T, 2) int64 positions, where they are known.
    scales : Tensor, optional
        (T,) float32 um per pixel, where bags hold several scales.
    """

    def __init__(
        self,
        features: Tensor,
        offsets: Sequence[int],
        patient_ids: Sequence[str],
        device: str = "cpu",
        coords: Tensor | None = None,
        scales: Tensor | None = None,
    ) -> None:
        pairs = [(p, int(a), int(b)) for p, a, b in zip(patient_ids, offsets[:-1], offsets[1:], strict=True)]
        full = [(patient, start) for patient, start, stop in pairs if stop > start]
        self.features, self.device, self.coords, self.scales = features, device, coords, scales
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
        coords = None if bags.positions == "unknown" else _shared(bags.coords)
        scales = None if bags.scales is None else _shared(bags.scales)
        return cls(_shared(bags.features), bags.offsets.tolist(), bags.patient_ids, device, coords, scales)

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
        return _widened(self.features[self._slice(row)])

    def _slice(self, row: int) -> slice:
        return slice(self.offsets[row], self.offsets[row + 1])

    def batch(
        self, rows: Sequence[int], max_tiles: int | None = None, generator: torch.Generator | None = None
    ) -> BagBatch:
        """Pack patients; with `max_tiles`, that many tiles of each, drawn without replacement.

        A single whole bag on the CPU is no copy: nobody may write to the features of a batch.
        """
        picked: list[Picked] = [self._slice(row) for row in rows]
        if max_tiles is not None:
            picked = [_draw(one, max_tiles, generator) for one in picked if isinstance(one, slice)]
        offsets = torch.tensor([0, *map(_count, picked)]).cumsum(0)
        return BagBatch(
            self._gathered(self.features, picked), offsets.to(self.device),
            None if self.coords is None else self._gathered(self.coords, picked),
            {name: one.of(rows, self.device) for name, one in self.modalities.items()},
            None if self.scales is None else self._gathered(self.scales[:, None], picked)[:, 0],
        )  # fmt: skip

    def _gathered(self, source: Tensor, picked: Sequence[Picked]) -> Tensor:
        """Rows of several patients end to end, on the device."""
        if source.device.type != "cpu":
            return _widened(torch.cat([source[one] for one in picked]))
        if len(picked) == 1 and isinstance(picked[0], slice):
            return _widened(source[picked[0]]).to(self.device)
        shape, dtype = (sum(map(_count, picked)), source.shape[1]), _wide(source.dtype)
        if self.device == "cuda":  # memory that it reads by itself
            gathered = torch.empty(shape, dtype=dtype, pin_memory=True)
        else:  # numpy takes large arrays in huge pages: 5 times as fast as torch's of 100 MB
            gathered = torch.from_numpy(np.empty(shape, torch.empty(0, dtype=dtype).numpy().dtype))
        torch.cat([source[one] for one in picked], out=gathered)
        return gathered.to(self.device, non_blocking=True)

    def evaluation_batches(self, rows: Sequence[int]) -> Iterator[BagBatch]:
        """Batches of whole bags, in order, each of about `EVALUATION_TILES` tiles at most."""
        some: list[int] = []
        tiles = 0
        for row in rows:
            size = _count(self._slice(row))
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
        drawn = [_widened(self.features[_draw(self._slice(row), each, generator)]).cpu() for row in rows]
        return torch.cat(drawn)[:most]

    def moments(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Mean and population standard deviation (D,) of the tiles of patients, in float64, in two passes."""
        count = sum(_count(self._slice(row)) for row in rows)
        mean = torch.stack([part.sum(0) for part in self._parts(rows)]).sum(0) / count
        squares = torch.stack([part.sub_(mean).square_().sum(0) for part in self._parts(rows)]).sum(0)
        return mean.cpu(), (squares / count).sqrt().cpu()

    def _parts(self, rows: Sequence[int]) -> Iterator[Tensor]:
        """The tiles of patients in float64, some `MOMENT_NUMBERS` at a time: small bags together, large ones cut."""
        most = max(1, MOMENT_NUMBERS // max(1, self.dim))
        some: list[slice] = []
        tiles = 0
        for row in rows:
            whole = self._slice(row)
            for first in range(whole.start, whole.stop, most):
                piece = slice(first, min(first + most, whole.stop))
                if some and tiles + _count(piece) > most:
                    yield self._doubles(some)
                    some, tiles = [], 0
                some.append(piece)
                tiles += _count(piece)
        if some:
            yield self._doubles(some)

    def _doubles(self, pieces: Sequence[slice]) -> Tensor:
        numbers = torch.empty(sum(map(_count, pieces)), self.dim, dtype=torch.float64, device=self.features.device)
        for part, one in zip(numbers.split(list(map(_count, pieces))), pieces, strict=True):
            part.copy_(self.features[one])
        return numbers


def _shared(array: np.ndarray) -> Tensor:
    """A tensor over the memory of an array, which may be the pages of a file that nothing may write to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(array)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Half-precision numbers are computed with in float32."""
    return torch.promote_types(dtype, torch.float32) if dtype.is_floating_point else dtype


def _widened(values: Tensor) -> Tensor:
    return values.to(_wide(values.dtype))


def _count(picked: Picked) -> int:
    return picked.stop - picked.start if isinstance(picked, slice) else len(picked)


def _draw(rows: slice, most: int, generator: torch.Generator | None) -> Picked:
    """At most `most` of the rows, drawn without replacement, in order."""
    count = _count(rows)
    if count <= most:
        return rows
    return rows.start + torch.randperm(count, generator=generator)[:most].sort().values
