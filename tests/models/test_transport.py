"""Transport plans against POT, a general optimiser, and what they promise."""

from __future__ import annotations

import math

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from histostudy.errors import ModelError
from histostudy.models import transport
from histostudy.models.transport import partial_plan, unbalanced_plan


def cost_of(n: int, k: int, seed: int = 0) -> Tensor:
    return torch.rand(n, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("epsilon", "tau"), [(0.1, 0.5), (0.1, 10.0), (0.02, 0.05), (1.0, 0.5)])
def test_unbalanced_equals_pot(epsilon: float, tau: float) -> None:
    cost = cost_of(8, 5)
    reference = ot.unbalanced.sinkhorn_knopp_unbalanced(
        np.full(8, 1 / 8), np.full(5, 1 / 5), cost.numpy(), epsilon, tau, reg_type="kl", stopThr=1e-15, numItermax=20000
    )
    assert unbalanced_plan(cost, epsilon=epsilon, tau=tau).numpy() == pytest.approx(reference, abs=1e-8)


def test_balanced_limit_equals_pot() -> None:
    cost = cost_of(8, 5)
    plan = unbalanced_plan(cost, tau=math.inf)
    reference = ot.sinkhorn(np.full(8, 1 / 8), np.full(5, 1 / 5), cost.numpy(), 0.1, stopThr=1e-14)
    assert plan.numpy() == pytest.approx(reference, abs=1e-8)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(1, 8), st.sampled_from([0.02, 0.1, 1.0]), st.sampled_from([0.05, 0.5, 10.0]))
def test_unbalanced_is_stationary(n: int, k: int, epsilon: float, tau: float) -> None:
    cost = cost_of(n, k, n * 10 + k)
    plan = unbalanced_plan(cost, epsilon=epsilon, tau=tau)
    rows, columns = (plan.sum(1) * n).log()[:, None], (plan.sum(0) * k).log()
    residual = epsilon * (plan * n * k).log() + cost + tau * rows + tau * columns
    assert residual.abs().max() < 1e-8


def test_far_tiles_carry_less_the_softer_the_marginals() -> None:
    generator = torch.Generator().manual_seed(0)
    anchors = torch.randn(6, 32, generator=generator)
    near = anchors[torch.arange(300) % 6] + torch.randn(300, 32, generator=generator)
    tiles = torch.cat([near, 5 * torch.randn(130, 32, generator=generator)]).double()
    cost = torch.cdist(tiles, anchors.double()).square()
    plans = [unbalanced_plan(cost / cost.max(), tau=tau) for tau in (10, 0.5, 0.1, 0.05, 0.02)]
    shares = [float(plan[300:].sum() / plan.sum()) for plan in plans]
    mass = [float(plan.sum()) for plan in plans]
    assert shares == sorted(shares, reverse=True)
    assert mass == sorted(mass, reverse=True)
    assert shares[0] > 0.28
    assert shares[-1] < 0.02
    assert (plans[1][:300].argmax(1) == torch.arange(300) % 6).all()


@pytest.mark.parametrize(("mass", "gamma"), [(0.3, 1.0), (0.6, 1.0), (0.6, 0.1), (0.9, 5.0)])
def test_partial_equals_a_general_optimiser(mass: float, gamma: float) -> None:
    from scipy.optimize import minimize

    cost, epsilon = cost_of(6, 3).numpy(), 0.1

    def value(flat: np.ndarray) -> tuple[float, np.ndarray]:
        whole = flat.reshape(6, 4)
        plan, goal = whole[:, :3], mass / 3
        column = plan.sum(0)
        held = column * np.log(column / goal) - column + goal
        gradient = epsilon * np.log(whole)
        gradient[:, :3] += cost + gamma * np.log(column / goal)
        total = (plan * cost).sum() + epsilon * (whole * (np.log(whole) - 1)).sum() + gamma * held.sum()
        return total, gradient.ravel()

    constraints = [
        {"type": "eq", "fun": lambda flat: flat.reshape(6, 4).sum(1) - 1 / 6},
        {"type": "eq", "fun": lambda flat: flat.reshape(6, 4)[:, 3].sum() - (1 - mass)},
    ]
    best = minimize(
        value, np.full(24, 1 / 24), jac=True, bounds=[(1e-12, 1)] * 24, constraints=constraints, method="SLSQP",
        options={"ftol": 1e-16, "maxiter": 2000},
    )  # fmt: skip
    plan, slack = partial_plan(torch.from_numpy(cost), mass, gamma=gamma)
    assert plan.numpy() == pytest.approx(best.x.reshape(6, 4)[:, :3], abs=1e-7)
    assert slack.numpy() == pytest.approx(best.x.reshape(6, 4)[:, 3], abs=1e-7)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 16), st.sampled_from([0.01, 0.107, 0.5, 0.99, 1.0]))
