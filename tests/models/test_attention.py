"""Many tiles: embedded and scored in chunks, with the same result and the same gradient."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from histostudy.models import layers
from histostudy.models.aggregators.abmil import ABMIL, ABMILOptions
from histostudy.models.attention import AttentionAggregator
from histostudy.models.batch import BagBatch
from histostudy.models.layers import tile_by_tile


def batch() -> BagBatch:
    torch.manual_seed(1)
    return BagBatch.pack([torch.randn(n, 6, dtype=torch.float64) for n in (37, 1, 90)])


def vectors_and_gradients(dropout: float) -> list[torch.Tensor]:
    """What a step of training gives: attention, vectors, gradients."""
    torch.manual_seed(0)
    model = ABMIL(6, ABMILOptions(hidden=8, attention=4, heads=2, dropout=dropout)).double().train()
    vectors, attention = model(batch())
    assert attention is not None
    (vectors.square().sum() + attention.square().sum()).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(gradients) == len(list(model.parameters()))
    return [vectors.detach(), attention.detach(), *gradients]


@pytest.fixture
def chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "MANY_TILES", 20)
    monkeypatch.setattr(layers, "CHUNK_TILES", 16)


def test_chunks_change_nothing(request: pytest.FixtureRequest) -> None:
    whole = vectors_and_gradients(0.0)
    request.getfixturevalue("chunks")
    for one, other in zip(whole, vectors_and_gradients(0.0), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-13)


@pytest.mark.usefixtures("chunks")
def test_dropout_is_the_same_when_a_chunk_is_computed_again() -> None:
    for one, other in zip(vectors_and_gradients(0.5), vectors_and_gradients(0.5), strict=True):
        assert torch.equal(one, other)
    # ReLU and dropout pass a gradient where they passed a value: masks drawn anew would not agree with the result
    torch.manual_seed(0)
    tiles = torch.ones(100, 8, requires_grad=True)
    out = tile_by_tile(nn.Dropout(0.5), tiles)
    out.sum().backward()
    assert tiles.grad is not None and torch.equal(tiles.grad, out.detach()) and 0 < (out == 0).sum() < out.numel()


@pytest.mark.usefixtures("chunks")
def test_only_many_tiles_are_cut_and_their_inside_is_computed_twice_for_a_gradient_alone() -> None:
    seen: list[int] = []

    class Layer(nn.Linear):
        def forward(self, tiles: torch.Tensor) -> torch.Tensor:
            seen.append(len(tiles))
            return super().forward(tiles)

    layer = Layer(6, 3)
    tile_by_tile(layer, torch.randn(20, 6)).sum().backward()
    assert seen == [20]
    seen.clear()
    with torch.no_grad():
        assert tile_by_tile(layer, torch.randn(40, 6)).shape == (40, 3)
    assert seen == [16, 16, 8]
    tile_by_tile(layer, torch.randn(40, 6)).sum().backward()
    assert sorted(seen[3:]) == [8, 8, 16, 16, 16, 16]


@pytest.mark.usefixtures("chunks")
def test_tokens_are_the_embedded_tiles() -> None:
    model = ABMIL(6, ABMILOptions(hidden=8)).double().eval()
    assert isinstance(model, AttentionAggregator)
    one = batch()
    torch.testing.assert_close(model.tokens(one).features, model.embed(one.features), rtol=1e-12, atol=0)
    assert model.tokens(one).offsets is one.offsets
