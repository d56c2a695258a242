"""Memories of rehearsal: a fixed number of things seen, each with the same chance to be among them.

Source of the rehearsal of regions: ConSlide (Huang et al., ICCV 2023, section 3.4), here without the faults that the
published code has (a class of which nothing is kept breaks it there).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

Item = TypeVar("Item")


class Reservoir(Generic[Item]):
    """A uniform sample of a stream whose length is not known (Vitter, ACM TOMS 1985, algorithm R).

    After `seen` items each of them is kept with chance ``size / seen``.

    Parameters
    ----------
    size : int
        Items kept.
    rng : numpy.random.Generator
        Of what is kept.
    """

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.size, self.rng = size, rng
        self.items: list[Item] = []
        self.seen = 0

    def __len__(self) -> int:
        return len(self.items)

    def offer(self, item: Item) -> None:
        """Show one item."""
        self.seen += 1
        if len(self.items) < self.size:
            self.items.append(item)
            return
        place = int(self.rng.integers(self.seen))
        if place < self.size:
            self.items[place] = item


class KeptTiles(NamedTuple):
    """Tiles that are kept: a region of a slide, or some of a patient's.

    Attributes
    ----------
    tiles : Tensor
        (n, D) as the store holds them, on the CPU.
    cells : Tensor or None
        (n,) places in the region's grid.
    y : int
        Class, of all classes of the sequence.
    task : int
        Step of the sequence that it was seen in.
    """

    tiles: Tensor
    cells: Tensor | None
    y: int
    task: int


class Memory:
    """A reservoir of tiles with labels.

    Parameters
    ----------
    tiles : int
        Tiles kept at most, in all.
    each : int
        Most tiles of one thing kept; ``tiles // each`` of them, at least one, are kept.
    seed : int
        Of what is kept and drawn.
    """

    def __init__(self, tiles: int, each: int, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.reservoir: Reservoir[KeptTiles] = Reservoir(max(1, tiles // each), self.rng)

    def __len__(self) -> int:
        return len(self.reservoir)

    @property
    def tiles(self) -> int:
        """Tiles that are kept now."""
        return sum(len(one.tiles) for one in self.reservoir.items)

    def offer(self, tiles: Tensor, cells: Tensor | None, y: int, task: int) -> None:
        """Show tiles of one thing; they are copied if they are kept."""
        self.reservoir.offer(KeptTiles(tiles.detach().cpu().clone(), None if cells is None else cells.cpu(), y, task))

    def draw(self, count: int) -> list[KeptTiles]:
        """Draw things, without replacement while there are enough."""
        items = self.reservoir.items
        chosen = self.rng.permutation(len(items))[:count] if count <= len(items) else self.rng.integers(
            len(items), size=count
        )  # fmt: skip
        return [items[i] for i in chosen]

    def pseudo_slides(self, task: int, count: int) -> list[list[KeptTiles]]:
        """BuRo: for each class of `task` that something is kept of, at most `count` of its regions, drawn.

        The regions come from any slides of the class, which is what makes pseudo-slides of many more kinds than
        there were slides.
        """
        mine: dict[int, list[KeptTiles]] = {}
        for one in self.reservoir.items:
            if one.task == task:
                mine.setdefault(one.y, []).append(one)
        return [[some[i] for i in self.rng.permutation(len(some))[:count]] for _, some in sorted(mine.items())]

    def past_task(self) -> int | None:
        """A task of which something is kept, each with the same chance; None where nothing is."""
        tasks = sorted({one.task for one in self.reservoir.items})
        return tasks[int(self.rng.integers(len(tasks)))] if tasks else None


def labels_of(kept: Sequence[KeptTiles]) -> Tensor:
    """(n,) int64 classes."""
    return torch.tensor([one.y for one in kept])