def test_partial_keeps_its_constraints(n: int, k: int, mass: float) -> None:
    plan, slack = partial_plan(cost_of(n, k, n), mass)
    assert torch.allclose(plan.sum(1) + slack, torch.full((n,), 1 / n, dtype=torch.float64), atol=1e-12)
    assert slack.sum().item() == pytest.approx(1 - mass, abs=1e-9)
    assert plan.min() >= 0


def test_gamma_goes_from_free_to_equal_columns() -> None:
    cost = cost_of(40, 4)
    cost[:, 0] *= 0.2  # a prototype near everything
    equal, _ = partial_plan(cost, 0.6, gamma=math.inf)
    assert equal.sum(0).numpy() == pytest.approx(0.15, abs=1e-9)
    free, slack = partial_plan(cost, 0.6, gamma=1e-9)
    assert free.sum(0)[0] > 2 * free.sum(0)[1:].max()
    # each row by exp(-M / epsilon), and against the slack by one constant for all rows
    assert torch.allclose((free / free[:, :1]).log(), (cost[:, :1] - cost) / 0.1, atol=1e-6)
    against_slack = (slack / free[:, 0]).log() - cost[:, 0] / 0.1
    assert float(against_slack.max() - against_slack.min()) < 1e-6


def test_partial_transport_leaves_junk_aside() -> None:
    generator = torch.Generator().manual_seed(0)
    prototypes = torch.randn(16, 32, generator=generator, dtype=torch.float64)
    noise = torch.randn(600, 32, generator=generator, dtype=torch.float64)
    junk = 4 * torch.randn(400, 32, generator=generator, dtype=torch.float64)
    cost = torch.cdist(torch.cat([prototypes[torch.arange(600) % 16] + 0.3 * noise, junk]), prototypes)
    published = {0.1: 0.013, 0.3: 0.021, 0.5: 0.047, 0.6: 0.090, 0.8: 0.259, 1.0: 0.400}
    for mass, share in published.items():
        plan, _ = partial_plan(cost / cost.max(), mass)
        assert float(plan[600:].sum() / plan.sum()) == pytest.approx(share, abs=0.005)


@pytest.mark.parametrize("kind", ["unbalanced", "partial", "whole"])
def test_neither_padding_nor_company_changes_a_plan(kind: str) -> None:
    def solve(cost: Tensor, mask: Tensor | None = None) -> Tensor:
        if kind == "unbalanced":
            return unbalanced_plan(cost, mask=mask)
        return partial_plan(cost, 0.4 if kind == "partial" else 1.0, mask=mask)[0]

    bags = [cost_of(n, 5, n) for n in (1, 7, 30)]
    padded = torch.full((3, 33, 5), math.nan, dtype=torch.float64)
    mask = torch.zeros(3, 33, dtype=torch.bool)
    for i, bag in enumerate(bags):
        padded[i, : len(bag)], mask[i, : len(bag)] = bag, True
    together = solve(padded, mask)
    for i, bag in enumerate(bags):
        assert torch.allclose(together[i, : len(bag)], solve(bag), rtol=1e-10, atol=0)
    assert (together[~mask] == 0).all()


