"""Mamba's selective scan over packed bags and over planes (Gu and Dao, Mamba, 2023, section 3; 2DMamba, CVPR 2025).

It has T x channels x states of numbers. Only blocks of them are ever there: the state at the start of each block is
kept, and what lies between is computed again for the gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from histostudy.models.layers import full_precision
from histostudy.models.scan import bounds_of, scan_in_place, take_steps, window_offsets

#: Numbers of a block of states: a few such blocks lie in a CPU's cache, or in a small part of a GPU's memory.
BLOCK = {"cpu": 1 << 17, "cuda": 1 << 24}
#: Channels of a block of a plane at least.
CHANNELS = 8


def selective_scan(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor | None = None, offsets: Tensor | None = None,
    *, reverse: bool = False, window: int | None = None,
) -> Tensor:  # fmt: skip
    """y_t = C_t h_t + D x_t with h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t, for each channel (Gu and Dao, 2023).

    Parameters
    ----------
    x, dt : Tensor
        (T, E) inputs and steps, of at least 0.
    a : Tensor
        (E, N) negative.
    b, c : Tensor
        (T, N) how a token is written to, and read from, the N states of each channel.
    d : Tensor
        (E,) share of the input that passes by; None for 0.
    offsets : Tensor
        (B + 1,) where the bags lie; None for one.
    reverse : bool
        From each bag's last token to its first.
    window : int
        Adds the scan the other way in windows of so many tokens, without the own input, to the states: LBMamba's.

    Returns
    -------
    Tensor
        (T, E), in float32 or better.
    """
    x, dt, a, b, c = (full_precision(value, x) for value in (x, dt, a, b, c))
    bounds = bounds_of(offsets, len(x), x.device)
    with torch.autocast(x.device.type, enabled=False):
        written, decay = dt * x, a.T.contiguous()

        def scanned(bounds: Tensor, reverse: bool) -> Tensor:
            if not reverse:
                return _SelectiveScan.apply(dt, written, decay, b, c, bounds[:-1])
            turned = [value.flip(0) for value in (dt, written, b, c)]
            starts = len(x) - bounds[1:].flip(0)
            return _SelectiveScan.apply(*turned[:2], decay, *turned[2:], starts).flip(0)

        y = scanned(bounds, reverse)
        if window is not None:
            # the scan of a window has the own input in it, which the global one has already
            y = y + scanned(window_offsets(bounds, window), not reverse) - (b * c).sum(1, keepdim=True) * written
        return y if d is None else y + full_precision(d, x) * x


def selective_scan_2d(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor | None, shapes: Sequence[tuple[int, int]]
) -> Tensor:
    """y = C h + D x with the states of `scan_2d` over planes, packed one after the other, row by row.

    Parameters
    ----------
    x, dt, a, b, c, d : Tensor
        As for `selective_scan`, of the T cells of all planes.
    shapes : sequence of (int, int)
        Rows and columns of each plane.

    Returns
    -------
    Tensor
        (T, E), in float32 or better.
    """
    x, dt, a, b, c = (full_precision(value, x) for value in (x, dt, a, b, c))
    with torch.autocast(x.device.type, enabled=False):
        y = _SelectiveScan2D.apply(dt, dt * x, a.T.contiguous(), b, c, tuple(shapes))
        return y if d is None else y + full_precision(d, x) * x


def _read(c: Tensor, h: Tensor) -> Tensor:
    """Sum over states: (S, N) and (S, N, E) to (S, E)."""
    return torch.bmm(c[:, None], h)[:, 0]


def _written(h: Tensor, u: Tensor) -> Tensor:
    """Sum over channels: (S, N, E) and (S, E) to (S, N)."""
    return torch.bmm(u[:, None], h.transpose(1, 2))[:, 0]


class _SelectiveScan(torch.autograd.Function):
    """C_t h_t of dt, u = dt x (T, E), A transposed (N, E), B, C (T, N) and the places (B,) where bags start."""

    @staticmethod
    def forward(ctx: Any, dt: Tensor, u: Tensor, decay: Tensor, b: Tensor, c: Tensor, starts: Tensor) -> Tensor:
        size = max(1, BLOCK[u.device.type] // decay.numel())
        edges = [*range(0, len(u), size), len(u)]
        cuts = torch.searchsorted(starts, torch.tensor(edges, device=u.device)).tolist()
        y, first = torch.empty_like(u), u.new_zeros(len(edges) - 1, *decay.shape)
        for i, (start, stop) in enumerate(pairwise(edges)):
            part = slice(start, stop)
            _, h = _block(dt[part], u[part], decay, b[part], starts[cuts[i] : cuts[i + 1]] - start, first[i])
            y[part] = _read(c[part], h)
            if stop < len(u):
                first[i + 1] = h[-1]
        ctx.save_for_backward(dt, u, decay, b, c, starts, first)
        ctx.edges, ctx.cuts = edges, cuts
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        dt, u, decay, b, c, starts, first = ctx.saved_tensors
        grads = _Gradients(dt, u, decay, b, c)
        after = torch.zeros_like(decay)  # what comes back into the last state of a block from the next one
        with torch.autocast(grad.device.type, enabled=False):
            for i, (start, stop) in reversed(list(enumerate(pairwise(ctx.edges)))):
                part = slice(start, stop)
                at = starts[ctx.cuts[i] : ctx.cuts[i + 1]] - start
                a, h = _block(dt[part], u[part], decay, b[part], at, first[i])
                back = c[part, :, None] * grad[part, None]
                back[-1] += after
                if len(back) > 1:
                    _adjoint(a, back)
                after = a[0] * back[0]
                grads.c[part] = _written(h, grad[part])
                a[1:] *= h[:-1]
                a[0] *= first[i]
                grads.add(part, slice(None), a.mul_(back), back)
        return grads.dt, grads.u, grads.decay, grads.b, grads.c, None


def _block(dt: Tensor, u: Tensor, decay: Tensor, b: Tensor, starts: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """Factors and states (S, N, E) of a block of tokens after the state `first` (N, E)."""
    a = (dt[:, None] * decay).exp_()
    a.index_fill_(0, starts, 0.0)
    h = b[:, :, None] * u[:, None]
    h[0].addcmul_(a[0], first)
    scan_in_place(a.flatten(1), h.flatten(1))
    return a, h


def _adjoint(a: Tensor, back: Tensor) -> None:
    """In place in `back` (S, N, E): back_t += a_{t+1} back_{t+1}."""
    factors, states = a[1:].flatten(1), back.flatten(1)
    states[-2].addcmul_(factors[-1], states[-1])
    scan_in_place(factors, states[:-1], True)


class _Gradients:
    """Gradients of what makes factors and inputs, put together block by block."""

    def __init__(self, dt: Tensor, u: Tensor, decay: Tensor, b: Tensor, c: Tensor) -> None:
        self.values = dt, u, decay, b
        self.dt, self.u, self.c = torch.empty_like(dt), torch.empty_like(u), torch.zeros_like(c)
        self.decay, self.b = torch.zeros_like(decay), torch.zeros_like(b)

    def add(self, part: slice, channels: slice, power: Tensor, back: Tensor) -> None:
        """Take the gradients (S, N, E) of the exponents dt A and of the inputs of some tokens and channels."""
        dt, u, decay, b = self.values
        self.dt[part, channels] = (power * decay[:, channels]).sum(1)
        self.decay[:, channels] += (power * dt[part, None, channels]).sum(0)
        self.u[part, channels] = _read(b[part], back)
        self.b[part] += _written(back, u[part, channels])


class _SelectiveScan2D(torch.autograd.Function):
    """As `_SelectiveScan`, over planes of (rows, columns): plane by plane, some channels at a time."""

    @staticmethod
    def forward(
        ctx: Any, dt: Tensor, u: Tensor, decay: Tensor, b: Tensor, c: Tensor, shapes: tuple[tuple[int, int], ...]
    ) -> Tensor:
        y = torch.empty_like(u)
        for part, channels, shape in _planes(u, len(decay), shapes):
            a, h = _plane(dt[part, channels], u[part, channels], decay[:, channels], b[part], shape)
            take_steps(*_downwards(a, h, shape))
            y[part, channels] = _read(c[part], h)
        ctx.save_for_backward(dt, u, decay, b, c)
        ctx.shapes = shapes
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        dt, u, decay, b, c = ctx.saved_tensors
        grads = _Gradients(dt, u, decay, b, c)
        with torch.autocast(grad.device.type, enabled=False):
            for part, channels, shape in _planes(u, len(decay), ctx.shapes):
                a, along = _plane(dt[part, channels], u[part, channels], decay[:, channels], b[part], shape)
                h = along.clone()
                take_steps(*_downwards(a, h, shape))
                back = c[part, :, None] * grad[part, None, channels]
                grads.c[part] += _written(h, grad[part, channels])
                rows, columns = shape
                up, planes = a.view(1, rows, -1), back.view(1, rows, -1)
                take_steps(up[:, 1:], planes, True)
                power = torch.zeros_like(a)  # of the factors so far: back times the state before
                power.view(rows, -1)[1:] = back.view(rows, -1)[1:] * h.view(rows, -1)[:-1]
                take_steps(a.view(rows, columns, -1)[:, 1:], back.view(rows, columns, -1), True)
                lines = [value.view(rows, columns, -1) for value in (power, back, along)]
                lines[0][:, 1:].addcmul_(lines[1][:, 1:], lines[2][:, :-1])
                grads.add(part, channels, power.mul_(a), back)
        return grads.dt, grads.u, grads.decay, grads.b, grads.c, None


def _planes(
    u: Tensor, states: int, shapes: Sequence[tuple[int, int]]
) -> Iterator[tuple[slice, slice, tuple[int, int]]]:
    """Cells of each plane, channels of a block of it, and its shape."""
    start = 0
    for rows, columns in shapes:
        part = slice(start, start := start + rows * columns)
        size = max(CHANNELS, BLOCK[u.device.type] // (rows * columns * states))
        for first in range(0, u.shape[1], size):
            yield part, slice(first, first + size), (rows, columns)


def _plane(dt: Tensor, u: Tensor, decay: Tensor, b: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Factors and the states along rows (cells, N, E) of a plane."""
    a = (dt[:, None] * decay).exp_()
    along = b[:, :, None] * u[:, None]
    take_steps(a.view(*shape, -1), along.view(*shape, -1))
    return a, along


def _downwards(a: Tensor, h: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """A plane's cells as one scan of whole rows."""
    return a.view(1, shape[0], -1), h.view(1, shape[0], -1)
