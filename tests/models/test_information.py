"""Bounds of mutual information and products of Gaussians."""

from __future__ import annotations

import pytest
import torch

from histostudy.models.multimodal.information import (
    CLUBMean,
    club_bound,
    club_mean_bound,
    kl_to_standard,
    mixture_moments,
    product_of_experts,
)


def pairs(r: float, d: int = 5, n: int = 400_000) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randn(n, d, dtype=torch.float64)
    return x, r * x + (1 - r * r) ** 0.5 * torch.randn(n, d, dtype=torch.float64)


@pytest.mark.parametrize(("r", "truth", "club", "club_mean"), [(0.5, 0.719, 1.667, 1.25), (0.9, 4.15, 21.3, 4.05)])
def test_bounds_of_gaussians_have_their_closed_forms(r: float, truth: float, club: float, club_mean: float) -> None:
    x, y = pairs(r)
    log_variance = torch.full_like(x, 1 - r * r).log()
    assert club_bound(r * x, log_variance, y).item() == pytest.approx(club, rel=0.03)
    assert club_mean_bound(r * x, y).item() == pytest.approx(club_mean, rel=0.03)
    information = -2.5 * torch.log(torch.tensor(1 - r * r)).item()
    assert information == pytest.approx(truth, rel=0.01)
    assert club > information
    assert (club_mean > information) == (r == 0.5)  # the unit-variance form is no upper bound at 0.9


def test_club_is_the_loop_over_pairs_of_different_samples() -> None:
    torch.manual_seed(1)
    mean, log_variance, y = torch.randn(3, 7, 4, dtype=torch.float64).unbind()

    def log_q(i: int, j: int) -> torch.Tensor:
        return torch.distributions.Normal(mean[i], (log_variance[i] / 2).exp()).log_prob(y[j] + 50).sum()

    paired = sum(log_q(i, i) for i in range(7)) / 7
    crossed = sum(log_q(i, j) for i in range(7) for j in range(7) if i != j) / 42
    assert club_bound(mean, log_variance, y + 50).item() == pytest.approx((paired - crossed).item(), rel=1e-9)
    assert club_bound(mean[:1], log_variance[:1], y[:1]).item() == 0


def test_independent_vectors_have_none_on_average_even_in_small_batches() -> None:
    torch.manual_seed(2)
    draws = torch.stack([club_mean_bound(torch.randn(4, 3), torch.randn(4, 3)) for _ in range(4000)])
    assert abs(draws.mean()) < 4 * draws.std() / 4000**0.5


def test_each_loss_moves_its_own_side_only() -> None:
    torch.manual_seed(3)
    estimator = CLUBMean(3, 2, 8)
    x, y = torch.randn(6, 3, requires_grad=True), torch.randn(6, 2, requires_grad=True)
    estimator.likelihood(x, y).backward()
    assert x.grad is None
    assert y.grad is None
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in estimator.parameters())
    estimator.zero_grad(set_to_none=True)
    estimator.bound(x, y).backward()
    assert all(p.grad is None for p in estimator.parameters())
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert y.grad is not None
    assert y.grad.abs().sum() > 0


def test_the_learned_estimator_reaches_the_closed_form() -> None:
    x, y = (side.float() for side in pairs(0.7, 3, 4000))
    estimator = CLUBMean(3, 3, 32)
    optimiser = torch.optim.Adam(estimator.parameters(), lr=1e-2)
    for _ in range(200):
        optimiser.zero_grad()
        estimator.likelihood(x, y).backward()
        optimiser.step()
    assert estimator.bound(x, y).item() == pytest.approx(3 * 0.49, rel=0.08)


def test_product_of_two_gaussians_is_the_closed_form() -> None:
    m, v = torch.tensor([1.0, 4.0]), torch.tensor([2.0, 0.5])
    mean, variance = product_of_experts(m[:, None, None], v[:, None, None], torch.ones(2, 1))
    assert variance.item() == pytest.approx(2 * 0.5 / 2.5)
    assert mean.item() == pytest.approx((1 * 0.5 + 4 * 2) / 2.5)
    grid = torch.linspace(-20, 20, 40_001, dtype=torch.float64)
    density = sum(torch.distributions.Normal(a, b.sqrt()).log_prob(grid) for a, b in zip(m, v, strict=True)).exp()
    assert (grid * density).sum().item() / density.sum().item() == pytest.approx(mean.item(), rel=1e-6)


def test_an_expert_of_weight_zero_has_no_say() -> None:
    m, v = torch.tensor([1.0, 400.0]), torch.tensor([2.0, 1e-3])
    mean, variance = product_of_experts(m[:, None, None], v[:, None, None], torch.tensor([[1.0], [0.0]]))
    assert (mean.item(), variance.item()) == (1, 2)


def test_kl_and_mixture_have_their_closed_forms() -> None:
    mean, variance = torch.randn(4, 3), torch.rand(4, 3) + 0.2
    normal = torch.distributions.Normal(mean, variance.sqrt())
    oracle = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(kl_to_standard(mean, variance), oracle)
    torch.manual_seed(4)
    shares = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    which = torch.multinomial(shares[0], 200_000, replacement=True)
    draws = mean[which] + variance[which].sqrt() * torch.randn(200_000, 3)
    mixed, spread = mixture_moments(shares, mean, variance)
    torch.testing.assert_close(mixed[0], draws.mean(0), atol=0.02, rtol=0)
    torch.testing.assert_close(spread[0], draws.var(0), atol=0.02, rtol=0.02)
