"""Several processes that share a batch: torchrun's, one a GPU (or over gloo on CPUs).

Each process works on its rows; after the backward pass the gradients are averaged in one flat sum. That is what
DistributedDataParallel does, without its hooks, so that networks may be called as often a step as crops ask for.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn


def rank() -> int:
    """Number of this process."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@contextmanager
def processes(device: str) -> Iterator[str]:
    """Join the group that torchrun started, if it did; yields this process's device."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield device
        return
    if device.startswith("cuda"):
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


def all_sum(value: Tensor) -> Tensor:
    """Sum over the processes; without gradient."""
    if world() > 1:
        value = value.detach().clone()
        dist.all_reduce(value)
    return value


def all_mean(value: Tensor) -> Tensor:
    """Mean over the processes; without gradient."""
    return all_sum(value) / world()


def all_rows(value: Tensor) -> Tensor:
    """Rows of all processes, in their order, with gradient to this one's."""
    if world() == 1:
        return value
    return _Rows.apply(value)  # type: ignore[no-untyped-call,no-any-return]


class _Rows(torch.autograd.Function):
    """Gather rows; the gradient of this process's rows is the sum of what all processes say of them."""

    @staticmethod
    def forward(context: torch.autograd.function.FunctionCtx, value: Tensor) -> Tensor:
        parts = [torch.empty_like(value) for _ in range(world())]
        dist.all_gather(parts, value.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:  # type: ignore[override]
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        own = len(total) // world()
        return total[rank() * own : (rank() + 1) * own]


def share_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes; one that only some have is 0 in the others."""
    if world() == 1:
        return
    trained = [p for p in parameters if p.requires_grad]
    flat = torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).reshape(-1) for p in trained])
    dist.all_reduce(flat)
    flat /= world()
    for parameter, part in zip(trained, flat.split([p.numel() for p in trained]), strict=True):
        if parameter.grad is not None or bool(part.any()):
            parameter.grad = part.view_as(parameter)