@pytest.mark.parametrize("kind", ["unbalanced", "balanced", "partial", "slack", "whole", "equal"])
def test_gradient_is_that_of_the_optimum(kind: str) -> None:
    def solve(cost: Tensor) -> Tensor:
        if kind in ("unbalanced", "balanced"):
            return unbalanced_plan(cost, tau=0.5 if kind == "unbalanced" else math.inf, tolerance=1e-13)
        mass, gamma = 1.0 if kind == "whole" else 0.6, math.inf if kind == "equal" else 1.0
        return partial_plan(cost, mass, gamma=gamma, tolerance=1e-13)[kind == "slack"]

    cost = cost_of(6, 3).requires_grad_()
    assert torch.autograd.gradcheck(solve, (cost,), check_undefined_grad=False)


def test_gradient_equals_unrolled_iterations() -> None:
    weight = cost_of(9, 4, 1)
    cost = cost_of(9, 4).requires_grad_()
    (unbalanced_plan(cost) * weight).sum().backward()
    unrolled = cost.detach().clone().requires_grad_()
    kernel, power = (-unrolled / 0.1).exp() / 36, 0.5 / 0.6
    u, v = torch.ones(9).double(), torch.ones(4).double()
    for _ in range(300):
        u = (1 / 9 / (kernel @ v)) ** power
        v = (1 / 4 / (kernel.T @ u)) ** power
    (u[:, None] * kernel * v * weight).sum().backward()
    assert torch.allclose(cost.grad, unrolled.grad, atol=1e-9)


def test_padding_gets_no_gradient() -> None:
    cost = cost_of(10, 3).reshape(2, 5, 3).requires_grad_()
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    partial_plan(cost, 0.5, mask=mask)[0].square().sum().backward()
    assert torch.isfinite(cost.grad).all()
    assert (cost.grad[~mask] == 0).all()
    assert (cost.grad[mask] != 0).any()


def test_sums_of_logs_equal_products(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = cost_of(20, 5)
    by_products = unbalanced_plan(cost), *partial_plan(cost, 0.4)
    monkeypatch.setattr(transport, "SPAN", -1.0)
    by_logs = unbalanced_plan(cost), *partial_plan(cost, 0.4)
    for one, two in zip(by_products, by_logs, strict=True):
        assert torch.allclose(one, two, rtol=1e-10, atol=0)


def test_a_cost_far_beyond_the_exponent_still_solves() -> None:
    cost = cost_of(30, 4).requires_grad_()  # cost / epsilon up to 1,000: exp of it is 0 even in float64
    plan, slack = partial_plan(cost, 0.5, epsilon=1e-3, iterations=5000)
    assert (plan.sum(1) + slack).detach().numpy() == pytest.approx(1 / 30, abs=1e-12)
    assert slack.sum().item() == pytest.approx(0.5, abs=1e-6)
    plan.square().sum().backward()
    assert torch.isfinite(cost.grad).all()


def test_few_steps_are_near() -> None:
    """What a training with a bound on the iterations gets: here 20, at the slowest mass of the schedule."""
    cost = cost_of(200, 16)
    exact, _ = partial_plan(cost, 0.107)
    bounded, slack = partial_plan(cost, 0.107, iterations=20)
    assert torch.allclose(bounded, exact, rtol=1e-6, atol=0)
    assert slack.sum().item() == pytest.approx(0.893, abs=1e-6)


def test_the_precision_of_the_cost_comes_back() -> None:
    cost = cost_of(6, 3)
    assert unbalanced_plan(cost.half()).dtype == torch.float32
    assert partial_plan(cost, 0.5)[1].dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        half = unbalanced_plan(cost)
    assert torch.equal(half, unbalanced_plan(cost))


def test_wrong_arguments_are_one_line() -> None:
    with pytest.raises(ModelError, match="epsilon is above 0"):
        unbalanced_plan(cost_of(3, 2), epsilon=0.0)
    with pytest.raises(ModelError, match="tau is above 0"):
        unbalanced_plan(cost_of(3, 2), tau=-1.0)
    with pytest.raises(ModelError, match="mass is above 0 and at most 1"):
        partial_plan(cost_of(3, 2), 1.5)
    with pytest.raises(ModelError, match="gamma is above 0"):
        partial_plan(cost_of(3, 2), 0.5, gamma=0.0)
