"""Packed batches against the same maths bag by bag, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from histostudy.models.batch import BagBatch, even_attention, segment_max, segment_mean, segment_softmax
from histostudy.models.registry import build_aggregator

lengths = st.lists(st.integers(1, 9), min_size=1, max_size=6)
MODELS = [
    ("mean", {}), ("mean", {"hidden": 6}), ("max", {"hidden": 6}), ("max", {"hidden": None}),
    ("abmil", {"hidden": 6, "attention": 4}), ("abmil", {"hidden": 6, "attention": 4, "gated": False}),
    ("abmil", {"hidden": 6, "attention": 4, "heads": 3}),
]  # fmt: skip


def bags_of(sizes: list[int], seed: int, dim: int = 5) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, dim, generator=generator, dtype=torch.float64) for n in sizes]


def aggregator(name: str, options: dict, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return build_aggregator(name, 5, options).double().eval()


@given(lengths, st.integers(0, 100))
@settings(max_examples=25, deadline=None)
def test_segment_operations_equal_a_loop(sizes: list[int], seed: int) -> None:
    bags = bags_of(sizes, seed)
    batch = BagBatch.pack(bags)
    assert torch.allclose(segment_mean(batch.features, batch), torch.stack([b.mean(0) for b in bags]), atol=1e-12)
    assert torch.equal(segment_max(batch.features, batch), torch.stack([b.max(0).values for b in bags]))
    weights = torch.cat([b.softmax(0) for b in bags])
    assert torch.allclose(segment_softmax(batch.features, batch), weights, atol=1e-12)


def test_place_counts_within_a_bag_and_even_attention_sums_to_one() -> None:
    batch = BagBatch.pack(bags_of([3, 1, 2], 0))
    assert batch.place.tolist() == [0, 1, 2, 0, 0, 1]
    assert batch.place.dtype == torch.int64
    assert even_attention(batch).tolist() == [1 / 3, 1 / 3, 1 / 3, 1, 0.5, 0.5]
    assert even_attention(batch.with_features(batch.features.float())).dtype == torch.float32


def test_softmax_of_huge_scores_is_finite() -> None:
    batch = BagBatch.pack([torch.tensor([[1e4], [-1e4], [1e4]]), torch.tensor([[-1e30]])])
    assert segment_softmax(batch.features, batch)[:, 0].tolist() == [0.5, 0.0, 0.5, 1.0]


def gated_loop(model: torch.nn.Module, bag: torch.Tensor) -> torch.Tensor:
    """Ilse et al. equation 9, tile by tile, in numpy."""
    p = {name: value.detach().numpy() for name, value in model.named_parameters()}
    tiles = [np.maximum(x @ p["embed.0.weight"].T + p["embed.0.bias"], 0) for x in bag.numpy()]
    scores = []
    for h in tiles:
        value = np.tanh(p["attention.value.weight"] @ h + p["attention.value.bias"])
        gate = 1 / (1 + np.exp(-(p["attention.gate.weight"] @ h + p["attention.gate.bias"])))
        scores.append(float(p["attention.score.weight"][0] @ (value * gate) + p["attention.score.bias"][0]))
    weights = np.exp(scores) / np.exp(scores).sum()
    return torch.from_numpy(sum(w * h for w, h in zip(weights, tiles, strict=True)))


@given(lengths, st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_packed_gated_attention_equals_the_papers_equation(sizes: list[int], seed: int) -> None:
    model = aggregator("abmil", {"hidden": 6, "attention": 4}, seed)
    bags = bags_of(sizes, seed)
    with torch.no_grad():
        z, _ = model(BagBatch.pack(bags))
    assert (z - torch.stack([gated_loop(model, bag) for bag in bags])).abs().max() < 1e-10


@pytest.mark.parametrize(("name", "options"), MODELS)
def test_packed_equals_one_bag_at_a_time_with_gradients(name: str, options: dict) -> None:
    model = aggregator(name, options)
    bags = [bag.requires_grad_() for bag in bags_of([3, 1, 8, 2], 1)]
    weight = torch.linspace(-1, 1, model.dim_out, dtype=torch.float64)
    inputs = [*bags, *model.parameters()]
    z, attention = model(BagBatch.pack(bags))
    together = torch.autograd.grad((z @ weight).square().sum(), inputs, allow_unused=True)
    singles = [model(BagBatch.pack([bag])) for bag in bags]
    alone = torch.autograd.grad(sum((s @ weight).square().sum() for s, _ in singles), inputs, allow_unused=True)
    assert (z - torch.cat([s for s, _ in singles])).abs().max() < 1e-10
    assert (attention - torch.cat([a for _, a in singles])).abs().max() < 1e-10
    for a, b in zip(together, alone, strict=True):
        assert (a is None and b is None) or (a - b).abs().max() < 1e-10


@given(st.sampled_from(MODELS), lengths, st.integers(0, 50))
@settings(max_examples=40, deadline=None)
def test_order_of_tiles_does_not_matter(which: tuple, sizes: list[int], seed: int) -> None:
    model = aggregator(*which)
    bags = bags_of(sizes, seed)
    orders = [torch.randperm(len(bag), generator=torch.Generator().manual_seed(seed)) for bag in bags]
    with torch.no_grad():
        z, attention = model(BagBatch.pack(bags))
        shuffled, moved = model(BagBatch.pack([bag[order] for bag, order in zip(bags, orders, strict=True)]))
    assert torch.allclose(z, shuffled, atol=1e-10)
    start = 0
    for order in orders:
        part = slice(start, start + len(order))
        assert torch.allclose(attention[part][order], moved[part], atol=1e-10)
        assert attention[part].sum() == pytest.approx(1)
        start += len(order)


@pytest.mark.parametrize(("name", "options"), MODELS)
def test_one_bag_never_reaches_another(name: str, options: dict) -> None:
    model = aggregator(name, options)
    first, second = bags_of([4, 6], 2)
    with torch.no_grad():
        before = model(BagBatch.pack([first, second]))[0][0]
        after = model(BagBatch.pack([first, torch.full((50, 5), 1e6, dtype=torch.float64)]))[0][0]
    assert torch.equal(before, after)


def test_duplicated_tiles_leave_attention_pooling_unchanged() -> None:
    model = aggregator("abmil", {"hidden": 6, "attention": 4})
    (bag,) = bags_of([7], 3)
    with torch.no_grad():
        assert torch.allclose(model(BagBatch.pack([bag]))[0], model(BagBatch.pack([bag.repeat(3, 1)]))[0])


@given(lengths, st.integers(0, 20))
@settings(max_examples=20, deadline=None)
def test_padding_holds_the_bags_and_zeros(sizes: list[int], seed: int) -> None:
    bags = bags_of(sizes, seed)
    padded, mask = BagBatch.pack(bags).padded()
    assert padded.shape == (len(sizes), max(sizes), 5)
    assert mask.sum(1).tolist() == sizes
    for row, real, bag in zip(padded, mask, bags, strict=True):
        assert torch.equal(row[real], bag)
        assert (row[~real] == 0).all()


def test_selecting_keeps_bags_coords_and_scales_in_step() -> None:
    bags = [torch.arange(6.0).reshape(3, 2), torch.arange(4.0).reshape(2, 2) + 10]
    batch = BagBatch.pack(bags, [torch.zeros(3, 2, dtype=torch.long), torch.ones(2, 2, dtype=torch.long)])
    batch.scales = torch.tensor([0.5, 1.0, 2.0, 0.5, 1.0])
    kept = batch.select(torch.tensor([True, False, True, False, True]))
    assert kept.lengths.tolist() == [2, 1] and kept.scales.tolist() == [0.5, 2.0, 1.0]
    assert kept.features.tolist() == [[0.0, 1.0], [4.0, 5.0], [12.0, 13.0]]
    assert kept.coords.tolist() == [[0, 0], [0, 0], [1, 1]]
    assert batch.lengths.tolist() == [3, 2]


def test_tokens_are_put_after_each_bags_own() -> None:
    batch = BagBatch.pack([torch.full((3, 2), 1.0), torch.full((1, 2), 2.0)])
    tokens = torch.tensor([[[10.0, 10.0], [11.0, 11.0]], [[20.0, 20.0], [21.0, 21.0]]], requires_grad=True)
    more = batch.with_tokens(tokens)
    assert more.features[:, 0].tolist() == [1, 1, 1, 10, 11, 2, 20, 21]
    assert more.lengths.tolist() == [5, 3]
    more.features.sum().backward()
    assert tokens.grad.eq(1).all()
