"""Grouped double attention is two cross-attentions, in memory that grows with the number of tokens."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from histostudy.errors import ModelError
from histostudy.models.batch import BagBatch
from histostudy.training.continual.gdat import GDAT, GDATNetwork, GDATOptions


def test_groups_of_one_are_two_ordinary_cross_attentions() -> None:
    torch.manual_seed(0)
    layer = GDAT(8, groups=12, rank=2).double()
    x = torch.randn(12, 8, dtype=torch.float64)
    normed = F.layer_norm(x, (8,))
    g, s = layer.gather, layer.spread
    groups = F.scaled_dot_product_attention(g["q"](normed)[None], g["k"](normed)[None], g["v"](normed)[None])[0]
    again = F.layer_norm(groups, (8,))
    slow = x + F.scaled_dot_product_attention(s["q"](normed)[None], s["k"](again)[None], s["v"](again)[None])[0]
    torch.testing.assert_close(layer(x, [0, 12]), slow, rtol=1e-6, atol=1e-6)  # its softmax is in float32
    apart = layer(torch.cat([x, x[:5]]), [0, 12, 17])
    torch.testing.assert_close(apart[:12], slow, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(apart[12:], layer(x[:5], [0, 5]), rtol=1e-6, atol=1e-6)


def _saved(tokens: int) -> int:
    """Numbers that the backward pass of a bag of so many tokens keeps."""
    layer, sizes = GDAT(8, groups=16, rank=2), []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(torch.randn(tokens, 8), [0, tokens])
    return sum(sizes)


def test_memory_is_linear_in_the_tokens() -> None:
    one, two, four = (_saved(n) for n in (1000, 2000, 4000))
    assert four - two == pytest.approx(2 * (two - one), rel=0.01)
    assert two < 2.05 * one


def test_the_network_sees_each_bag_alone_and_any_size() -> None:
    torch.manual_seed(0)
    network = GDATNetwork(5, (2, 3), GDATOptions(hidden=8, attention=4, groups=4), 2).eval()
    bags = [torch.randn(n, 5) for n in (1, 2, 3, 40)]
    seen = network(BagBatch.pack(bags))
    assert seen.logits.shape == (4, 5) and seen.tokens.shape == (46, 8)
    for i, bag in enumerate(bags):
        torch.testing.assert_close(network(BagBatch.pack([bag])).logits[0], seen.logits[i])
    assert float(seen.attention[-40:].sum().detach()) == pytest.approx(1, abs=1e-6)


def test_wrong_options_are_refused() -> None:
    for wrong in ({"hidden": 0}, {"groups": 2.0}, {"dropout": 1.0}, {"attention": None}):
        with pytest.raises(ModelError, match="wrong option"):
            GDATOptions(**wrong)  # type: ignore[arg-type]
