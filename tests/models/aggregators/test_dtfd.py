"""DTFD: dealing, both tiers against a slow loop, what reaches which tier, and when the draw is random."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from histostudy.errors import ModelError
from histostudy.models.aggregators.dtfd import DISTILLATIONS, DTFD, deal
from histostudy.models.batch import BagBatch
from histostudy.models.layers import GatedAttention
from histostudy.models.registry import build_aggregator

BAGS = [torch.randn(n, 5, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in (1, 2, 4, 23)]


def dtfd(outputs: int = 3, **options: object) -> DTFD:
    torch.manual_seed(0)
    options = {"hidden": 8, "attention": 4, "dropout": 0, **options}
    model = build_aggregator("dtfd", 5, options, outputs=outputs).double()
    assert isinstance(model, DTFD)
    return model


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 17), min_size=1, max_size=5), st.integers(1, 6), st.booleans())
def test_every_tile_is_dealt_once_to_its_own_bag_and_evenly(lengths: list[int], most: int, at_random: bool) -> None:
    batch = BagBatch.pack([torch.full((n, 1), float(i)) for i, n in enumerate(lengths)])
    pseudo, order, owner = deal(batch, most, at_random=at_random)
    assert sorted(order.tolist()) == list(range(sum(lengths)))
    assert torch.equal(pseudo.features, batch.features[order])
    assert torch.equal(pseudo.features[:, 0].long(), owner[pseudo.segments])
    assert owner.bincount().tolist() == [min(most, n) for n in lengths]
    for i, n in enumerate(lengths):
        sizes = pseudo.lengths[owner == i]
        assert sizes.min() >= 1
        assert sizes.max() - sizes.min() <= 1
        assert sizes.sum() == n


def test_tiles_are_dealt_in_turn_in_evaluation_and_anew_at_every_step_of_training() -> None:
    batch = BagBatch.pack([torch.zeros(3, 1), torch.zeros(7, 1)])
    _, order, owner = deal(batch, 3, at_random=False)
    assert order.tolist() == [0, 1, 2, 3, 6, 9, 4, 7, 5, 8]
    assert owner.tolist() == [0, 0, 0, 1, 1, 1]
    torch.manual_seed(0)
    drawn = [deal(batch, 3, at_random=True).order.tolist() for _ in range(5)]
    assert len({tuple(one) for one in drawn}) > 1
    torch.manual_seed(0)
    assert deal(batch, 3, at_random=True).order.tolist() == drawn[0]


def test_the_draw_is_even() -> None:
    batch, together = BagBatch.pack([torch.zeros(6, 1)]), torch.zeros(6, 6)
    torch.manual_seed(0)
    for _ in range(2000):
        pseudo, order, _ = deal(batch, 3, at_random=True)
        group = torch.empty(6, dtype=torch.int64)
        group[order] = pseudo.segments
        together += group[:, None] == group[None, :]
    shares = together[~torch.eye(6, dtype=torch.bool)] / 2000
    assert (shares - 0.2).abs().max() < 0.04  # one partner of five; four standard errors


def weights(part: GatedAttention, tiles: list[Tensor]) -> list[float]:
    """Softmax of gated attention over a few vectors."""
    powers = []
    for h in tiles:
        inner = torch.tanh(part.value.weight @ h + part.value.bias) * torch.sigmoid(
            part.gate.weight @ h + part.gate.bias
        )
        powers.append(math.exp((part.score.weight[0] @ inner).item()))
    return [p / sum(powers) for p in powers]


def slow(model: DTFD, bag: Tensor, is_class: bool) -> tuple[Tensor, list[Tensor]]:
    """Outputs of a bag in evaluation, and of its pseudo-bags."""
    tiles, groups = [(model.embed[0].weight @ x).clamp(min=0) for x in bag], min(5, len(bag))
    distilled, firsts = [], []
    for g in range(groups):
        group = tiles[g::groups]
        a = weights(model.first, group)
        mean = sum(w * h for w, h in zip(a, group, strict=True))
        firsts.append(model.first_score.weight @ mean + model.first_score.bias)
        scores = []
        for w, h in zip(a, group, strict=True):
            activation = model.first_score.weight @ (w * h)
            column = model.dim_out - 1 if model.dim_out == 2 else int(firsts[-1].argmax())
            scores.append(float(activation.softmax(0)[column] if is_class else activation.sum()))
        ends = {"afs": [], "max": [max], "max_min": [max, min]}[model.options.distill]
        distilled += [group[scores.index(end(scores))] for end in ends] or [mean]
    pooled = sum(w * d for w, d in zip(weights(model.second, distilled), distilled, strict=True))
    return model.second_score.weight @ pooled, firsts


@pytest.mark.parametrize("distill", DISTILLATIONS)
@pytest.mark.parametrize(("outputs", "is_class"), [(2, True), (3, True), (4, False), (1, False)])
@torch.no_grad()
def test_both_tiers_equal_a_slow_loop(distill: str, outputs: int, is_class: bool) -> None:
    model = dtfd(outputs, distill=distill).eval()
    model.start({"y": torch.tensor([0, 1])} if is_class else {"time": torch.ones(2), "event": torch.ones(2)})
    assert bool(model.classes) == is_class
    torch.testing.assert_close(
        model(BagBatch.pack(BAGS))[0], torch.stack([slow(model, bag, is_class)[0] for bag in BAGS])
    )


@torch.no_grad()
def test_the_first_tier_answers_for_every_pseudo_bag() -> None:
    model = dtfd(tier1_weight=0.5).train()
    singles = [bag[:5] for bag in BAGS]  # of one tile a pseudo-bag, so that the draw only orders them
    vectors, _ = model(BagBatch.pack(singles))
    seen = []

    def loss(vectors: Tensor, patients: Tensor) -> Tensor:
        seen.append((vectors, patients))
        return vectors.new_tensor(3.0)

    assert float(model.penalty({}, loss)) == 1.5
    outputs, patients = seen[0]
    assert patients.tolist() == [0, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 3]
    expected = [torch.stack(slow(model, bag, False)[1]) for bag in singles]
    for i, theirs in enumerate(expected):
        torch.testing.assert_close(outputs[patients == i].sort(0).values, theirs.sort(0).values)
    torch.testing.assert_close(vectors, torch.stack([slow(model, bag, False)[0] for bag in singles]))


@pytest.mark.parametrize("distill", DISTILLATIONS)
@pytest.mark.parametrize("joint", [False, True])
def test_what_the_second_tiers_loss_trains(distill: str, joint: bool) -> None:
    model = dtfd(distill=distill, joint=joint).train()
    vectors, _ = model(BagBatch.pack(BAGS))
    vectors.square().sum().backward(retain_graph=True)
    assert all(p.grad is not None for p in model.second.parameters())
    assert (model.embed[0].weight.grad is not None) == joint
    assert (model.first.value.weight.grad is not None) == (joint and distill == "afs")
    model.penalty({}, lambda vectors, patients: vectors.square().mean()).backward()
    assert model.embed[0].weight.grad.abs().sum() > 0
    assert model.first_score.weight.grad.abs().sum() > 0


def test_a_first_tier_that_nothing_trains_is_refused() -> None:
    with pytest.raises(ModelError, match="tier1_weight is above 0 unless joint"):
        dtfd(tier1_weight=0)
    assert dtfd(tier1_weight=0, joint=True).train().penalty({}, None) is None


def test_the_attention_is_the_product_of_both_tiers() -> None:
    model = dtfd(pseudo_bags=1).eval()
    with torch.no_grad():
        attention = model(BagBatch.pack(BAGS[3:]))[1]
        tiles = [(model.embed[0].weight @ x).clamp(min=0) for x in BAGS[3]]
    assert attention.tolist() == pytest.approx(weights(model.first, tiles))
