"""Stitching, counts and thresholds against what they must be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from histostudy.training.segmentation.annotations import IGNORE
from histostudy.training.segmentation.predict import (
    Prediction,
    choose_threshold,
    corners,
    counts,
    dice_of,
    histogram,
    stitch,
)


def _tissue(height: int, width: int) -> np.ndarray:
    """Ragged tissue that reaches every border."""
    rng = np.random.default_rng(height * 1000 + width)
    out = rng.random((height, width)) < 0.1
    out[0, 0] = out[-1, -1] = out[0, -1] = out[-1, 0] = True
    out[height // 4 : height // 2] = True
    return out


def _one(x: Tensor) -> Tensor:
    """A network that is sure of the first class everywhere."""
    logits = torch.zeros(x.shape[0], 2, *x.shape[2:])
    logits[:, 1] = 50
    return logits


@pytest.mark.parametrize("overlap", [0, 1, 7, 15])
@pytest.mark.parametrize("shape", [(16, 16), (40, 33), (17, 65), (5, 90)])
def test_a_constant_one_gives_the_tissue_back_borders_too(shape: tuple[int, int], overlap: int) -> None:
    tissue = _tissue(*shape)
    seen: list[tuple[int, int]] = []

    def read(at: Sequence[tuple[int, int]], size: int) -> Tensor:
        seen.extend(at)
        return torch.zeros(len(at), 3, size, size)

    found = stitch(_one, read, tissue, size=16, overlap=overlap, batch=3)
    assert (found.mask(255) == tissue).all()
    assert len(set(seen)) == len(seen)  # no window is read twice


def test_windows_without_tissue_are_not_read() -> None:
    tissue = np.zeros((64, 64), bool)
    tissue[40, 40] = True
    seen: list[tuple[int, int]] = []

    def read(at: Sequence[tuple[int, int]], size: int) -> Tensor:
        seen.extend(at)
        return torch.zeros(len(at), 3, size, size)

    found = stitch(_one, read, tissue, size=16)
    assert seen == [(32, 32)] and found.mask(1).sum() == 1


def test_a_network_of_single_pixels_gives_the_same_with_any_overlap() -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(3, 80, 80)).astype(np.float32)

    def read(at: Sequence[tuple[int, int]], size: int) -> Tensor:
        padded = np.pad(image, ((0, 0), (0, size), (0, size)))
        return torch.from_numpy(np.stack([padded[:, y : y + size, x : x + size] for x, y in at]))

    tissue = np.ones((77, 61), bool)
    plain = stitch(lambda x: x, read, tissue, size=16, overlap=0)
    p = np.exp(image) / np.exp(image).sum(0)
    assert (plain.best == p[1:, :77, :61].argmax(0) + 1).all()
    assert np.abs(plain.share / 255 - p[1:, :77, :61].sum(0)).max() < 0.003
    for overlap in (3, 8, 13):
        found = stitch(lambda x: x, read, tissue, size=16, overlap=overlap)
        assert (found.best == plain.best).all()
        assert np.abs(found.share.astype(int) - plain.share).max() <= 1


@given(st.integers(1, 300), st.integers(1, 40), st.data())
def test_windows_cover_and_none_is_needless(length: int, size: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, size - 1))
    starts = corners(length, size, overlap)
    covered = np.zeros(length, bool)
    for start in starts:
        covered[start : start + size] = True
    assert covered.all() and (len(starts) == 1 or starts[-1] + overlap < length)


def test_an_overlap_as_wide_as_the_window_is_refused() -> None:
    with pytest.raises(ValueError, match="overlap"):
        corners(10, 4, 4)


def test_counts_against_a_slow_loop() -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 4, (30, 20)).astype(np.uint8)
    truth[rng.random(truth.shape) < 0.2] = IGNORE
    mask = rng.integers(0, 4, truth.shape).astype(np.uint8)
    found = counts(mask, truth, 3)
    for k in (1, 2, 3):
        expected = [0, 0, 0, 0]
        for t, m in zip(truth.ravel(), mask.ravel(), strict=True):
            if t != IGNORE:
                expected[{(True, True): 0, (False, True): 1, (True, False): 2, (False, False): 3}[t == k, m == k]] += 1
        assert found[k - 1].tolist() == expected


def test_the_threshold_is_the_best_of_a_slow_search() -> None:
    rng = np.random.default_rng(2)
    cases = []
    for _ in range(3):
        truth = (rng.random((40, 40)) < 0.1).astype(np.uint8)
        share = np.clip(rng.normal(110 + 90 * truth, 35), 0, 255).astype(np.uint8)  # a half is too low here
        cases.append((Prediction(np.ones_like(truth), share), truth))
    chosen = choose_threshold([histogram(p, t, 1) for p, t in cases])

    def score(threshold: int) -> float:
        return float(np.mean([dice_of(counts(p.mask(threshold), t, 1))[0] for p, t in cases]))

    assert score(chosen) == max(score(t) for t in range(8, 249, 8)) > score(128) + 0.05
    assert choose_threshold([]) == 128
