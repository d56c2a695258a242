"""Memory of tiles that are read ahead, with a decoder that only paints."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from histostudy.slides.resample import source_side
from histostudy.slides.scatter import Grid, Reading, Scatter

STORED, ACROSS = 128, 24


def reader(step: float, size: int, batch: int, boxes: int) -> tuple[Scatter, list[int]]:
    """A pass over a slide of 24 x 24 stored tiles with room for so many boxes, and how many there were."""
    side, held = source_side(size, step), []
    wide = STORED * ACROSS
    places = range(-7, wide - side // 2, side)  # past the edges, too
    corners = np.array([(x, y) for y in places for x in places], np.int64)

    def decode(numbers: Sequence[int], direct: dict[int, np.ndarray]) -> Iterator[np.ndarray]:
        for number in numbers:
            time.sleep(0.0005 * (number % 3))  # threads overtake one another
            held.append(len(tiles._boxes) + len(tiles._spare))
            yield np.random.default_rng(number).integers(0, 255, (STORED, STORED, 3), np.uint8)

    grid, reading = Grid(wide, wide, STORED, STORED, ACROSS), Reading(0, corners, side, step, size)
    tiles = Scatter(grid, reading, decode, lambda number: number, batch, boxes * 3 * side**2)
    return tiles, held


@pytest.mark.parametrize("boxes", [1, 12])
def test_threads_hold_no_more_boxes_than_there_is_room_for(boxes: int) -> None:
    alone, _ = reader(3.957, 32, 64, boxes)
    want = np.concatenate(list(alone.batches()))
    assert len(want) > 500
    for workers in (1, 4):
        tiles, held = reader(3.957, 32, 64, boxes)
        np.testing.assert_array_equal(np.concatenate(list(tiles.batches(workers))), want)
        # the tiles begun, those of the group that is made, and what threads that run ahead begin
        assert max(held) <= 2 * boxes + 12 * workers, max(held)
        assert len(tiles._spare) <= boxes and not tiles._boxes
