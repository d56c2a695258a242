"""The steps of a scan as one Triton kernel, for CUDA; PyTorch takes them where there is no Triton or it goes wrong."""

from __future__ import annotations

import logging
from functools import cache

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

try:
    import triton
    import triton.language as tl
except ImportError:  # a CPU build of torch has none
    triton = None

#: Numbers that a program of the kernel takes through all steps.
WIDTH = 128

if triton is not None:

    @triton.jit
    def _kernel(a, h, length, width, a_chunk, a_step, h_chunk, h_step, REVERSE: tl.constexpr, WIDTH: tl.constexpr):  # type: ignore[no-untyped-def]
        chunk = tl.program_id(0).to(tl.int64)
        column = tl.program_id(1).to(tl.int64) * WIDTH + tl.arange(0, WIDTH)
        inside = column < width
        first = length - 1 if REVERSE else 0
        state = tl.load(h + chunk * h_chunk + first * h_step + column, mask=inside, other=0.0)
        for i in range(1, length):
            j = length - 1 - i if REVERSE else i
            factor = tl.load(a + chunk * a_chunk + j * a_step + column, mask=inside, other=0.0)
            place = h + chunk * h_chunk + j * h_step + column
            state = factor * state + tl.load(place, mask=inside, other=0.0)
            tl.store(place, state, mask=inside)


def launch(a: Tensor, h: Tensor, reverse: bool) -> None:
    """`histostudy.models.scan.plain_steps` by the kernel: in place in h (K, M, C) float32, whose columns lie close."""
    chunks, length, width = h.shape
    grid = (chunks, triton.cdiv(width, WIDTH))
    _kernel[grid](a, h, length, width, a.stride(0), a.stride(1), h.stride(0), h.stride(1), REVERSE=reverse, WIDTH=WIDTH)


@cache
def usable(device: torch.device) -> bool:
    """Whether the kernel gives what PyTorch does on this device; said once in the log where it does not."""
    from histostudy.models.scan import plain_steps

    if triton is None:
        return False
    generator = torch.Generator().manual_seed(0)
    a, h = (torch.rand(3, 37, 200, generator=generator).to(device) for _ in range(2))
    try:
        for reverse in (False, True):
            ours, theirs = h.clone(), h.clone()
            launch(a[:, 1:] if reverse else a, ours, reverse)
            plain_steps(a[:, 1:] if reverse else a, theirs, reverse)
            if not torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5):
                logger.warning("the Triton scan differs from PyTorch's on %s; PyTorch scans, more slowly", device)
                return False
    # a compiler that is missing, a driver or a GPU it does not know: each its own kind of error
    except (RuntimeError, OSError, ValueError, TypeError, AttributeError, triton.TritonError) as error:
        logger.warning("no Triton scan on %s (%s); PyTorch scans, more slowly", device, error)
        return False
    return True


def steps(a: Tensor, h: Tensor, reverse: bool) -> bool:
    """Take the steps in place in h (K, M, C) if the kernel can; whether it did."""
    if h.stride(2) != 1 or a.stride(2) != 1 or not usable(h.device):
        return False
    launch(a, h, reverse)
    return True
