"""The selective scan against loops over tokens in float64."""

from __future__ import annotations

import pytest
import torch
from models.loops import (
    OFFSETS,
    TOKENS,
    close,
    drawn,
    gradients_hold,
    loop,
    plane_loop,
    selective_loop,
    selective_values,
    window_loop,
)  # fmt: skip
from torch import Tensor

from histostudy.models import selective_scan as scans
from histostudy.models.scan import linear_scan, window_offsets
from histostudy.models.selective_scan import selective_scan, selective_scan_2d


def test_states_are_float32_under_autocast() -> None:
    values = [value.detach().float() for value in selective_values()]
    plain = selective_scan(*values, offsets=OFFSETS)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(selective_scan(*values, offsets=OFFSETS), plain)
        assert linear_scan(values[1].bfloat16(), values[0].bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("length", [20, 200, 700])
def test_what_a_token_reaches_depends_on_no_length(length: int) -> None:
    """Notes 8.6: with windows of 8, output 10 sees tokens 0 to 10 and the rest of its window, 11 to 15."""
    x, dt, a, b, c = selective_values(length, 1, 2)
    y = selective_scan(x, dt + 0.1, a, b, c, window=8)
    (gradient,) = torch.autograd.grad(y[10, 0], x)
    assert torch.nonzero(gradient[:, 0]).flatten().tolist() == list(range(16))


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
