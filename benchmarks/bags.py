"""Synthetic bags with few telling tiles, for benchmarks of what recipes and aggregators do; NumPy alone.

Two problems of the same make. A tile is N(0, I) in 32 dimensions, plus a vector of its bag, `nuisance` N(0, I) on
dimensions 4 to 31, which can be memorised and tells nothing. Every second bag is positive and holds
max(2, floor(share N)) witnesses at random places: one is easy, shifted by `easy` along dimension 0; the others are
hard, shifted by `hard` along dimensions 1, 2 and 3. A model that finds the easy witness needs no other in training;
bags in which all witnesses are hard show whether it learned them too.

- `sb1`: 60 to 140 tiles, a tenth of them witnesses, easy 3, hard 1. For attention entropy.
- `sb2`: 40 to 80 tiles, 15 % of them witnesses, easy 5, hard 1.3. For masked hard instance mining.

    bags, labels = sb2(seed=100, n=80)
    tiles, witness = bags[1]
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

DIM = 32
EASY, HARD, NUISANCE = [0], [1, 2, 3], slice(4, DIM)

Bag = tuple[NDArray[np.float32], NDArray[np.bool_]]


def sb1(
    seed: int,
    n: int,
    hard_only: bool = False,
    *,
    tiles: tuple[int, int] = (60, 140),
    share: float = 0.1,
    easy: float = 3.0,
    hard: float = 1.0,
    nuisance: float = 0.5,
) -> tuple[list[Bag], NDArray[np.int64]]:
    """Bags of the first problem; see `planted`."""
    return planted(seed, n, hard_only, tiles=tiles, share=share, easy=easy, hard=hard, nuisance=nuisance)


def sb2(
    seed: int,
    n: int,
    hard_only: bool = False,
    *,
    tiles: tuple[int, int] = (40, 80),
    share: float = 0.15,
    easy: float = 5.0,
    hard: float = 1.3,
    nuisance: float = 0.5,
) -> tuple[list[Bag], NDArray[np.int64]]:
    """Bags of the second problem; see `planted`."""
    return planted(seed, n, hard_only, tiles=tiles, share=share, easy=easy, hard=hard, nuisance=nuisance)


def planted(
    seed: int,
    n: int,
    hard_only: bool,
    *,
    tiles: tuple[int, int],
    share: float,
    easy: float,
    hard: float,
    nuisance: float,
) -> tuple[list[Bag], NDArray[np.int64]]:
    """Draw bags.

    Parameters
    ----------
    seed : int
        Of everything that is drawn.
    n : int
        Bags; every second one is positive.
    hard_only : bool
        All witnesses are hard.
    tiles : tuple of int
        Least and most tiles of a bag, both drawn too.
    share : float
        Of the tiles of a positive bag that are witnesses, at least two.
    easy, hard : float
        Shifts, in standard deviations along each dimension.
    nuisance : float
        Standard deviation of what the tiles of a bag have in common.

    Returns
    -------
    bags : list of tuple
        (N, 32) float32 tiles and (N,) bool, which are witnesses.
    labels : ndarray
        (n,) int64, 0 or 1.
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    bags: list[Bag] = []
    for label in labels:
        count = int(rng.integers(tiles[0], tiles[1] + 1))
        x = rng.normal(size=(count, DIM))
        x[:, NUISANCE] += nuisance * rng.normal(size=DIM - NUISANCE.start)
        witness = np.zeros(count, dtype=bool)
        if label:
            chosen = rng.permutation(count)[: max(2, int(share * count))]
            witness[chosen] = True
            first = 0 if hard_only else 1
            x[np.ix_(chosen[:first].tolist(), EASY)] += easy
            x[np.ix_(chosen[first:].tolist(), HARD)] += hard
        bags.append((x.astype(np.float32), witness))
    return bags, labels
