"""The bags of a cohort: all vectors in one block of memory, or of a file, a patient's rows side by side."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from histostudy.errors import FeatureError
from histostudy.features.layouts import Header, read_header, read_slide
from histostudy.features.scales import parents_of
from histostudy.features.store import encoding_of
from histostudy.log import progress

logger = logging.getLogger(__name__)


def _in_memory(shape: tuple[int, int]) -> np.ndarray:
    return np.empty(shape, np.float32)


@dataclass
class Bags:
    """Bags of patients.

    Attributes
    ----------
    features : ndarray of float32 or float16 (T, D)
        Rows by patient (ids ascending), within a patient by slide (ids ascending), within a slide as in its
        file. As they are stored, perhaps read-only; `bag` gives float32.
    offsets : ndarray of int64 (P + 1,)
        Rows of patient p are ``offsets[p]:offsets[p + 1]``.
    patient_ids : list of str
    coords : ndarray of int64 (T, 2)
        In the unit of `positions`.
    slide_index : ndarray of int32 (T,)
        Position in `slide_ids` of the slide a row comes from.
    slide_ids : list of str
        In the order of the rows.
    identity : dict
        What made the vectors; the part all slides share.
    positions : str
        ``px0``, ``um``, or ``unknown`` if that of any slide is.
    tile_px0 : dict
        Side of a tile by slide id, in the unit of `positions`; None where it is not stated.
    digest : str or None
        SHA-256 of all this, where it is known (see `histostudy.features.bagfile`).
    coarser : Bags or None
        The tiles' parents at coarser scales, of the same patients, where the study has such.
    scales : ndarray of float32 (T,), optional
        um per pixel of each row, where bags hold several scales.
    """

    features: np.ndarray
    offsets: np.ndarray
    patient_ids: list[str]
    coords: np.ndarray
    slide_index: np.ndarray
    slide_ids: list[str]
    identity: dict[str, Any]
    positions: str
    tile_px0: dict[str, float | None]
    digest: str | None = None
    coarser: Bags | None = None
    scales: np.ndarray | None = None

    @classmethod
    def load(
        cls,
        paths: Mapping[str, Path],
        slide_to_patient: Mapping[str, str],
        *,
        layout: str = "auto",
        encoder: str | None = None,
        mpp: Mapping[str, float] | None = None,
        max_bytes: int | None = None,
        allocate: Callable[[tuple[int, int]], np.ndarray] = _in_memory,
        scales: Sequence[float] = (),
    ) -> Bags:
        """Read the features of slides into bags of patients.

        Parameters
        ----------
        paths : mapping
            Feature file of each slide.
        slide_to_patient : mapping
            Patient of each slide; may hold more slides than `paths`.
        layout, encoder : str
            See `histostudy.features.layouts.read_slide`.
        mpp : mapping, optional
            Scale of slides at level 0, to turn STAMP's micrometres into pixels.
        max_bytes : int, optional
            Refuse to load more than this; nothing is read then but the files' headers.
        allocate : callable
            Gives the float32 array of a shape that the features are read into.
        scales : sequence of float
            Further scales of the study's tiles, um per pixel: their parents become `coarser`.

        Raises
        ------
        FeatureError
            If there is no slide, a slide has no patient, widths or identities differ between slides, a value is
            not finite, or `max_bytes` would be passed.
        """
        if not paths:
            raise FeatureError("no slide has features", todo="see the cohort flow for what was left out and why")
        homeless = sorted(set(paths) - set(slide_to_patient))
        if homeless:
            raise FeatureError(
                f"{len(homeless)} slides have features but no patient ({homeless[0]})", todo="add them to slides.csv"
            )
        order = sorted(paths, key=lambda slide: (str(slide_to_patient[slide]), slide))
        headers = {slide: read_header(paths[slide], layout, encoder) for slide in order}
        dim, identity = _agreed(headers, paths)
        total = sum(h.shape[0] for h in headers.values())
        need = total * (4 * dim + 20)
        if max_bytes is not None and need > max_bytes:
            raise FeatureError(
                f"{total} tiles of {dim} need {need / 1e9:.1f} GB of {max_bytes / 1e9:.1f} GB",
                todo="use fewer or larger tiles, or a machine with more memory",
            )

        features = allocate((total, dim))
        coords = np.empty((total, 2), np.int64)
        slide_index = np.empty(total, np.int32)
        tiles: dict[str, float | None] = {}
        units: set[str] = set()
        sizes: dict[str, int] = {}
        first = 0
        for i, slide in enumerate(progress(order, "bags", total=len(order))):
            last = first + headers[slide].shape[0]
            read = read_slide(
                paths[slide],
                layout,
                encoder=encoder,
                mpp=None if mpp is None else mpp.get(slide),
                into=features[first:last],
            )
            coords[first:last], slide_index[first:last] = read.coords, i
            tiles[slide] = read.tile_px0
            if last > first:
                units.add(read.positions)
            patient = str(slide_to_patient[slide])
            sizes[patient] = sizes.get(patient, 0) + last - first
            first = last
        patients = sorted(sizes)
        offsets = np.concatenate([[0], np.cumsum([sizes[p] for p in patients])]).astype(np.int64)
        positions = units.pop() if len(units) == 1 else "unknown"
        if positions == "unknown":
            coords[:] = -1
        bags = cls(features, offsets, patients, coords, slide_index, order, identity, positions, tiles)
        bags.coarser = parents_of(bags, paths, slide_to_patient, scales) if scales else None
        return bags

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return int(self.features.shape[1])

    def __len__(self) -> int:
        return len(self.patient_ids)

    def rows(self, patient_id: str) -> slice:
        """Rows of a patient in `features`, `coords` and `slide_index`.

        Raises
        ------
        FeatureError
            If the patient has none.
        """
        at = self._place.get(patient_id)
        if at is None:
            raise FeatureError(f"patient {patient_id} has no bag", todo="see the cohort flow for the reason")
        return slice(int(self.offsets[at]), int(self.offsets[at + 1]))

    @cached_property
    def _place(self) -> dict[str, int]:
        return {patient: at for at, patient in enumerate(self.patient_ids)}

    def bag(self, patient_id: str) -> np.ndarray:
        """Vectors (N, D) of a patient in float32: a view, unless they are stored as float16.

        Raises
        ------
        FeatureError
            If the patient has none.
        """
        return np.asarray(self.features[self.rows(patient_id)], np.float32)

    def slides(self, patient_id: str) -> list[str]:
        """Slides of a patient, in the order of the bag's rows (those with at least one tile)."""
        return [self.slide_ids[i] for i in np.unique(self.slide_index[self.rows(patient_id)])]

    def slide_rows(self, slide_id: str) -> slice:
        """Rows of a slide in `features`, `coords` and `slide_index`.

        Raises
        ------
        FeatureError
            If the slide has none.
        """
        if slide_id not in self.slide_ids:
            raise FeatureError(f"slide {slide_id} has no features", todo="see the cohort flow for the reason")
        rows = np.flatnonzero(self.slide_index == self.slide_ids.index(slide_id))
        return slice(int(rows[0]), int(rows[-1]) + 1) if len(rows) else slice(0, 0)

    def take(self, patient_ids: Iterable[str]) -> Bags:
        """Bags of these patients alone, in the order given; a copy (use `bag` for a view).

        Raises
        ------
        FeatureError
            If one of them has none.
        """
        ids = list(patient_ids)
        rows = [self.rows(p) for p in ids]
        picked: np.ndarray = np.concatenate([np.arange(r.start, r.stop) for r in rows] or [np.zeros(0, np.int64)])
        return Bags(
            self.features[picked],
            np.concatenate([[0], np.cumsum([r.stop - r.start for r in rows])]).astype(np.int64),
            ids,
            self.coords[picked],
            self.slide_index[picked],
            self.slide_ids,
            self.identity,
            self.positions,
            self.tile_px0,
            scales=None if self.scales is None else self.scales[picked],
        )


def _agreed(headers: Mapping[str, Header], paths: Mapping[str, Path]) -> tuple[int, dict[str, Any]]:
    """Width and identity that all slides share.

    Raises
    ------
    FeatureError
        If they do not; naming two slides that differ, and in what.
    """
    full: Sequence[str] = [s for s, h in headers.items() if h.shape[1]]
    if not full:
        raise FeatureError("no slide has a tile", todo="see the cohort flow for what was left out and why")
    first = full[0]
    dim, identity = headers[first].shape[1], encoding_of(headers[first].identity)
    for slide in full[1:]:
        if headers[slide].shape[1] != dim:
            raise FeatureError(
                f"features are {headers[slide].shape[1]} wide, those of {paths[first]} {dim}",
                where=paths[slide],
                todo="extract all slides of a study with one encoder",
            )
        other = encoding_of(headers[slide].identity)
        if other != identity:
            key = next(k for k in sorted({*other, *identity}) if other.get(k) != identity.get(k))
            raise FeatureError(
                f"{key} is {other.get(key)!r}, that of {paths[first]} {identity.get(key)!r}",
                where=paths[slide],
                todo="features of two identities do not mix: extract all slides the same way",
            )
    return dim, identity
