"""Scans against loops over tokens in float64."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from histostudy.models import scan as scans
from histostudy.models.scan import (
    linear_scan,
    local_backward_scan,
    scan_2d,
    selective_scan,
    selective_scan_2d,
    window_offsets,
)

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


def selective_loop(values: list[Tensor], states_of) -> Tensor:  # type: ignore[no-untyped-def]
    x, dt, a, b, c = values
    states = states_of((dt[:, :, None] * a).exp(), (dt * x)[:, :, None] * b[:, None])
    return (states * c[:, None]).sum(2)


def gradients_hold(function: Callable[..., Tensor], values: list[Tensor]) -> bool:
    """Against finite differences along drawn directions."""
    return torch.autograd.gradcheck(function, values, fast_mode=True)


def close(ours: Tensor, theirs: Tensor) -> bool:
    return ours.dtype == torch.float64 and float((ours - theirs).detach().abs().max()) < 1e-10


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=5), st.sampled_from([1, 3, 200]), st.booleans(), st.integers(0, 9)
)
@settings(max_examples=40, deadline=None)
def test_the_scan_of_packed_bags_is_the_loop_over_each(
    lengths: list[int], width: int, reverse: bool, seed: int
) -> None:
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    a, b = drawn(sum(lengths), width, seed=seed), drawn(sum(lengths), width, seed=seed + 1, low=-1)
    assert close(linear_scan(a, b, offsets, reverse=reverse), loop(a, b, offsets, reverse))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("step", [1, 12, 1 << 12])
def test_chunks_of_any_number_give_the_same(step: int, reverse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One chunk, three and as many as there may be; 31 tokens are no multiple of any."""
    monkeypatch.setitem(scans.STEP, "cpu", step)
    a, b = drawn(TOKENS, 2, 2).requires_grad_(), drawn(TOKENS, 2, 2, seed=1, low=-1).requires_grad_()
    assert close(linear_scan(a, b, OFFSETS, reverse=reverse), loop(a, b, OFFSETS, reverse))
    assert gradients_hold(lambda a, b: linear_scan(a, b, OFFSETS, reverse=reverse), [a, b])


def test_a_long_scan_neither_under_nor_overflows() -> None:
    """Products of 20,000 factors vanish in float32: a scan that divided by them would give no numbers."""
    a, b = 0.5 * drawn(20_000, 1).float(), drawn(20_000, 1, seed=1).float()
    found = linear_scan(a, b)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), loop(a.double(), b.double(), torch.tensor([0, 20_000])), atol=1e-5)


def test_states_are_float32_under_autocast() -> None:
    values = [value.detach().float() for value in selective_values()]
    plain = selective_scan(*values, offsets=OFFSETS)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(selective_scan(*values, offsets=OFFSETS), plain)
        assert linear_scan(values[1].bfloat16(), values[0].bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("window", [1, 4, 8, 100])
def test_the_local_backward_scan_is_the_loop(window: int) -> None:
    a, b = drawn(TOKENS, 3).requires_grad_(), drawn(TOKENS, 3, seed=1, low=-1).requires_grad_()
    assert close(local_backward_scan(a, b, window, OFFSETS), window_loop(a, b, OFFSETS, window))
    assert gradients_hold(lambda a, b: local_backward_scan(a, b, window, OFFSETS), [a, b])


@given(st.lists(st.integers(1, 20), min_size=1, max_size=5), st.integers(1, 25))
@settings(max_examples=40, deadline=None)
def test_windows_start_with_each_bag(lengths: list[int], window: int) -> None:
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    expected = [t for bag in bags(offsets) for t in bag[::window]] + [sum(lengths)]
    assert window_offsets(offsets, window).tolist() == expected


@pytest.mark.parametrize("length", [20, 200, 700])
def test_what_a_token_reaches_depends_on_no_length(length: int) -> None:
    """Notes 8.6: with windows of 8, output 10 sees tokens 0 to 10 and the rest of its window, 11 to 15."""
    x, dt, a, b, c = selective_values(length, 1, 2)
    y = selective_scan(x, dt + 0.1, a, b, c, window=8)
    (gradient,) = torch.autograd.grad(y[10, 0], x)
    assert torch.nonzero(gradient[:, 0]).flatten().tolist() == list(range(16))


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (6, 1), (4, 5)])
def test_the_scan_in_the_plane_goes_along_rows_then_down_columns(shape: tuple[int, int]) -> None:
    a, b = drawn(*shape, 2).requires_grad_(), drawn(*shape, 2, seed=1, low=-1).requires_grad_()
    assert close(scan_2d(a, b), plane_loop(a, b))
    assert gradients_hold(scan_2d, [a, b])


