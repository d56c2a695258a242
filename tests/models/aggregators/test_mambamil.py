"""MambaMIL: bags do not touch, order matters, a planted order is found."""

from __future__ import annotations

import pytest
import torch
from models.orders import auc, near_or_far
from models.sequences import SMALL, bags_of, built, changed_by_order, check_company, check_half, check_tiny

from histostudy.errors import ModelError
from histostudy.models.batch import BagBatch

SCANS = ("sr", "forward", "bidirectional")


@pytest.mark.parametrize("scan", SCANS)
def test_bags_do_not_touch(scan: str) -> None:
    model = built("mambamil", scan=scan, rate=3)
    check_company(model, bags_of(4, 1, 11, 2))
    check_tiny(model)
    check_half(model)


@pytest.mark.parametrize("scan", SCANS)
def test_order_matters_here_and_not_to_abmil(scan: str) -> None:
    batch = BagBatch.pack(bags_of(20))
    assert changed_by_order(built("mambamil", scan=scan), batch) > 1e-4
    torch.manual_seed(0)
    from histostudy.models.registry import build_aggregator

    assert changed_by_order(build_aggregator("abmil", 5).double().eval(), batch) < 1e-12  # type: ignore[arg-type]


def test_a_bag_that_no_stride_divides_has_no_filling_to_see() -> None:
    """A rate of more tiles than the bag has leaves it in its order: both branches read the same sequence."""
    model, bags = built("mambamil", rate=50, layers=1), bags_of(7, 50)
    plain = built("mambamil", rate=1, layers=1)
    plain.load_state_dict(model.state_dict())
    batch = BagBatch.pack(bags)
    assert torch.allclose(model(batch)[0], plain(batch)[0], atol=1e-12)


def test_what_a_tile_reaches() -> None:
    """One layer along the order alone sees nothing of later tiles; with strides, or from the end too, it does."""
    reached = {}
    for scan in SCANS:
        model, (bag,) = built("mambamil", scan=scan, layers=1, rate=3), bags_of(10)
        tokens = BagBatch.pack([model.embed(bag).detach().requires_grad_()])
        (gradient,) = torch.autograd.grad(model.mixed(tokens)[4].sum(), tokens.features)  # type: ignore[operator]
        reached[scan] = torch.nonzero(gradient.abs().sum(1)).flatten().tolist()
    assert reached["forward"] == [0, 1, 2, 3, 4]
    assert reached["bidirectional"] == list(range(10))
    # in strides of three, 0 3 6 9 1 4 7 2 5 8: before tile 4 come 0, 3, 6, 9 and 1
    assert reached["sr"] == [0, 1, 2, 3, 4, 6, 9]


def test_wrong_options_are_one_line() -> None:
    with pytest.raises(ModelError, match="scan is one of sr, forward, bidirectional"):
        built("mambamil", scan="snake")


@pytest.mark.parametrize("scan", ["sr", "forward"])
def test_a_planted_order_is_found(scan: str) -> None:
    train, test = near_or_far(0, 200), near_or_far(1, 200)
    assert auc("mambamil", SMALL | {"scan": scan}, train, test, steps=30, lr=1e-2) > 0.85


def test_abmil_cannot_see_it_and_none_is_found_where_none_is() -> None:
    train, test = near_or_far(0, 200), near_or_far(1, 200)
    options = {"hidden": 16, "attention": 16, "dropout": 0.0}
    assert auc("abmil", options, train, test, steps=60, lr=1e-2) == pytest.approx(0.5, abs=0.1)
    nothing = near_or_far(0, 200, effect=False), near_or_far(1, 200, effect=False)
    assert auc("mambamil", SMALL | {"scan": "forward"}, *nothing, steps=30, lr=1e-2) == pytest.approx(0.5, abs=0.1)
