"""Linear recurrences over packed bags: h_t = a_t h_{t-1} + b_t, forwards, backwards, in windows and in the plane.

A factor a = 0 at the first token of a bag starts its state anew, exactly, so that one scan over the packed tokens
serves bags of any lengths and nothing passes from one to the next. Products of factors are never divided by: over long
bags they underflow. States are float32 under autocast, float64 where they are given so.
"""

from __future__ import annotations

from itertools import pairwise
from math import isqrt
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from histostudy.models.layers import full_precision

#: Numbers that one step of a scan handles at least, where the scan is long enough to be cut: a step's fixed cost.
STEP = {"cpu": 1 << 12, "cuda": 1 << 18}


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
    starts = bounds_of(offsets, len(a), a.device)
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
    windows = window_offsets(bounds_of(offsets, len(a), a.device), window)
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


def bounds_of(offsets: Tensor | None, length: int, device: torch.device) -> Tensor:
    """Where bags lie, (B + 1,): `offsets`, or one bag of `length` tokens."""
    return torch.tensor([0, length], device=device) if offsets is None else offsets


def take_steps(a: Tensor, h: Tensor, reverse: bool = False) -> None:
    """In place in h (K, M, C): h_j += a_j h_{j-1} for j = 1 .. M-1, or from the end h_j += a_j h_{j+1}.

    Backwards, a may be one shorter: its last factor has nothing to act on.
    """
    if h.device.type == "cuda" and h.dtype == torch.float32:
        from histostudy.models.scan_triton import steps

        if steps(a, h, reverse):
            return
    plain_steps(a, h, reverse)


def plain_steps(a: Tensor, h: Tensor, reverse: bool = False) -> None:
    """`take_steps` in PyTorch."""
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


def scan_in_place(a: Tensor, h: Tensor, reverse: bool = False) -> None:
    """In place: inputs h (T, C) become states.

    A narrow scan is cut into chunks that are scanned side by side from 0; what a chunk ends with goes on to the next
    one, times the product of the factors since.
    """
    length, width = h.shape
    chunks = min(-(-STEP[h.device.type] // max(1, width)), isqrt(length))
    if chunks < 2:
        take_steps(a[None], h[None], reverse)
        return
    size = length // chunks
    rest = length - chunks * size
    # the tokens that no chunk takes are the last ones on the way
    part = slice(rest, None) if reverse else slice(0, length - rest)
    factors, states = a[part].unflatten(0, (chunks, size)), h[part].unflatten(0, (chunks, size))
    take_steps(factors, states, reverse)
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
        scan_in_place(a, h, reverse)
        ctx.save_for_backward(a, h)
        ctx.reverse = reverse
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        a, h = ctx.saved_tensors
        grad, before = grad.clone(memory_format=torch.contiguous_format), torch.zeros_like(h)
        if ctx.reverse:
            scan_in_place(torch.cat([a[:1], a[:-1]]), grad)
            before[:-1] = h[1:]
        else:
            scan_in_place(torch.cat([a[1:], a[-1:]]), grad, True)
            before[1:] = h[:-1]
        return grad * before, grad, None
