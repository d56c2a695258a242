"""DSMIL: both streams against a slow loop, the critical tile, and Self-ViT-MIL's values."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from histostudy.errors import ModelError
from histostudy.models.aggregators.dsmil import DSMIL, segment_argmax
from histostudy.models.batch import BagBatch
from histostudy.models.registry import build_aggregator

BAGS = [torch.randn(n, 5, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in (1, 2, 9)]


def dsmil(name: str = "dsmil", **options: object) -> DSMIL:
    torch.manual_seed(0)
    model = build_aggregator(name, 5, {"query_width": 4, "dropout": 0, **options}, outputs=3).double()
    assert isinstance(model, DSMIL)
    return model


def slow(model: DSMIL, bag: Tensor) -> tuple[list[float], list[float]]:
    """The bag's outputs and the critical tiles' of one bag, output by output, tile by tile."""
    options = model.options
    tiles = bag if options.hidden is None else (bag @ model.embed[0].weight.T + model.embed[0].bias).clamp(min=0)
    own = [[float(w @ h + b) for w, b in zip(model.instance.weight, model.instance.bias, strict=True)] for h in tiles]

    def query(h: Tensor) -> Tensor:
        if options.query == "linear":
            return model.query.weight @ h + model.query.bias
        first, second = model.query[0], model.query[2]
        return torch.tanh(second.weight @ (first.weight @ h + first.bias).clamp(min=0) + second.bias)

    def value(h: Tensor) -> Tensor:
        if options.value == "identity":
            return h
        v = model.value.weight @ h + model.value.bias
        return v.clamp(min=0) if options.value == "relu" else v

    best, pooled = [], []
    for c in range(3):
        critical = max(range(len(tiles)), key=lambda i, c=c: own[i][c])
        best.append(own[critical][c])
        powers = [math.exp(float(query(h) @ query(tiles[critical])) / options.query_width**0.5) for h in tiles]
        pooled.append(sum(p / sum(powers) * value(h) for p, h in zip(powers, tiles, strict=True)))
    kernel = model.mix.weight.unflatten(0, (3, 3))
    return [sum(float(kernel[c, k] @ pooled[k]) for k in range(3)) for c in range(3)], best


@pytest.mark.parametrize("query", ["tanh", "linear"])
@pytest.mark.parametrize("value", ["identity", "relu", "linear"])
@pytest.mark.parametrize("hidden", [7, None])
@torch.no_grad()
def test_both_streams_equal_a_slow_loop(query: str, value: str, hidden: int | None) -> None:
    model = dsmil(query=query, value=value, hidden=hidden)
    bags, best = (torch.tensor(x).double() for x in zip(*(slow(model, bag) for bag in BAGS), strict=True))
    batch = BagBatch.pack(BAGS)
    torch.testing.assert_close(model.train()(batch)[0], bags)
    seen = []
    penalty = model.penalty({}, lambda vectors: seen.append(vectors) or vectors.sum())
    torch.testing.assert_close(seen[0], best)
    assert float(penalty) == pytest.approx(float(best.sum()))  # the published halves: as much as the bag's
    torch.testing.assert_close(model.eval()(batch)[0], (bags + best) / 2)
    only = dsmil(query=query, value=value, hidden=hidden, prediction="bag").eval()
    torch.testing.assert_close(only(batch)[0], bags)


def test_the_weight_is_the_share_of_the_total() -> None:
    model = dsmil(instance_weight=0.2).train()
    model(BagBatch.pack(BAGS))
    assert float(model.penalty({}, lambda _: torch.tensor(1.0))) == pytest.approx(0.25)
    with pytest.raises(ModelError, match="instance_weight is above 0"):
        dsmil(instance_weight=0)


def test_self_vit_mil_is_dsmil_with_linear_parts() -> None:
    ours = dsmil("self_vit_mil").eval()
    same = dsmil(hidden=None, query="linear", value="linear", prediction="bag").eval()
    same.load_state_dict(ours.state_dict())
    batch = BagBatch.pack(BAGS)
    assert torch.equal(ours(batch)[0], same(batch)[0])
    assert isinstance(ours.embed, torch.nn.Identity)
    with pytest.raises(ModelError, match="unknown option 'encoder'"):
        build_aggregator("self_vit_mil", 5, {"encoder": "dino"})


def test_attention_is_highest_at_tiles_like_the_critical_one() -> None:
    """With queries of one length the critical tile is the one most like itself."""
    model = dsmil(query="linear", hidden=None)
    with torch.no_grad():
        model.query.weight.copy_(torch.eye(4, 5))
        model.query.bias.zero_()
        tiles = torch.nn.functional.normalize(torch.randn(50, 4).double(), dim=1)
        batch = BagBatch.pack([torch.cat([tiles, torch.zeros(50, 1).double()], 1)])
        critical = segment_argmax(model.instance(batch.features), batch)
        assert torch.equal(model.pool(batch).maps.argmax(0), critical[0])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 100))
def test_segment_argmax_is_the_first_of_the_highest(lengths: list[int], seed: int) -> None:
    values = torch.randint(0, 3, (sum(lengths), 2), generator=torch.Generator().manual_seed(seed)).float()
    batch = BagBatch.pack(list(values.split(lengths)))
    found = segment_argmax(values, batch)
    for bag, (start, length) in enumerate(zip(batch.offsets.tolist(), lengths, strict=False)):
        for k in range(2):
            column = values[start : start + length, k].tolist()
            assert found[bag, k].item() == start + column.index(max(column))


def test_segment_argmax_of_no_number_is_still_a_row() -> None:
    batch = BagBatch.pack([torch.full((3, 1), math.nan), torch.zeros(2, 1)])
    assert segment_argmax(batch.features, batch).tolist() == [[4], [3]]
