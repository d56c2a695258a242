"""Bags in the plane: squares by side, the lattice found from coordinates."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from histostudy.errors import ModelError
from histostudy.models.squares import bags_by_side, lattice_cells, lattice_step


def test_every_bag_is_once_in_the_smallest_square_that_holds_it() -> None:
    lengths = torch.tensor([1, 2, 4, 5, 9, 10, 20_000, 4, 1_000_000])
    found = {int(bag): side for side, bags in bags_by_side(lengths) for bag in bags}
    assert found == {0: 1, 1: 2, 2: 2, 3: 3, 4: 3, 5: 4, 6: 142, 7: 2, 8: 1000}


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.sampled_from([1, 224, 447]), st.integers(0, 2**31))
def test_cells_of_a_lattice_are_found_whatever_its_origin(count: int, step: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    places = torch.randperm(64, generator=generator)[:count]
    rows, columns = places // 8, places % 8
    full = torch.cartesian_prod(torch.arange(8), torch.arange(8))
    cells = torch.cat([torch.stack([rows, columns], 1) + 20, full])  # a whole lattice beside it fixes the step
    coords = cells.flip(1) * step + torch.tensor([13, 5])
    assert lattice_step(coords) == step
    torch.testing.assert_close(lattice_cells(coords, 100), cells)


def test_wide_gaps_are_closed_as_far_as_no_kernel_reaches() -> None:
    coords = torch.tensor([[0, 0], [10, 0], [20, 0], [1000, 0], [1010, 0], [60, 50_000]])
    assert lattice_cells(coords, 3).tolist() == [[0, 0], [0, 1], [0, 2], [0, 10], [0, 11], [4, 6]]


def test_one_tile_and_tiles_at_one_place() -> None:
    assert lattice_cells(torch.tensor([[5, 7]]), 3).tolist() == [[0, 0]]
    assert lattice_cells(torch.tensor([[5, 7], [5, 7]]), 3).tolist() == [[0, 0], [0, 0]]


def test_tiles_on_no_lattice_are_one_line() -> None:
    line = torch.arange(2000) * 7919
    with pytest.raises(ModelError, match="the 2000 tiles of a bag lie on no lattice.*grid: square"):
        lattice_cells(torch.stack([line, line], 1), 3)
