"""LBMambaMIL: bags do not touch, two layers see the whole bag, a planted order is found."""

from __future__ import annotations

import pytest
import torch
from models.orders import auc, near_or_far
from models.sequences import SMALL, bags_of, built, changed_by_order, check_company, check_half, check_tiny

from histostudy.models.batch import BagBatch


def reach(layers: int, window: int, token: int, length: int = 32) -> list[int]:
    model, (bag,) = built("lbmamba", layers=layers, window=window, kernel=1), bags_of(length)
    tokens = BagBatch.pack([model.embed(bag).detach().requires_grad_()])
    (gradient,) = torch.autograd.grad(model.mixed(tokens)[token].sum(), tokens.features)  # type: ignore[operator]
    return torch.nonzero(gradient.abs().sum(1)).flatten().tolist()


@pytest.mark.parametrize("window", [1, 4, 16])
def test_bags_do_not_touch(window: int) -> None:
    model = built("lbmamba", window=window)
    check_company(model, bags_of(4, 1, 11, 2, 33))
    check_tiny(model)
    check_half(model)


@pytest.mark.parametrize("length", [20, 200, 300])
def test_one_layer_sees_what_is_before_and_the_rest_of_its_window(length: int) -> None:
    """Whatever the length of the bag, on which the published kernel's window depends."""
    assert reach(1, 8, 10, length) == list(range(16))


@pytest.mark.parametrize("token", [0, 13, 31])
def test_two_layers_with_a_turn_between_see_every_tile(token: int) -> None:
    assert reach(2, 8, token) == list(range(32))


def test_order_matters() -> None:
    assert changed_by_order(built("lbmamba"), BagBatch.pack(bags_of(20))) > 1e-4


def test_a_window_of_one_is_mamba() -> None:
    model, mamba = built("lbmamba", window=1, layers=1), built("mambamil", scan="forward", layers=1)
    mamba.load_state_dict(model.state_dict())
    batch = BagBatch.pack(bags_of(5, 20))
    assert torch.allclose(model(batch)[0], mamba(batch)[0], atol=1e-12)
    wider = built("lbmamba", window=4, layers=1)
    wider.load_state_dict(model.state_dict())
    assert not torch.allclose(wider(batch)[0], mamba(batch)[0], atol=1e-6)


def test_a_planted_order_is_found() -> None:
    train, test = near_or_far(0, 200), near_or_far(1, 200)
    assert auc("lbmamba", SMALL, train, test, steps=30, lr=1e-2) > 0.85
