"""2DMambaMIL: where tiles are laid, that bags do not touch, a planted place in the plane."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models.orders import auc, near_or_far
from models.sequences import SMALL, bags_of, built, changed_by_order, check_company, check_half, check_tiny, coords_of

from histostudy.models.aggregators.mamba2d import lay_out
from histostudy.models.batch import BagBatch

POINTS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=25)


def at(*bags: list[tuple[int, int]]) -> BagBatch:
    """Bags of tiles at (x, y)."""
    return BagBatch.pack([torch.zeros(len(bag), 1) for bag in bags], [torch.tensor(bag) for bag in bags])


def test_tiles_lie_as_in_the_slide_without_empty_rows_and_columns() -> None:
    # x 448, 896 and, after a gap, 4480; y 0, 448, 896
    grids = lay_out(at([(448, 0), (896, 0), (448, 448), (4480, 448), (896, 896), (4480, 896)], [(7, 7)]), 4)
    assert grids.shapes == [(3, 3), (1, 1)]
    assert grids.cell.tolist() == [0, 1, 3, 5, 7, 8, 9]
    assert grids.column.tolist() == [0, 1, 2] * 3 + [0]


def test_tiles_of_several_slides_at_the_same_coordinates_lie_on_several_grids() -> None:
    slide = [(0, 0), (1, 0), (0, 1), (1, 1)]
    grids = lay_out(at(slide + slide[:3] + slide[:1], slide), 4)
    assert grids.shapes == [(2, 2), (2, 2), (1, 1), (2, 2)]
    assert grids.cell.tolist() == [0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12]


def test_without_coordinates_tiles_fill_a_square_in_order() -> None:
    grids = lay_out(BagBatch.pack([torch.zeros(n, 1) for n in (1, 5, 9)]), 4)
    assert grids.shapes == [(1, 1), (2, 3), (3, 3)]
    assert grids.cell.tolist() == [0, *range(1, 6), *range(7, 16)]


@given(st.lists(POINTS, min_size=1, max_size=4), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_no_tile_is_lost_and_no_grid_is_sparse(bags: list[list[tuple[int, int]]], most: int) -> None:
    batch = at(*bags)
    grids = lay_out(batch, most)
    sizes = torch.tensor([rows * columns for rows, columns in grids.shapes])
    assert len(grids.column) == int(sizes.sum())
    owner = torch.repeat_interleave(sizes)
    grid = owner[grids.cell]
    assert (sizes <= most * torch.bincount(grid, minlength=len(sizes))).all()
    assert len(torch.unique(torch.stack([grid, batch.segments]), dim=1)[0]) == len(sizes)
    # no two bags share a grid, and within one grid what is to the right, or below, is not to the left, or above
    row = (grids.cell - (sizes.cumsum(0) - sizes)[grid]) // torch.tensor([n for _, n in grids.shapes])[grid]
    for axis, place in enumerate((grids.column[grids.cell], row)):
        same = grid[:, None] == grid
        ahead = batch.coords[:, axis, None] <= batch.coords[:, axis]  # type: ignore[index]
        assert (place[:, None] <= place)[same & ahead].all()
    # alone, a bag is laid out as in company
    alone = lay_out(at(bags[0]), most)
    assert torch.equal(alone.cell, grids.cell[: len(bags[0])])


def test_scattered_tiles_make_a_coarser_grid() -> None:
    spots = [(100 * i, 100 * (7 * i % 30)) for i in range(30)]
    assert lay_out(at(spots), 30).shapes == [(30, 30)]
    assert lay_out(at(spots), 4).shapes == [(8, 8)]


@pytest.mark.parametrize("layers", [1, 2])
def test_bags_do_not_touch(layers: int) -> None:
    model = built("mamba2d", layers=layers)
    check_company(model, bags_of(4, 1, 11, 2), coords_of(4, 1, 11, 2))
    check_company(model, bags_of(4, 1, 11, 2))
    check_tiny(model)
    check_half(model, coords_of(40, 9))


def test_order_matters_only_without_coordinates() -> None:
    model, bags = built("mamba2d"), bags_of(20)
    assert changed_by_order(model, BagBatch.pack(bags)) > 1e-4
    assert changed_by_order(model, BagBatch.pack(bags, coords_of(20))) < 1e-10
    scattered = torch.randint(0, 10**5, (20, 2), generator=torch.Generator().manual_seed(0))
    assert changed_by_order(model, BagBatch.pack(bags, [scattered])) < 1e-10


def test_a_tile_reaches_what_is_below_and_to_the_right() -> None:
    model, (bag,) = built("mamba2d"), bags_of(16)
    coords = torch.cartesian_prod(torch.arange(4), torch.arange(4)).flip(1)
    tokens = BagBatch.pack([model.embed(bag).detach().requires_grad_()], [coords])
    (gradient,) = torch.autograd.grad(model.mixed(tokens)[6].sum(), tokens.features)  # type: ignore[operator]
    assert torch.nonzero(gradient.abs().sum(1)).flatten().tolist() == [0, 1, 2, 4, 5, 6]


def test_empty_cells_hold_the_trained_token_and_are_not_pooled() -> None:
    model, bags = built("mamba2d"), bags_of(3)
    full, holed = torch.tensor([[0, 0], [1, 0], [2, 0]]), torch.tensor([[0, 0], [2, 1], [3, 0]])
    before = [model(BagBatch.pack(bags, [where]))[0] for where in (full, holed)]
    with torch.no_grad():
        model.empty += torch.arange(6)  # type: ignore[operator]
    after = [model(BagBatch.pack(bags, [where])) for where in (full, holed)]
    assert torch.equal(before[0], after[0][0])
    assert not torch.allclose(before[1], after[1][0])
    assert len(after[1][1]) == 3


def test_a_planted_place_in_the_plane_is_found_whatever_the_order() -> None:
    train, test = near_or_far(0, 200, plane=5), near_or_far(1, 200, plane=5)
    assert auc("mamba2d", SMALL, train, test, steps=30, lr=1e-2) > 0.85
    options = {"hidden": 16, "attention": 16, "dropout": 0.0}
    assert auc("abmil", options, train, test, steps=60, lr=1e-2) == pytest.approx(0.5, abs=0.1)
