"""Layers that models share."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from histostudy.models.layers import full_precision, relu_layers


@pytest.mark.parametrize(
    ("given", "expected"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_full_precision_is_float32_or_the_double_it_was(given: torch.dtype, expected: torch.dtype) -> None:
    values = torch.tensor([0.5, -3.0], dtype=given)
    assert full_precision(values).dtype == expected
    assert full_precision(values).tolist() == [0.5, -3.0]
    assert full_precision(torch.ones(2, dtype=torch.float64), like=values).dtype == expected


def test_relu_layers_are_linear_relu_dropout_in_turn() -> None:
    torch.manual_seed(0)
    layers = relu_layers(4, 3, 2, dropout=0.5)
    assert [type(layer) for layer in layers] == 2 * [nn.Linear, nn.ReLU, nn.Dropout]
    assert list(layers.state_dict()) == ["0.weight", "0.bias", "3.weight", "3.bias"]
    x = torch.randn(7, 4)
    by_hand = x
    for k in (0, 3):
        by_hand = (by_hand @ layers[k].weight.T + layers[k].bias).clamp(min=0)
    torch.testing.assert_close(layers.eval()(x), by_hand)
    dropped = layers.train()(x.repeat(200, 1))
    assert (dropped == 0).float().mean() > (by_hand == 0).float().mean() + 0.1
    plain = relu_layers(4, 3).train()
    before = torch.get_rng_state()
    assert torch.equal(plain(x), plain.eval()(x))  # no dropout unless asked for
    assert torch.equal(before, torch.get_rng_state())
