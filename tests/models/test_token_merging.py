"""Token merging: sizes, losslessness, order, and a rare signal at a quarter of the tokens."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from histostudy.errors import ModelError
from histostudy.models.aggregators.token_merging import METHODS, TokenMerging, Tokens
from histostudy.models.batch import BagBatch, segment_softmax, segment_sum
from histostudy.models.registry import build_aggregator


def build(dim: int = 6, **options: object) -> TokenMerging:
    torch.manual_seed(0)
    model = build_aggregator("token_merging", dim, {"hidden": 16, "attention": 8, **options})
    assert isinstance(model, TokenMerging)
    return model.eval()


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(METHODS), st.integers(1, 40), st.integers(1, 4), st.sampled_from([0.5, 0.6, 0.75, 0.9]))
def test_sizes_and_counts_are_kept(method: str, count: int, rounds: int, keep: float) -> None:
    tiles = torch.randn(count, 6, generator=torch.Generator().manual_seed(count))
    with torch.no_grad():
        tokens = build(method=method, rounds=rounds, keep=keep).merged(tiles)
    assert tokens.size.sum().item() == count  # exactly
    torch.testing.assert_close(tokens.size, tokens.owner.bincount(minlength=len(tokens.size)).float(), rtol=0, atol=0)
    left = count
    for _ in range(rounds):
        left = math.ceil(keep * left)
    assert len(tokens.size) == left
    mixed = torch.zeros_like(tokens.values).index_add(0, tokens.owner, tokens.share[:, None] * tiles)
    torch.testing.assert_close(mixed, tokens.values, atol=1e-5, rtol=1e-5)


def test_each_round_halves_and_tome_takes_the_plain_mean_of_what_it_merged() -> None:
    tiles = torch.randn(32, 6)
    model = build(rounds=3)
    tokens = Tokens.of(tiles)
    for left in (16, 8, 4):
        tokens = model._round(tokens)
        assert len(tokens.size) == left
    for k in range(4):
        torch.testing.assert_close(tokens.values[k], tiles[tokens.owner == k].mean(0), atol=1e-5, rtol=1e-5)


def without_merging(model: TokenMerging, batch: BagBatch) -> torch.Tensor:
    tiles = model.embed(batch.features)
    return segment_sum(segment_softmax(model.attention(tiles), batch) * tiles, batch)


@pytest.mark.parametrize("method", METHODS)
def test_merging_identical_tokens_is_lossless(method: str) -> None:
    model = build(method=method, rounds=2)
    torch.manual_seed(1)
    batch = BagBatch.pack([torch.randn(n, 6).repeat_interleave(4, 0) for n in (3, 8)])
    with torch.no_grad():
        vectors, attention = model(batch)
        torch.testing.assert_close(vectors, without_merging(model, batch), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(segment_sum(attention, batch), torch.ones(2))


@pytest.mark.parametrize("method", METHODS)
def test_who_else_is_in_the_batch_does_not_matter(method: str) -> None:
    model = build(method=method)
    torch.manual_seed(2)
    bags = [torch.randn(n, 6) for n in (1, 17, 40)]
    with torch.no_grad():
        together = model(BagBatch.pack(bags))[0]
        alone = torch.cat([model(BagBatch.pack([bag]))[0] for bag in bags])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_with_coordinates_the_order_of_tiles_does_not_matter(method: str) -> None:
    model = build(method=method)
    torch.manual_seed(3)
    bags, places = [torch.randn(n, 6) for n in (12, 25)], [torch.randperm(100)[:n] for n in (12, 25)]
    coords = [torch.stack([p % 10, p // 10], 1) * 224 for p in places]
    orders = [torch.randperm(len(bag)) for bag in bags]
    with torch.no_grad():
        one, a = model(BagBatch.pack(bags, coords))
        shuffled = [[x[o] for x, o in zip(xs, orders, strict=True)] for xs in (bags, coords)]
        two, b = model(BagBatch.pack(*shuffled))
        plain = model(BagBatch.pack(bags))[0], model(BagBatch.pack(shuffled[0]))[0]
    assert torch.equal(one, two)
    assert torch.equal(torch.cat([x[o] for x, o in zip(a.split([12, 25]), orders, strict=True)]), b)
    assert not torch.allclose(*plain, atol=1e-4)  # without coordinates it does, as the docstring says


@pytest.mark.parametrize("method", METHODS)
def test_gradients_are_finite_even_between_equal_tokens(method: str) -> None:
    model = build(method=method).train()
    tiles = torch.zeros(8, 6, requires_grad=True)
    vectors, _ = model(BagBatch.pack([tiles + 0.0]))
    vectors.square().sum().backward()
    assert torch.isfinite(tiles.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_does_no_harm(method: str) -> None:
    model = build(method=method).train()
    batch = BagBatch.pack([torch.randn(n, 6) for n in (9, 30)])
    with torch.autocast("cpu", torch.bfloat16):
        vectors, attention = model(batch)
    vectors.float().square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    torch.testing.assert_close(segment_sum(attention.float(), batch), torch.ones(2), atol=1e-2, rtol=0)


def test_only_the_learned_method_learns_how_to_merge() -> None:
    model = build(method="attention").train()
    vectors, _ = model(BagBatch.pack([torch.randn(30, 6)]))
    vectors.square().sum().backward()
    assert model.query.weight.grad.abs().sum() > 0
    assert not hasattr(build(method="cosine"), "query")


def test_a_rare_signal_survives_at_a_quarter_of_the_tokens() -> None:
    """ToMe merges like with like; neighbours of a row are merged blindly and dilute a lone tile."""
    generator = torch.Generator().manual_seed(5)
    kinds = torch.randn(4, 16, generator=generator) * 3
    lost = {}
    for options in ({"method": "tome", "rounds": 5, "keep": 0.75}, {"method": "euclidean", "rounds": 2}):
        model, gaps = build(16, **options), []
        for _ in range(20):
            tiles = kinds[torch.randint(4, (64,), generator=generator)]
            tiles = tiles + 0.3 * torch.randn(64, 16, generator=generator)
            tiles[7] = -5.0
            with torch.no_grad():
                tokens = model.merged(tiles)
            assert len(tokens.size) <= 17
            gaps.append((tokens.values + 5.0).norm(dim=1).min().item())
        lost[options["method"]] = sum(gaps) / len(gaps)
    assert lost["tome"] < 0.5 * lost["euclidean"]


def test_wrong_options_are_one_line() -> None:
    with pytest.raises(ModelError, match="method is one of tome"):
        build(method="mean")
    with pytest.raises(ModelError, match=r"keep is from 0\.5"):
        build(keep=0.3)
