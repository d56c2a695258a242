"""Entropic optimal transport between the tiles of a bag and a few prototypes or tables.

Two programmes, both solved by alternating scaling (Sinkhorn) with Newton steps, in float64: `unbalanced_plan`, where
both marginals may bend, and `partial_plan`, where each tile may leave a part of its mass aside. A batch of padded bags
is one solve; each bag stops on its own, so neither padding nor the company in a batch changes a plan.

Plans are differentiable in the cost. The gradient is that of the optimum, by the implicit function theorem: at the
fixed point g = T(g, cost) of the scaling it needs one step of T and one K x K solve, which is what unrolling every
iteration would tend to, without its memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from histostudy.models.layers import full_precision
from histostudy.models.registry import require

#: Largest span of cost / epsilon for which exp(-cost / epsilon) is multiplied as such; beyond it sums go by logs.
SPAN = 300.0
#: Plain scaling steps before the first of Newton's.
WARM = 5


def unbalanced_plan(
    cost: Tensor,
    *,
    mask: Tensor | None = None,
    epsilon: float = 0.1,
    tau: float = 0.5,
    iterations: int = 1000,
    tolerance: float = 1e-10,
) -> Tensor:
    """Transport between uniform marginals a = 1/N and b = 1/K that may both bend.

    Minimises <P, M> + epsilon KL(P || a b') + tau KL(P 1 || a) + tau KL(P' 1 || b) with generalised divergences
    (Chizat et al., Mathematics of Computation 2018); the plan of POT's ``sinkhorn_knopp_unbalanced`` with `reg_type`
    ``kl``. At the optimum epsilon log(P / a b') + M + tau log(P 1 / a) + tau log(P' 1 / b) = 0.

    Parameters
    ----------
    cost : Tensor
        (N, K) or (B, N, K) cost M of a unit of mass.
    mask : Tensor, optional
        (B, N) bool, the real tiles of padded bags; every bag has at least one.
    epsilon : float
        Weight of the entropy.
    tau : float
        Weight of both marginals; infinite for exact ones.
    iterations : int
        At most this many.
    tolerance : float
        A bag stops when no log scaling of a column changes by more in one iteration.

    Returns
    -------
    Tensor
        Plan of the shape of `cost`, zero at padding; float64 for a float64 cost, else float32.

    Raises
    ------
    ModelError
        If epsilon or tau is not positive.
    """
    require(epsilon > 0, "epsilon is above 0")
    require(tau > 0, "tau is above 0")
    matrix, real = _batched(cost, mask)
    width = matrix.shape[2]
    log_rows = -real.sum(1, keepdim=True).double().log()
    log_columns = matrix.new_full((width,), -math.log(width))
    kernel = -matrix / epsilon + log_rows[:, :, None] + log_columns
    power = 1 / (1 + epsilon / tau)
    problem = _Scaling(kernel, real, log_rows, log_columns, power, log_columns.new_full((width,), power))
    return _as_cost(problem.plan(iterations, tolerance), cost)


def partial_plan(
    cost: Tensor,
    mass: float,
    *,
    mask: Tensor | None = None,
    epsilon: float = 0.1,
    gamma: float = 1.0,
    iterations: int = 1000,
    tolerance: float = 1e-10,
) -> tuple[Tensor, Tensor]:
    """Transport of a share `mass` of the tiles, the rest kept in a slack column (OTSurv, MICCAI 2025).

    Minimises <P, M> + epsilon sum Q (log Q - 1) + gamma KL(P' 1 || mass / K) over Q = [P, s], with every row of Q
    summing to 1/N and the slack s to 1 - mass.

    Parameters
    ----------
    cost : Tensor
        (N, K) or (B, N, K) cost M of a unit of mass; the slack costs nothing.
    mass : float
        Share that is transported, above 0 up to 1; with 1 there is no slack.
    mask : Tensor, optional
        (B, N) bool, the real tiles of padded bags; every bag has at least one.
    epsilon : float
        Weight of the entropy.
    gamma : float
        Weight of the columns' evenness; infinite for equal columns.
    iterations : int
        At most this many. A bag that has not converged has exact rows; its slack sums to 1 - mass only nearly.
    tolerance : float
        A bag stops when no log scaling of a column changes by more in one iteration.

    Returns
    -------
    plan : Tensor
        Of the shape of `cost`, zero at padding; float64 for a float64 cost, else float32.
    slack : Tensor
        (N,) or (B, N) mass that each tile keeps.

    Raises
    ------
    ModelError
        If an argument is outside its range.
    """
    require(epsilon > 0, "epsilon is above 0")
    require(gamma > 0, "gamma is above 0")
    require(0 < mass <= 1, "the mass is above 0 and at most 1")
    matrix, real = _batched(cost, mask)
    width = matrix.shape[2]
    log_rows = -real.sum(1, keepdim=True).double().log()
    log_columns = matrix.new_full((width,), math.log(mass / width))
    powers = log_columns.new_full((width,), 1 / (1 + epsilon / gamma))
    kernel = -matrix / epsilon
    if mass < 1:
        kernel = torch.cat([kernel, torch.zeros_like(kernel[:, :, :1])], 2)
        log_columns = torch.cat([log_columns, log_columns.new_tensor([math.log1p(-mass)])])
        powers = torch.cat([powers, powers.new_ones(1)])
    whole = _Scaling(kernel, real, log_rows, log_columns, 1.0, powers).plan(iterations, tolerance)
    plan = whole[:, :, :width]
    slack = whole[:, :, width] if mass < 1 else torch.zeros_like(whole[:, :, 0])
    return _as_cost(plan, cost), _as_cost(slack, cost)


class _Scaling:
    """Find f (B, N) and g (B, K) such that exp(kernel + f + g) has the marginals asked for.

    One step: f = p (log a - log sum_k exp(kernel + g)), then g_k = q_k (log b_k - log sum_n exp(kernel + f)), where
    a power p or q of 1 makes a marginal exact and one below 1 lets it bend.
    """

    def __init__(
        self, kernel: Tensor, real: Tensor, log_rows: Tensor, log_columns: Tensor, p: float, q: Tensor
    ) -> None:
        self.kernel, self.real, self.p, self.q = kernel, real, p, q
        self.log_rows, self.log_columns = log_rows, log_columns

    def plan(self, iterations: int, tolerance: float) -> Tensor:
        with torch.no_grad():
            g = self.settle(iterations, tolerance)
        if torch.is_grad_enabled() and self.kernel.requires_grad:
            system = self.system(g)  # before the step: it is a constant of the backward pass
            g = self.columns(self.rows(g))
            g.register_hook(lambda gradient: torch.linalg.solve(system, gradient))
        f = self.rows(g)
        return torch.where(self.real[:, :, None], (self.kernel + f[:, :, None] + g[:, None, :]).exp(), 0.0)

    def rows(self, g: Tensor) -> Tensor:
        return self.p * (self.log_rows - (self.kernel + g[:, None, :]).logsumexp(2))

    def columns(self, f: Tensor) -> Tensor:
        f = torch.where(self.real, f, -torch.inf)
        return self.q * (self.log_columns - (self.kernel + f[:, :, None]).logsumexp(1))

    def settle(self, iterations: int, tolerance: float) -> Tensor:
        """Iterate to the fixed point g; a bag is left as it is once it has converged.

        Scaling creeps where the slack is large (a thousand steps at a mass of .1), so after a few steps each bag takes
        Newton's step for T(g) - g = 0 wherever that leaves less to go than the plain step does. The plain step never
        increases what is left to go, hence neither does the pair.
        """
        step = self.step_by_products() if self.span() <= SPAN else lambda g: self.columns(self.rows(g))
        g = self.log_columns.expand(len(self.kernel), -1).clone()
        for _ in range(min(WARM, iterations)):
            g = step(g)
        change = step(g) - g
        for _ in range(WARM, iterations):
            active = change.abs().amax(1, keepdim=True) > tolerance
            if not active.any():
                break
            plain = g + change
            newton = g + torch.linalg.solve_ex(self.system(g).transpose(1, 2), change)[0]
            left_plain, left_newton = step(plain) - plain, step(newton) - newton
            # a step to nowhere (singular system) is NaN, which compares false
            better = left_newton.abs().amax(1, keepdim=True) < left_plain.abs().amax(1, keepdim=True)
            g = torch.where(active, torch.where(better, newton, plain), g)
            change = torch.where(active, torch.where(better, left_newton, left_plain), change)
        return g

    def span(self) -> float:
        return float(self.kernel.amax() - self.kernel.amin())

    def step_by_products(self) -> Callable[[Tensor], Tensor]:
        """The step with exp(kernel) kept and multiplied: many times faster than sums of logs."""
        top = self.kernel.amax(2, keepdim=True)
        product = (self.kernel - top).exp()
        turned = product.transpose(1, 2)
        top = top[:, :, 0]

        def step(g: Tensor) -> Tensor:
            most = g.amax(1, keepdim=True)
            sums = (product @ (g - most).exp()[:, :, None])[:, :, 0]
            f = self.p * (self.log_rows - (sums.log() + most + top))
            f = torch.where(self.real, f + top, -torch.inf)
            most = f.amax(1, keepdim=True)
            sums = (turned @ (f - most).exp()[:, :, None])[:, :, 0]
            return self.q * (self.log_columns - (sums.log() + most))

        return step

    def system(self, g: Tensor) -> Tensor:
        """Transpose of I - dT/dg (B, K, K) at the fixed point; dT/dg = p diag(q) C' R with C, R the shares."""
        with torch.no_grad():
            f = torch.where(self.real, self.rows(g), -torch.inf)
            of_row = (self.kernel + g[:, None, :]).softmax(2)
            of_column = (self.kernel + f[:, :, None]).softmax(1)
            jacobian = self.p * self.q[:, None] * (of_column.transpose(1, 2) @ of_row)
            system = torch.eye(len(self.q), dtype=g.dtype, device=g.device) - jacobian
            if self.p == 1 and bool((self.q == 1).all()):
                # exact marginals leave g free up to a constant, which moves no plan: pin it
                system = system + 1 / len(self.q)
            return system.transpose(1, 2)


def _batched(cost: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """(B, N, K) float64 cost, zero at padding, and (B, N) mask."""
    matrix = (cost if cost.ndim == 3 else cost[None]).double()
    if mask is None:
        return matrix, torch.ones(matrix.shape[:2], dtype=torch.bool, device=matrix.device)
    mask = mask if mask.ndim == 2 else mask[None]
    return torch.where(mask[:, :, None], matrix, 0.0), mask


def _as_cost(values: Tensor, cost: Tensor) -> Tensor:
    values = full_precision(values, cost)
    return values if cost.ndim == 3 else values[0]
