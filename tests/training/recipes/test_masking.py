"""Masks: exact counts, the right tiles, and nothing of one bag decided by another."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training.recipes.recipedata import random_batch

from histostudy.models.batch import BagBatch, segment_sum
from histostudy.training.recipes.masking import (
    high_mask,
    never_empty,
    random_mask,
    share_down,
    share_up,
    top_mask,
    voted_mask,
)

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=6)
PERCENT = st.integers(0, 99)


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def counts(mask: torch.Tensor, batch: BagBatch) -> list[int]:
    return segment_sum(mask.long(), batch).tolist()


@given(st.integers(0, 20000), st.integers(0, 100))
def test_shares_are_rounded_as_fractions_are(n: int, percent: int) -> None:
    lengths, share = torch.tensor([n]), percent / 100
    assert share_up(lengths, share).item() == math.ceil(Fraction(percent, 100) * n)
    assert share_down(lengths, share).item() == math.floor(Fraction(percent, 100) * n)


@settings(deadline=None, max_examples=50)
@given(LENGTHS, st.integers(0, 1000))
def test_top_tiles_are_those_of_a_loop(lengths: list[int], seed: int) -> None:
    batch = random_batch(*lengths, dim=1)
    scores = torch.randn(sum(lengths), generator=drawn(seed))
    wanted = torch.randint(0, 61, (len(lengths),), generator=drawn(seed + 1))
    mask = top_mask(scores, wanted, batch, drawn())
    for bag, count in enumerate(wanted.tolist()):
        mine = scores[batch.segments == bag]
        expected = torch.zeros(len(mine), dtype=torch.bool)
        expected[mine.topk(min(count, len(mine))).indices] = True
        assert torch.equal(mask[batch.segments == bag], expected)


@settings(deadline=None, max_examples=50)
@given(LENGTHS, PERCENT, st.integers(1, 100), st.integers(1, 4), st.integers(0, 1000))
def test_high_masks_have_the_published_counts(lengths: list[int], high: int, drop: int, heads: int, seed: int) -> None:
    high = min(high, drop)
    batch = random_batch(*lengths, dim=1)
    scores = torch.randn(sum(lengths), heads, generator=drawn(seed))
    mask = high_mask(scores, high / 100, drop / 100, batch, drawn(seed))
    for n, found in zip(lengths, counts(mask, batch), strict=True):
        first = min(n, math.ceil(Fraction(high, drop) * n))
        assert found == min(n - 1, math.ceil(first * Fraction(drop, 100)))


def test_a_randomised_high_mask_draws_from_the_highest() -> None:
    batch = random_batch(40, 40, dim=1)
    scores = torch.randn(80, 1)
    highest = top_mask(scores[:, 0], torch.tensor([8, 8]), batch, drawn())
    hit = torch.zeros(80)
    for seed in range(200):
        mask = high_mask(scores, 0.1, 0.5, batch, drawn(seed))
        assert counts(mask, batch) == [4, 4]
        assert not (mask & ~highest).any()
        hit += mask
    assert (hit[highest] / 200 - 0.5).abs().max() < 0.15


def test_heads_vote() -> None:
    batch = random_batch(6, dim=1)
    scores = torch.tensor([[9.0, 9, 0], [8, 0, 9], [0, 8, 8], [1, 1, 1], [0, 0, 0], [0, 0, 0]])
    # two of each head: tiles 0 and 1, 0 and 2, 1 and 2 have two votes each, so any two of the three
    votes = {tuple(voted_mask(scores, torch.tensor([2]), batch, drawn(s)).nonzero()[:, 0].tolist()) for s in range(40)}
    assert votes == {(0, 1), (0, 2), (1, 2)}
    assert voted_mask(scores, torch.tensor([3]), batch, drawn()).sum() == 3
    one = voted_mask(scores[:, :1], torch.tensor([2]), batch, drawn())
    assert one.nonzero()[:, 0].tolist() == [0, 1]


def test_random_masks_give_each_tile_the_same_chance() -> None:
    batch = random_batch(10, 5, dim=1)
    wanted = torch.tensor([3, 1])
    hits = torch.stack([random_mask(wanted, batch, drawn(s)) for s in range(1000)]).float().mean(0)
    assert hits[:10].numpy() == pytest.approx(0.3, abs=0.06)
    assert hits[10:].numpy() == pytest.approx(0.2, abs=0.06)


def test_a_bag_is_never_emptied() -> None:
    batch = random_batch(1, 3, 4, dim=1)
    kept = torch.tensor([0, 0, 0, 0, 1, 0, 1, 0]).bool()
    spare = torch.tensor([1, 1, 0, 1, 0, 0, 0, 0]).bool()
    assert never_empty(kept, spare, batch, drawn()).long().tolist() == [1, 0, 1, 0, 1, 0, 1, 0]
    full = torch.ones(8, dtype=torch.bool)
    assert never_empty(full, spare, batch, drawn()) is full