def test_a_cell_of_the_plane_is_reached_one_way_only() -> None:
    """With factors of 1 every cell holds the sum over the rectangle up to it, each input once."""
    b = drawn(4, 5)
    assert close(scan_2d(torch.ones(4, 5, dtype=torch.float64), b), b.cumsum(0).cumsum(1))


#: States of each way to scan, by loops; a window's scan goes the other way, and leaves the own input out.
WAYS = {
    "forward": ({}, lambda a, b: loop(a, b, OFFSETS)),
    "reverse": ({"reverse": True}, lambda a, b: loop(a, b, OFFSETS, True)),
    "window": ({"window": 4}, lambda a, b: loop(a, b, OFFSETS) + window_loop(a, b, OFFSETS, 4)),
    "both": (
        {"window": 4, "reverse": True},
        lambda a, b: loop(a, b, OFFSETS, True) + loop(a, b, window_offsets(OFFSETS, 4)) - b,
    ),
}


@pytest.mark.parametrize("block", [1, 40, 1 << 17])
@pytest.mark.parametrize("way", WAYS)
def test_the_selective_scan_is_the_loop_in_blocks_of_any_size(
    way: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(scans.BLOCK, "cpu", block)
    values, (options, states) = selective_values(), WAYS[way]
    assert close(selective_scan(*values, offsets=OFFSETS, **options), selective_loop(values, states))
    assert gradients_hold(lambda *v: selective_scan(*v, offsets=OFFSETS, **options), values)
    weight = drawn(TOKENS, 4, seed=7)
    ours = torch.autograd.grad((weight * selective_scan(*values, offsets=OFFSETS, **options)).sum(), values)
    theirs = torch.autograd.grad((weight * selective_loop(values, states)).sum(), values)
    assert all(close(o, t) for o, t in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("block", [1, 1 << 17])
def test_the_selective_scan_in_the_plane_is_the_loop(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(scans.BLOCK, "cpu", block)
    monkeypatch.setattr(scans, "CHANNELS", 3)
    shapes = [(3, 4), (1, 1), (9, 2)]
    values = selective_values()
    starts = [0, 12, 13, 31]

    def states(a: Tensor, b: Tensor) -> Tensor:
        planes = [plane_loop(a[s:e].unflatten(0, n), b[s:e].unflatten(0, n)).flatten(0, 1)
                  for s, e, n in zip(starts[:-1], starts[1:], shapes, strict=True)]  # fmt: skip
        return torch.cat(planes)

    assert close(selective_scan_2d(*values, None, shapes), selective_loop(values, states))
    assert gradients_hold(lambda *v: selective_scan_2d(*v, None, shapes), values)


def test_d_lets_the_input_pass() -> None:
    values, d = selective_values(), drawn(4, seed=9)
    passed = selective_scan(*values, d, OFFSETS) - selective_scan(*values, None, OFFSETS)
    assert close(passed, d * values[0])


def test_states_of_many_tokens_are_never_all_there() -> None:
    """20,000 tokens, 64 channels and 16 states are 82 MB of states: less than half of it is held at a time."""
    x, dt, a, b, c = (v.detach().float().requires_grad_() for v in selective_values(20_000, 64, 16))
    held: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: held.append(t.nbytes) or t, lambda t: t):
        y = selective_scan(x, dt, a, b, c)
    assert sum(held) < 20_000 * 64 * 16 * 4 / 2
    y.sum().backward()
    assert torch.isfinite(x.grad).all()


def test_without_a_gpu_the_kernel_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    triton = pytest.importorskip("histostudy.models.scan_triton")
    triton.usable.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert not triton.usable(torch.device("cpu"))
        assert not triton.usable(torch.device("cpu"))
    assert triton.triton is None or sum("PyTorch scans" in message for message in caplog.messages) == 1
    h = torch.ones(1, 3, 2)
    assert not triton.steps(torch.ones(1, 3, 2), h, False)
    assert torch.equal(h, torch.ones(1, 3, 2))


#: Run where Triton interprets its kernels in NumPy, which must be said before it is imported.
INTERPRETED = """
import torch
from histostudy.models.scan import plain_steps
from histostudy.models.scan_triton import launch, usable
assert usable(torch.device("cpu"))
for shape in ((1, 1, 5), (2, 9, 130), (4, 3, 300)):
    a, start = torch.rand(shape), torch.rand(shape)
    for factors, reverse in ((a, False), (a, True), (a[:, 1:], True)):
        ours, theirs = start.clone(), start.clone()
        launch(factors, ours, reverse)
        plain_steps(factors, theirs, reverse)
        assert torch.allclose(ours, theirs, atol=1e-6), (shape, reverse)
"""


def test_the_kernel_interpreted_gives_what_pytorch_does() -> None:
    pytest.importorskip("triton")
    subprocess.run(
        [sys.executable, "-c", INTERPRETED], check=True, env={**os.environ, "TRITON_INTERPRET": "1"}, timeout=120
    )
