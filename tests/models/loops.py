"""Scans as loops over tokens, and values to scan, in float64."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

LENGTHS = [3, 1, 8, 19]
OFFSETS = torch.tensor([0, *LENGTHS]).cumsum(0)
TOKENS = int(OFFSETS[-1])


def drawn(*shape: int, seed: int = 0, low: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return low + (1 - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)


def bags(offsets: Tensor) -> list[range]:
    return [range(a, b) for a, b in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)]


def loop(a: Tensor, b: Tensor, offsets: Tensor, reverse: bool = False) -> Tensor:
    rows = [torch.zeros(0)] * len(a)
    for bag in bags(offsets):
        state = torch.zeros_like(b[0])
        for t in reversed(bag) if reverse else bag:
            rows[t] = state = a[t] * state + b[t]
    return torch.stack(rows)


def window_loop(a: Tensor, b: Tensor, offsets: Tensor, window: int) -> Tensor:
    """g_t = a_t (g_{t+1} + b_{t+1}) while t + 1 is in the window of t."""
    rows = [torch.zeros_like(b[0])] * len(a)
    for bag in bags(offsets):
        for t in reversed(bag):
            if t + 1 in bag and (t - bag[0]) // window == (t + 1 - bag[0]) // window:
                rows[t] = a[t] * (rows[t + 1] + b[t + 1])
    return torch.stack(rows)


def plane_loop(a: Tensor, b: Tensor) -> Tensor:
    u, h = torch.zeros_like(b), torch.zeros_like(b)
    for i in range(len(b)):
        for j in range(b.shape[1]):
            u[i, j] = b[i, j] + (a[i, j] * u[i, j - 1] if j else 0)
    for j in range(b.shape[1]):
        for i in range(len(b)):
            h[i, j] = u[i, j] + (a[i, j] * h[i - 1, j] if i else 0)
    return h


def selective_values(tokens: int = TOKENS, channels: int = 4, states: int = 2) -> list[Tensor]:
    """x, dt, A, B, C."""
    x, b, c = (drawn(tokens, n, seed=s, low=-1) for s, n in enumerate((channels, states, states)))
    values = [x, drawn(tokens, channels, seed=3), -2 * drawn(channels, states, seed=4), b, c]
    return [value.requires_grad_() for value in values]


def selective_loop(values: list[Tensor], states_of: Callable[..., Tensor]) -> Tensor:
    x, dt, a, b, c = values
    states = states_of((dt[:, :, None] * a).exp(), (dt * x)[:, :, None] * b[:, None])
    return (states * c[:, None]).sum(2)


def gradients_hold(function: Callable[..., Tensor], values: list[Tensor]) -> bool:
    """Against finite differences along drawn directions."""
    return torch.autograd.gradcheck(function, values, fast_mode=True)


def close(ours: Tensor, theirs: Tensor) -> bool:
    return ours.dtype == torch.float64 and float((ours - theirs).detach().abs().max()) < 1e-10
