"""Bags of several scales: the parents of the tiles, beside them or among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from histostudy.errors import FeatureError
from histostudy.features.store import read_coarser

if TYPE_CHECKING:
    from histostudy.features.bags import Bags


def parents_of(
    bags: Bags, paths: Mapping[str, Path], slide_to_patient: Mapping[str, str], scales: Sequence[float]
) -> Bags:
    """The parents of the tiles of bags at coarser scales.

    Parameters
    ----------
    bags : Bags
        As read from `paths`.
    paths : mapping
        Feature file of each slide, of our own layout.
    slide_to_patient : mapping
        Patient of each slide.
    scales : sequence of float
        um per pixel.

    Returns
    -------
    Bags
        Of the same patients in the same order; within a patient by slide, within a slide by scale, finest first.

    Raises
    ------
    FeatureError
        If a file has no tiles at one of the scales.
    """
    features, coords, slide_index, of_scale = [], [], [], []
    sizes = dict.fromkeys(bags.patient_ids, 0)
    for i, slide in enumerate(bags.slide_ids):
        for mpp in scales:
            vectors, places = read_coarser(paths[slide], mpp)
            features.append(vectors.astype(np.float32))
            coords.append(places)
            slide_index.append(np.full(len(vectors), i, np.int32))
            of_scale.append(np.full(len(vectors), mpp, np.float32))
            sizes[str(slide_to_patient[slide])] += len(vectors)
    offsets = np.concatenate([[0], np.cumsum(list(sizes.values()))]).astype(np.int64)
    return type(bags)(
        np.concatenate(features), offsets, bags.patient_ids, np.concatenate(coords), np.concatenate(slide_index),
        bags.slide_ids, bags.identity, bags.positions, bags.tile_px0, scales=np.concatenate(of_scale),
    )  # fmt: skip


def of_all_scales(bags: Bags) -> Bags:
    """The tiles and their parents in one bag a patient: his tiles, in their order, then the parents.

    A copy in memory; the bags themselves where they have no parents.

    Raises
    ------
    FeatureError
        If the bags do not say the scale of their tiles.
    """
    coarse = bags.coarser
    if coarse is None or coarse.scales is None:
        return bags
    mpp = bags.identity.get("mpp_requested")
    if mpp is None:
        raise FeatureError("the features do not say the scale of their tiles", todo="extract them again")
    fine, far = np.diff(bags.offsets), np.diff(coarse.offsets)
    offsets = np.concatenate([[0], np.cumsum(fine + far)]).astype(np.int64)
    # where each row goes: behind the rows of the patients before it, parents behind the patient's own tiles
    own = np.arange(len(bags.features)) + np.repeat(coarse.offsets[:-1], fine)
    theirs = np.arange(len(coarse.features)) + np.repeat(bags.offsets[1:], far)

    def joined(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        out = np.empty((len(a) + len(b), *a.shape[1:]), np.result_type(a, b))
        out[own], out[theirs] = a, b
        return out

    scales = joined(np.full(len(bags.features), mpp, np.float32), coarse.scales)
    return type(bags)(
        joined(bags.features, coarse.features), offsets, bags.patient_ids, joined(bags.coords, coarse.coords),
        joined(bags.slide_index, coarse.slide_index), bags.slide_ids, bags.identity, bags.positions, bags.tile_px0,
        bags.digest, scales=scales,
    )  # fmt: skip
