"""Reservoirs keep each thing with the same chance, and never more than they may."""

from __future__ import annotations

import numpy as np
import torch

from histostudy.training.continual.buffer import Memory, Reservoir, labels_of


def test_each_item_is_kept_with_the_same_chance() -> None:
    size, stream, trials = 5, 40, 4000
    counts = np.zeros(stream)
    rng = np.random.default_rng(0)
    for _ in range(trials):
        kept: Reservoir[int] = Reservoir(size, rng)
        for item in range(stream):
            kept.offer(item)
        assert len(kept) == size == len(set(kept.items))
        counts[kept.items] += 1
    share = size / stream
    z = (counts / trials - share) / np.sqrt(share * (1 - share) / trials)
    # 3 sigma each, with the few of 40 that chance puts beyond it; early and late items alike
    assert np.abs(z).max() < 4 and np.mean(np.abs(z) < 3) >= 0.95
    assert abs(z[:20].mean() - z[20:].mean()) < 1


def test_fewer_than_its_size_are_all_kept() -> None:
    kept: Reservoir[int] = Reservoir(10, np.random.default_rng(0))
    for item in range(7):
        kept.offer(item)
    assert kept.items == list(range(7)) and kept.seen == 7


def _memory(tiles: int = 64, each: int = 16) -> Memory:
    memory = Memory(tiles, each, seed=0)
    for i in range(40):
        memory.offer(torch.full((1 + i % each, 3), float(i)), torch.arange(1 + i % each), y=i % 4, task=(i % 4) // 2)
    return memory


def test_a_memory_holds_no_more_tiles_than_it_may() -> None:
    memory = _memory()
    assert len(memory) == 4 and 0 < memory.tiles <= 64


def test_what_is_kept_is_a_copy() -> None:
    tiles = torch.zeros(2, 3)
    memory = Memory(64, 16, seed=0)
    memory.offer(tiles, None, 0, 0)
    tiles += 1
    assert float(memory.draw(1)[0].tiles.sum()) == 0


def test_pseudo_slides_are_of_one_class_of_the_task() -> None:
    memory = _memory(tiles=640)
    for task in (0, 1):
        slides = memory.pseudo_slides(task, 3)
        assert [{one.y for one in slide} for slide in slides] == [{2 * task}, {2 * task + 1}]
        assert all(len(slide) == 3 and {one.task for one in slide} == {task} for slide in slides)
        assert all(len({id(one) for one in slide}) == 3 for slide in slides)


def test_a_class_of_which_nothing_is_kept_is_left_out() -> None:
    memory = Memory(64, 16, seed=0)
    assert memory.past_task() is None
    memory.offer(torch.zeros(2, 3), torch.arange(2), y=1, task=0)
    assert memory.past_task() == 0
    assert [[one.y for one in slide] for slide in memory.pseudo_slides(0, 5)] == [[1]]


def test_draws_are_without_replacement_while_there_are_enough() -> None:
    memory = _memory(tiles=640)
    drawn = memory.draw(len(memory))
    assert len({id(one) for one in drawn}) == len(memory)
    assert len(memory.draw(3 * len(memory))) == 3 * len(memory)
    assert labels_of(drawn).tolist() == [one.y for one in drawn]
