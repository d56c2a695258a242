"""Regions hold each tile once, within one slide, by its place where that is known."""

from __future__ import annotations

import numpy as np
import torch
from training.continual.streams import Bags

from histostudy.training.continual.regions import region_batch, regions_of
from histostudy.training.tilestore import TileStore


def _bags(known: bool, lattice: bool = True) -> Bags:
    """Two slides of one patient, that lie in the same places, and a patient of one tile."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(10), np.arange(7)), -1).reshape(-1, 2) * 224 + 100
    grid = grid[rng.random(len(grid)) < 0.8]
    if not lattice:
        grid = grid + rng.integers(0, 200, grid.shape)
    coords = np.concatenate([grid, grid, [[5, 5]]])
    bags = Bags.of([rng.normal(size=(2 * len(grid), 4)), rng.normal(size=(1, 4))])
    bags.slide_index = np.repeat([0, 1, 2], [len(grid), len(grid), 1]).astype("int32")
    bags.coords, bags.positions = coords, "px0" if known else "unknown"
    return bags


def test_each_tile_is_in_one_region_of_its_slide() -> None:
    for known, lattice in ((True, True), (True, False), (False, True)):
        bags = _bags(known, lattice)
        regions = regions_of(bags, bags.patient_ids, 16)  # type: ignore[arg-type]
        every = torch.cat([rows for mine in regions.rows for rows in mine])
        assert sorted(every.tolist()) == list(range(len(bags.features)))
        for mine, cells in zip(regions.rows, regions.cells, strict=True):
            for rows, cell in zip(mine, cells, strict=True):
                assert len(np.unique(bags.slide_index[rows])) == 1
                assert 1 <= len(rows) <= 16 and len(set(cell.tolist())) == len(cell) and int(cell.max()) < 16
        assert regions.by_position == known


def test_known_places_give_squares_and_neighbours_stay_neighbours() -> None:
    bags = _bags(True)
    regions = regions_of(bags, bags.patient_ids, 16)  # type: ignore[arg-type]
    assert bags.coords is not None
    for rows, cell in zip(regions.rows[0], regions.cells[0], strict=True):
        at = bags.coords[rows] // 224
        assert (np.ptp(at, axis=0) < 4).all()
        inner = np.stack([cell.numpy() % 4, cell.numpy() // 4], 1)
        assert (np.diff(at - inner, axis=0) == 0).all()  # the grid is the slide, moved


def test_unknown_places_give_even_runs_in_file_order() -> None:
    bags = _bags(False)
    regions = regions_of(bags, bags.patient_ids, 16)  # type: ignore[arg-type]
    lengths = [len(rows) for rows in regions.rows[0]]
    assert max(lengths) - min(lengths) <= 1
    assert all((rows.diff() == 1).all() for rows in regions.rows[0])


def test_a_batch_holds_the_tiles_in_their_places() -> None:
    bags = _bags(True)
    store = TileStore(torch.from_numpy(bags.features), bags.offsets.tolist(), bags.patient_ids)
    regions = regions_of(bags, bags.patient_ids, 16)  # type: ignore[arg-type]
    batch = region_batch(store, regions, [1, 0])
    assert batch.offsets.tolist() == [0, 1, 1 + len(regions.rows[0])]
    assert int(batch.mask.sum()) == len(bags.features)
    for i, (rows, cell) in enumerate(zip(regions.rows[0], regions.cells[0], strict=True), start=1):
        assert torch.equal(batch.tiles[i, cell], store.features[rows])
        torch.testing.assert_close(batch.means()[i], store.features[rows].mean(0))
    moved = batch.standardised(torch.ones(4), torch.full((4,), 2.0))
    assert float(moved.tiles[~batch.mask].abs().sum()) == 0
    torch.testing.assert_close(moved.means(), (batch.means() - 1) / 2)
    store.features = store.features.half()  # as bags may be stored
    half = region_batch(store, regions, [1, 0])
    assert half.tiles.dtype == torch.float32
    torch.testing.assert_close(half.tiles, batch.tiles, rtol=1e-3, atol=1e-3)
    few = region_batch(store, regions, [0], 32, torch.Generator().manual_seed(0))
    assert len(few.tiles) == 2
