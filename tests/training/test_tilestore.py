"""Tiles of patients in one tensor: batches, moments, and files that nothing may write to."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from histostudy.features.bagfile import open_bags, write_bags
from histostudy.features.bags import Bags
from histostudy.training import tilestore
from histostudy.training.tilestore import TileStore


def packed(sizes: list[int], dtype: type = np.float32, positions: str = "px0") -> Bags:
    rng = np.random.default_rng(0)
    total, ids = sum(sizes), [f"p{i}" for i in range(len(sizes))]
    features = rng.normal(3, 2, size=(total, 5)).astype(dtype)
    coords = np.arange(2 * total).reshape(total, 2)
    slides = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    return Bags(features, np.cumsum([0, *sizes]), ids, coords, slides, ids, {}, positions, dict.fromkeys(ids))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_batches_are_the_bags_asked_for_in_float32(dtype: type) -> None:
    bags = packed([4, 0, 1, 7], dtype)
    store = TileStore.of(bags)
    assert store.patient_ids == ["p0", "p2", "p3"]
    for rows in ([2, 0, 1], [1], [0, 0]):
        batch = store.batch(rows)
        names = [store.patient_ids[row] for row in rows]
        assert batch.features.dtype == torch.float32 and batch.coords is not None
        assert torch.equal(batch.features, torch.from_numpy(np.concatenate([bags.bag(p) for p in names])))
        assert batch.lengths.tolist() == [len(bags.bag(p)) for p in names]
        picked = np.concatenate([np.arange(*bags.offsets[(i := bags.patient_ids.index(p)) : i + 2]) for p in names])
        assert torch.equal(batch.coords, torch.from_numpy(bags.coords[picked]))
    assert TileStore.of(packed([2, 3], dtype, "unknown")).batch([0, 1]).coords is None


def test_drawn_tiles_are_some_of_the_bag_in_order_and_the_same_each_time() -> None:
    store = TileStore.of(packed([4, 30]))
    batches = [store.batch([1, 0], 10, torch.Generator().manual_seed(1)) for _ in range(2)]
    assert torch.equal(batches[0].features, batches[1].features)
    assert batches[0].lengths.tolist() == [10, 4] and batches[0].coords is not None
    rows = batches[0].coords[:10, 0] // 2
    assert (rows.diff() > 0).all() and rows.min() >= 4 and torch.equal(batches[0].features[:10], store.features[rows])
    other = store.batch([1, 0], 10, torch.Generator().manual_seed(2))
    assert not torch.equal(other.features, batches[0].features)


def test_one_whole_bag_is_no_copy() -> None:
    store = TileStore.of(packed([4, 30]))
    assert store.batch([1]).features.data_ptr() == store.features[4:].data_ptr()


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=6), st.sampled_from([5, 15, 40, 10_000]),
    st.sampled_from([np.float16, np.float32]),
)  # fmt: skip
def test_moments_are_those_of_all_tiles_whatever_is_held_at_a_time(sizes: list[int], most: int, dtype: type) -> None:
    bags = packed(sizes, dtype)
    chosen = list(range(0, len(sizes), 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tilestore, "MOMENT_NUMBERS", most)
        mean, spread = TileStore.of(bags).moments(chosen)
    tiles = np.concatenate([bags.bag(f"p{i}") for i in chosen]).astype(np.float64)
    np.testing.assert_allclose(mean, tiles.mean(0), rtol=1e-12)
    np.testing.assert_allclose(spread, tiles.std(0), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_bags_of_a_file_are_read_without_a_copy_or_a_word(tmp_path: Path, dtype: type) -> None:
    bags = packed([4, 30, 2], dtype)
    write_bags(bags, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mapped = open_bags(tmp_path)
        store = TileStore.of(mapped)
    assert store.features.data_ptr() == mapped.features.ctypes.data and not mapped.features.flags.writeable
    memory = TileStore.of(bags)
    for rows in ([0, 2, 1], [1]):
        assert torch.equal(store.batch(rows).features, memory.batch(rows).features)
    assert torch.equal(store.draw([0, 1, 2], 9, 0), memory.draw([0, 1, 2], 9, 0))
    assert torch.equal(store.means().features, memory.means().features)
    assert torch.equal(torch.stack(store.moments([0, 1])), torch.stack(memory.moments([0, 1])))
