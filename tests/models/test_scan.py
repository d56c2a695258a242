"""Linear scans against loops over tokens in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models.loops import OFFSETS, TOKENS, bags, close, drawn, gradients_hold, loop, plane_loop, window_loop

from histostudy.models import scan as scans
from histostudy.models.scan import linear_scan, local_backward_scan, scan_2d, window_offsets


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


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (6, 1), (4, 5)])
def test_the_scan_in_the_plane_goes_along_rows_then_down_columns(shape: tuple[int, int]) -> None:
    a, b = drawn(*shape, 2).requires_grad_(), drawn(*shape, 2, seed=1, low=-1).requires_grad_()
    assert close(scan_2d(a, b), plane_loop(a, b))
    assert gradients_hold(scan_2d, [a, b])


def test_a_cell_of_the_plane_is_reached_one_way_only() -> None:
    """With factors of 1 every cell holds the sum over the rectangle up to it, each input once."""
    b = drawn(4, 5)
    assert close(scan_2d(torch.ones(4, 5, dtype=torch.float64), b), b.cumsum(0).cumsum(1))
