"""SurvPath's attention against the dense one with a mask, patient by patient in float64."""

from __future__ import annotations

import pytest
import torch
from models.multimodal.tables import BOTH, patients

from histostudy.errors import ModelError
from histostudy.models.multimodal.survpath import PathwayAttention
from histostudy.models.registry import build_aggregator


def tokens(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pathways = torch.randn(3, 4, 8, generator=generator, dtype=torch.float64)
    tiles = torch.randn(3, 7, 8, generator=generator, dtype=torch.float64)
    return pathways, tiles, torch.arange(7) < torch.tensor([[7], [1], [5]])


def layer() -> PathwayAttention:
    torch.manual_seed(1)
    attention = PathwayAttention(8, 6).double()
    torch.nn.init.normal_(attention.to_qkv.weight)
    return attention


def test_it_equals_dense_attention_with_the_tile_block_masked() -> None:
    attention, (pathways, tiles, mask) = layer(), tokens()
    result = attention(pathways, tiles, mask)
    for i in range(3):
        real = tiles[i][mask[i]]
        everything = attention.norm(torch.cat([pathways[i], real]))
        q, k, v = (everything @ w.T for w in attention.to_qkv.weight.chunk(3))
        scores = q @ k.T / 6**0.5
        scores[4:, 4:] = -torch.inf
        weights = scores.softmax(1)
        assert not weights[4:, 4:].any()
        out = weights @ v
        assert torch.allclose(result.pathways[i], out[:4], atol=1e-12)
        assert torch.allclose(result.tiles[i][mask[i]], out[4:], atol=1e-12)
        share = weights[:4, 4:].mean(0)
        assert torch.allclose(result.attention[i][mask[i]], share / share.sum(), atol=1e-12)
        assert not result.attention[i][~mask[i]].any()


def test_a_tile_never_sees_another_tile() -> None:
    attention, (pathways, tiles, mask) = layer(), tokens()
    before = attention(pathways, tiles, mask).tiles
    moved = tiles.clone()
    moved[0, 3] += 100 * torch.randn(8, dtype=torch.float64)
    after = attention(pathways, moved, mask).tiles
    others = [0, 1, 2, 4, 5, 6]
    assert torch.equal(before[0, others], after[0, others])
    assert not torch.equal(before[0, 3], after[0, 3])
    tiles.requires_grad_(True)
    attention(pathways, tiles, mask).tiles[0, 3].sum().backward()
    assert tiles.grad[0, 3].any()
    assert not tiles.grad[0, others].any()


def test_attention_is_finite_where_all_of_it_lies_among_the_pathways() -> None:
    attention, (pathways, tiles, mask) = layer(), tokens()
    torch.nn.init.normal_(attention.to_qkv.weight, std=200.0)
    share = attention.float()(pathways.float(), tiles.float(), mask).attention
    assert torch.allclose(share.sum(1), torch.ones(3))


def test_the_patients_vector_is_the_mean_of_each_kind_of_token() -> None:
    torch.manual_seed(0)
    model = build_aggregator("survpath", 5, {"hidden": 8, "width": 6, "output": 7}, modalities=BOTH).double().eval()
    batch = patients([3, 6])
    tiles, mask = batch.with_features(model.embed(batch.features)).padded()
    out = model.attention(model.tokens(batch), tiles, mask)
    vectors, _ = model(batch)
    for i, n in enumerate((3, 6)):
        means = [model.feedforward(part).mean(0) for part in (out.pathways[i], out.tiles[i, :n])]
        assert torch.allclose(vectors[i], model.join(torch.cat(means)), atol=1e-12)
    assert vectors.shape == (2, 7)


def test_wrong_options_are_one_line() -> None:
    with pytest.raises(ModelError, match="width is a whole number"):
        build_aggregator("survpath", 5, {"width": 0}, modalities=BOTH)
