"""MOTCat: the plan inside the network, what it matches and what it leaves behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from models.multimodal.tables import BOTH, patients

from histostudy.errors import ModelError
from histostudy.models.multimodal.motcat import transport_cost
from histostudy.models.registry import build_aggregator
from histostudy.models.transport import unbalanced_plan


def typed(noise: float, outliers: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tiles (1, 300 + outliers, 32) of six anchors (1, 6, 32), their types, and far tiles at the end."""
    generator = torch.Generator().manual_seed(0)
    anchors = torch.randn(6, 32, generator=generator, dtype=torch.float64)
    types = torch.arange(300) % 6
    tiles = anchors[types] + noise * torch.randn(300, 32, generator=generator, dtype=torch.float64)
    far = 5 * torch.randn(outliers, 32, generator=generator, dtype=torch.float64)
    return torch.cat([tiles, far])[None], anchors[None], types


def everything(tiles: torch.Tensor) -> torch.Tensor:
    return torch.ones(tiles.shape[:2], dtype=torch.bool)


def test_cost_equals_a_loop_and_padding_does_not_reach_it() -> None:
    generator = torch.Generator().manual_seed(0)
    tiles = torch.randn(2, 4, 5, generator=generator, dtype=torch.float64)
    tokens = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    mask = torch.arange(4) < torch.tensor([[4], [2]])
    tiles[1, 2:] = 1e3
    cost = transport_cost(tiles, mask, tokens)
    for b, n in enumerate((4, 2)):
        h, g = tiles[b, :n].numpy(), tokens[b].numpy()
        h, g = h - h.min(1, keepdims=True), g - g.min(1, keepdims=True)
        loop = np.array([[((x - y) ** 2).sum() for y in g] for x in h])
        assert np.allclose(cost[b, :n].numpy(), loop / loop.max(), atol=1e-12)
        assert not cost[b, n:].any()
    same = torch.ones(1, 2, 5)
    assert not transport_cost(same, everything(same), same).any()  # all alike: no division by zero


@pytest.mark.parametrize(("noise", "share"), [(0.3, 1.0), (1.0, 1.0), (2.0, 0.9)])
def test_the_plan_finds_the_planted_types(noise: float, share: float) -> None:
    tiles, anchors, types = typed(noise)
    plan = unbalanced_plan(transport_cost(tiles, everything(tiles), anchors, shift=False))[0]
    assert (plan.argmax(1) == types).double().mean() == pytest.approx(share, abs=0.03)


def outlier_shares(shift: bool) -> tuple[list[float], list[float]]:
    """Share of the mass that far tiles have (30 % by count), and total mass, as the marginals bend more and more."""
    tiles, anchors, _ = typed(0.3, outliers=130)
    cost = transport_cost(tiles, everything(tiles), anchors, shift)
    rows = [unbalanced_plan(cost, tau=tau)[0].sum(1) for tau in (10, 0.5, 0.1, 0.05, 0.02)]
    return [float(row[300:].sum() / row.sum()) for row in rows], [float(row.sum()) for row in rows]


def test_looser_marginals_leave_outliers_behind() -> None:
    shares, masses = outlier_shares(shift=False)
    assert shares == pytest.approx([0.292, 0.165, 0.044, 0.023, 0.012], abs=0.01)
    assert masses == sorted(masses, reverse=True)
    assert masses[:2] == pytest.approx([0.990, 0.866], abs=0.03)


def test_subtracting_minima_as_the_paper_does_costs_matches_and_keeps_outliers() -> None:
    tiles, anchors, types = typed(1.0)
    found = []
    for shift in (False, True):
        plan = unbalanced_plan(transport_cost(tiles, everything(tiles), anchors, shift))[0]
        found.append(float((plan.argmax(1) == types).double().mean()))
    assert found[0] > found[1] + 0.05
    plain, shifted = outlier_shares(shift=False)[0], outlier_shares(shift=True)[0]
    assert shifted == sorted(shifted, reverse=True)
    assert shifted[4] > 3 * plain[4]


@pytest.mark.parametrize("normalise", [False, True])
def test_each_bag_is_matched_by_its_own_plan(normalise: bool) -> None:
    torch.manual_seed(0)
    options = {"hidden": 8, "heads": 2, "normalise": normalise}
    model = build_aggregator("motcat", 5, options, modalities=BOTH).double().eval()
    batch = patients([3, 7])
    tokens = model.tokens(batch)
    tiles, mask = batch.with_features(model.embed(batch.features)).padded()
    gathered, attention = model.match(tiles, mask, tokens)
    for b, n in enumerate((3, 7)):
        own = tiles[b, :n]
        plan = unbalanced_plan(
            transport_cost(own[None], everything(own[None]), tokens[b][None])[0], epsilon=0.1, tau=0.5
        )
        wanted = plan.T @ own
        if normalise:
            wanted = wanted / plan.sum(0)[:, None]
        assert torch.allclose(gathered[b], wanted, atol=1e-9)
        assert torch.allclose(attention[b, :n], plan.sum(1) / plan.sum(), atol=1e-9)
        assert not attention[b, n:].any()


def test_the_plan_carries_no_gradient() -> None:
    torch.manual_seed(0)
    model = build_aggregator("motcat", 5, {"hidden": 8, "heads": 2}, modalities=BOTH).double()
    batch = patients([3, 7])
    tokens = model.tokens(batch)
    tiles, mask = batch.with_features(model.embed(batch.features)).padded()
    gathered, attention = model.match(tiles, mask, tokens)
    assert not attention.requires_grad
    assert gathered.requires_grad
    assert torch.autograd.grad(gathered.sum(), tokens, allow_unused=True) == (None,)


def test_wrong_options_are_one_line() -> None:
    for name, value in (("epsilon", 0), ("tau", float("nan")), ("tau", "big")):
        with pytest.raises(ModelError, match=f"{name} is a number above 0"):
            build_aggregator("motcat", 5, {name: value}, modalities=BOTH)
    with pytest.raises(ModelError, match="hidden is a multiple of heads"):
        build_aggregator("motcat", 5, {"hidden": 9}, modalities=BOTH)
