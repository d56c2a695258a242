"""Folds that keep groups whole: all patients of a site in one fold, the strata still balanced.

Howard et al., The impact of site-specific digital histology signatures on deep learning model accuracy and bias,
Nat Commun 2021 (10.1038/s41467-021-24698-1) state it as a quadratic programme and solve it with CPLEX. Here:
greedy starts, then moves of one group and swaps of two while they help; the best of several starts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

STARTS = 24
#: Above this many groups the best start suffices and swaps (quadratic in memory) are left out.
MAX_SWAP_GROUPS = 1500


def group_cost(counts: np.ndarray, shares: Sequence[float] | np.ndarray, part: np.ndarray) -> float:
    """Squared deviation of the parts from their share, summed over parts and strata.

    Parameters
    ----------
    counts : ndarray of int, (groups, strata)
        Patients of each stratum in each group.
    shares : sequence of float, (parts,)
        Wanted shares; with k equal ones, k**2 times this cost is the objective of Howard et al.
    part : ndarray of int, (groups,)
        Part of each group.
    """
    return float((_excess(counts.astype(np.float64), np.asarray(shares), part) ** 2).sum())


def deal_groups(counts: np.ndarray, shares: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    """Deal whole groups to parts, each part getting at least one.

    Parameters
    ----------
    counts : ndarray of int, (groups, strata)
        Patients of each stratum in each group; at least as many groups as parts.
    shares : sequence of float, (parts,)
        Wanted shares; sum 1.
    rng : Generator
        Draws the starts.

    Returns
    -------
    ndarray of int64, (groups,)
        Part of each group.
    """
    n, wanted = counts.astype(np.float64), np.asarray(shares, dtype=np.float64)
    equal = bool(np.allclose(wanted, wanted[0]))
    rest = counts.sum(axis=0) % len(wanted)
    bound = float((rest * (len(wanted) - rest) / len(wanted)).sum()) if equal else 0.0
    best, best_cost = np.zeros(len(n), dtype=np.int64), np.inf
    for _ in range(STARTS):
        size = n.sum(axis=1) * np.exp(0.3 * rng.standard_normal(len(n)))
        part = _descend(n, wanted, _greedy(n, wanted, np.argsort(-size, kind="stable")))
        cost = group_cost(n, wanted, part)
        if cost < best_cost - 1e-9:
            best, best_cost = part, cost
        if best_cost <= bound + 1e-9:
            break
    return rng.permutation(len(wanted))[best] if equal else best


def _excess(n: np.ndarray, shares: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Patients above the share, (parts, strata)."""
    have = np.zeros((len(shares), n.shape[1]))
    np.add.at(have, part, n)
    return have - np.outer(shares, n.sum(axis=0))


def _greedy(n: np.ndarray, shares: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Each group, in order, where the squared excess grows least; then no part is left empty."""
    part = np.zeros(len(n), dtype=np.int64)
    excess = -np.outer(shares, n.sum(axis=0))
    for g in order:
        part[g] = np.argmin((2 * excess * n[g]).sum(axis=1))
        excess[part[g]] += n[g]
    for empty in np.flatnonzero(np.bincount(part, minlength=len(shares)) == 0):
        members = np.bincount(part, minlength=len(shares))
        spare = np.flatnonzero(members[part] > 1)
        part[spare[np.argmin(n[spare].sum(axis=1))]] = empty
    return part


def _descend(n: np.ndarray, shares: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Take the best move or swap until none helps.

    With R the excess, moving group s from a to b changes the cost by ``2 |n_s|^2 - 2 n_s R_a + 2 n_s R_b``;
    swapping s (in a) with t (in b) is moving the difference of both.
    """
    part = part.copy()
    groups = np.arange(len(n))
    square = (n**2).sum(axis=1)
    swaps = len(n) <= MAX_SWAP_GROUPS
    apart = square[:, None] + square[None, :] - 2 * n @ n.T if swaps else np.empty((0, 0))
    while True:
        toward = n @ _excess(n, shares, part).T  # (groups, parts)
        own = toward[groups, part]
        move = 2 * square[:, None] - 2 * own[:, None] + 2 * toward
        move[groups, part] = 0.0
        move[np.bincount(part, minlength=len(shares))[part] == 1] = 0.0
        s, b = np.unravel_index(np.argmin(move), move.shape)
        gain = move[s, b]
        if swaps:
            across = toward[:, part]  # (s, t): what s would meet where t is
            swap = 2 * apart - 2 * (own[:, None] - across.T) + 2 * (across - own[None, :])
            swap[part[:, None] == part[None, :]] = 0.0
            i, j = np.unravel_index(np.argmin(swap), swap.shape)
            if swap[i, j] < min(gain, -1e-9):
                part[i], part[j] = part[j], part[i]
                continue
        if gain >= -1e-9:
            return part
        part[s] = b
