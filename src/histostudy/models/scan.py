"""Linear recurrences over packed bags: h_t = a_t h_{t-1} + b_t, forwards, backwards, in windows and in the plane.

A factor a = 0 at the first token of a bag starts its state anew, exactly, so that one scan over the packed tokens
serves bags of any lengths and nothing passes from one to the next. Products of factors are never divided by: over long
bags they underflow. States are float32 under autocast, float64 where they are given so.

Mamba's scan (Gu and Dao, 2023, section 3) has T x channels x states of them. Only blocks of these are ever there: the
state at each block's start is kept, and what lies between is computed again for the gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import isqrt
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from histostudy.models.layers import full_precision

#: Numbers that one step of a scan handles at least, where the scan is long enough to be cut: a step's fixed cost.
STEP = {"cpu": 1 << 12, "cuda": 1 << 18}
#: Numbers of a block of states: a few such blocks lie in a CPU's cache, or in a small part of a GPU's memory.
BLOCK = {"cpu": 1 << 17, "cuda": 1 << 24}
#: Channels of a block of a plane at least.
CHANNELS = 8


def linear_scan(a: Tensor, b: Tensor, offsets: Tensor | None = None, *, reverse: bool = False) -> Tensor:
    """h_t = a_t h_{t-1} + b_t over each bag, from h = 0 before its first token.

    Parameters
    ----------
    a, b : Tensor
        (T, ...) factors from 0 to 1, and inputs.
    offsets : Tensor
        (B + 1,) where the bags lie, as in `BagBatch`; None for one.
    reverse : bool
        h_t = a_t h_{t+1} + b_t, from 0 after the last token.

    Returns
    -------
    Tensor
        (T, ...) states, in float32 or better.
    """
    a, b = full_precision(a), full_precision(b, a)
    starts = _bounds(offsets, len(a), a.device)
    ends = starts[1:] - 1 if reverse else starts[:-1]
    with torch.autocast(a.device.type, enabled=False):
        a = a.index_fill(0, ends, 0.0)
        return _LinearScan.apply(a.reshape(len(a), -1), b.reshape(len(b), -1), reverse).view(b.shape)


def window_offsets(offsets: Tensor, window: int) -> Tensor:
    """Offsets (W + 1,) of windows of `window` tokens, counted from each bag's first; a bag's last may be shorter."""
    counts = (offsets.diff() + window - 1) // window
    first = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    within = torch.arange(len(first), device=offsets.device) - first
    starts = torch.repeat_interleave(offsets[:-1], counts) + window * within
    return torch.cat([starts, offsets[-1:]])


def local_backward_scan(a: Tensor, b: Tensor, window: int, offsets: Tensor | None = None) -> Tensor:
    """g_t = a_t (g_{t+1} + b_{t+1}) within windows, 0 at the last token of each (LBMamba, TMLR 2025).

    The own input is not in it, so that f + g with the states f of `linear_scan` counts it once.

    Parameters
    ----------
    a, b : Tensor
        (T, ...) factors and inputs.
    window : int
        Tokens of a window; windows are counted from each bag's first token.
    offsets : Tensor
        (B + 1,) where the bags lie; None for one.

    Returns
    -------
    Tensor
        (T, ...), in float32 or better.
    """
    windows = window_offsets(_bounds(offsets, len(a), a.device), window)
    with_own = linear_scan(a, b, windows, reverse=True)
    after = torch.cat([with_own[1:], torch.zeros_like(with_own[:1])])
    return full_precision(a).index_fill(0, windows[1:] - 1, 0.0) * after


def scan_2d(a: Tensor, b: Tensor) -> Tensor:
    """u_ij = a_ij u_i,j-1 + b_ij along rows, then h_ij = a_ij h_i-1,j + u_ij down columns (2DMamba, CVPR 2025).

    Parameters
    ----------
    a, b : Tensor
        (H, W, ...) factors and inputs of one plane.

    Returns
    -------
    Tensor
        (H, W, ...) states, in float32 or better.
    """
    rows, columns = a.shape[:2]
    lines = torch.arange(rows + 1, device=a.device) * columns
    along = linear_scan(a.flatten(0, 1), b.flatten(0, 1), lines).view_as(b)
    return linear_scan(a, along)


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
    bounds = _bounds(offsets, len(x), x.device)
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


def _bounds(offsets: Tensor | None, length: int, device: torch.device) -> Tensor:
    return torch.tensor([0, length], device=device) if offsets is None else offsets


def _steps(a: Tensor, h: Tensor, reverse: bool = False) -> None:
    """In place in h (K, M, C): h_j += a_j h_{j-1} for j = 1 .. M-1, or from the end h_j += a_j h_{j+1}.

    Backwards, a may be one shorter: its last factor has nothing to act on.
    """
    if h.device.type == "cuda" and h.dtype == torch.float32:
        from histostudy.models.scan_triton import steps

        if steps(a, h, reverse):
            return
    plain_steps(a, h, reverse)


def plain_steps(a: Tensor, h: Tensor, reverse: bool = False) -> None:
    """`_steps` in PyTorch."""
    factors, states = a.unbind(1), h.unbind(1)
    if reverse:
        for j in range(len(states) - 2, -1, -1):
            states[j].addcmul_(factors[j], states[j + 1])
    else:
        for j in range(1, len(states)):
            states[j].addcmul_(factors[j], states[j - 1])


def _products(a: Tensor, reverse: bool) -> Tensor:
    """Products of factors (K, M, C) from the first, or the last, of each chunk."""
    products = a.clone()
    steps = products.unbind(1)
    for before, after in pairwise(steps[::-1] if reverse else steps):
        after.mul_(before)
    return products


def _scan(a: Tensor, h: Tensor, reverse: bool = False) -> None:
    """In place: inputs h (T, C) become states.

    A narrow scan is cut into chunks that are scanned side by side from 0; what a chunk ends with goes on to the next
    one, times the product of the factors since.
    """
    length, width = h.shape
    chunks = min(-(-STEP[h.device.type] // max(1, width)), isqrt(length))
    if chunks < 2:
        _steps(a[None], h[None], reverse)
        return
    size = length // chunks
    rest = length - chunks * size
    # the tokens that no chunk takes are the last ones on the way
    part = slice(rest, None) if reverse else slice(0, length - rest)
    factors, states = a[part].unflatten(0, (chunks, size)), h[part].unflatten(0, (chunks, size))
    _steps(factors, states, reverse)
    products = _products(factors, reverse)
    end = 0 if reverse else -1
    plain_steps(products[None, :, end], states[None, :, end], reverse)
    if reverse:
        states[:-1, 1:].addcmul_(products[:-1, 1:], states[1:, :1])
    else:
        states[1:, :-1].addcmul_(products[1:, :-1], states[:-1, -1:])
    if rest:
        left = slice(0, rest + 1) if reverse else slice(length - rest - 1, None)
        plain_steps(a[None, left], h[None, left], reverse)


class _LinearScan(torch.autograd.Function):
    """Keeps factors and states; the gradient is the scan the other way."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, reverse: bool) -> Tensor:
        h = b.clone(memory_format=torch.contiguous_format)
        _scan(a, h, reverse)
        ctx.save_for_backward(a, h)
        ctx.reverse = reverse
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        a, h = ctx.saved_tensors
        grad, before = grad.clone(memory_format=torch.contiguous_format), torch.zeros_like(h)
        if ctx.reverse:
            _scan(torch.cat([a[:1], a[:-1]]), grad)
            before[:-1] = h[1:]
        else:
            _scan(torch.cat([a[1:], a[-1:]]), grad, True)
            before[1:] = h[:-1]
        return grad * before, grad, None


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
    _scan(a.flatten(1), h.flatten(1))
    return a, h


def _adjoint(a: Tensor, back: Tensor) -> None:
    """In place in `back` (S, N, E): back_t += a_{t+1} back_{t+1}."""
    factors, states = a[1:].flatten(1), back.flatten(1)
    states[-2].addcmul_(factors[-1], states[-1])
    _scan(factors, states[:-1], True)


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
            _steps(*_downwards(a, h, shape))
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
                _steps(*_downwards(a, h, shape))
                back = c[part, :, None] * grad[part, None, channels]
                grads.c[part] += _written(h, grad[part, channels])
                rows, columns = shape
                up, planes = a.view(1, rows, -1), back.view(1, rows, -1)
                _steps(up[:, 1:], planes, True)
                power = torch.zeros_like(a)  # of the factors so far: back times the state before
                power.view(rows, -1)[1:] = back.view(rows, -1)[1:] * h.view(rows, -1)[:-1]
                _steps(a.view(rows, columns, -1)[:, 1:], back.view(rows, columns, -1), True)
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
    _steps(a.view(*shape, -1), along.view(*shape, -1))
    return a, along


def _downwards(a: Tensor, h: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """A plane's cells as one scan of whole rows."""
    return a.view(1, shape[0], -1), h.view(1, shape[0], -1)
