"""ILRA: its attention against torch's, its rank, and tiles that learn of each other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import multi_head_attention_forward, silu

from histostudy.errors import ModelError
from histostudy.models.aggregators.ilra import ILRA, CrossAttention
from histostudy.models.batch import BagBatch
from histostudy.models.registry import build_aggregator

BAGS = [torch.randn(n, 5, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in (1, 2, 11)]


def ilra(**options: object) -> ILRA:
    torch.manual_seed(0)
    model = build_aggregator("ilra", 5, {"hidden": 8, "heads": 2, "dropout": 0, **options}).double().eval()
    assert isinstance(model, ILRA)
    return model


def oracle(part: CrossAttention, given: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Torch's attention of (Q, width) to (K, width), and the layers after it: (Q, width) and maps (heads, Q, K)."""
    query, width = part.query(given), given.shape[1]
    attended, maps = multi_head_attention_forward(
        query[:, None], keys[:, None], keys[:, None], width, part.heads, None,
        torch.cat([part.inner_query.bias, part.key.bias, part.value.bias]), None, None, False, 0.0,
        part.out.weight, part.out.bias, training=False, use_separate_proj_weight=True,
        q_proj_weight=part.inner_query.weight, k_proj_weight=part.key.weight, v_proj_weight=part.value.weight,
        average_attn_weights=False,
    )  # fmt: skip
    out = part.norms[0](query + attended[:, 0])
    out = part.norms[1](out + torch.relu(part.feed(out)))
    return (out if part.gate is None else out * silu(part.gate(given))), maps[0]


@pytest.mark.parametrize("latents", [1, 3])
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("blocks", [1, 2])
@torch.no_grad()
def test_the_whole_equals_torchs_attention_bag_by_bag(latents: int, norm: bool, blocks: int) -> None:
    model = ilra(latents=latents, norm=norm, blocks=blocks)
    vectors, attention = model(BagBatch.pack(BAGS))
    parts = attention.split([len(bag) for bag in BAGS])
    for bag, vector, own in zip(BAGS, vectors, parts, strict=True):
        tokens = model.embed(bag)
        for block in model.blocks:
            gathered, _ = oracle(block.gather, block.latents, tokens)
            tokens, _ = oracle(block.spread, tokens, gathered)
        pooled, maps = oracle(model.readout, model.seeds, tokens)
        torch.testing.assert_close(vector, pooled.mean(0))
        torch.testing.assert_close(own, maps.mean((0, 1)))


@torch.no_grad()
def test_each_head_of_each_seed_is_a_map() -> None:
    model, tokens = ilra(latents=3), BagBatch.pack([torch.randn(6, 8).double()])
    assert model.pool(tokens).maps.shape == (6, 6)


@torch.no_grad()
def test_a_tile_learns_of_the_others_of_its_bag_alone() -> None:
    model = ilra()
    tokens = BagBatch.pack([torch.randn(n, 8).double() for n in (4, 6)])
    before = model.blocks(tokens).features
    changed = tokens.features.clone()
    changed[0] += 3.0
    after = model.blocks(tokens.with_features(changed)).features
    moved = (after - before).abs().amax(1) > 1e-9
    assert moved.tolist() == [True] * 4 + [False] * 6


@pytest.mark.parametrize("latents", [1, 2, 4])
@torch.no_grad()
def test_what_a_tile_hears_of_the_others_is_of_low_rank(latents: int) -> None:
    """Its attention to the latents mixes `latents` vectors of each head, whatever the number of tiles."""
    model, heard = ilra(latents=latents, hidden=16), []
    part = model.blocks[0].spread
    part.finish = lambda given, query, attended: heard.append(attended) or given  # type: ignore[method-assign]
    model.blocks[0](BagBatch.pack([torch.randn(60, 16).double()]))
    for head in heard[0].unflatten(1, (2, -1)).unbind(1):
        assert torch.linalg.matrix_rank(head, rtol=1e-9) == latents


def test_heads_divide_the_width() -> None:
    with pytest.raises(ModelError, match="hidden is a multiple of heads"):
        ilra(hidden=9)
