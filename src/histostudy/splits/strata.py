"""What folds balance: the outcomes of all tasks, as strata of patients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from histostudy.cohort.outcomes import Outcome

#: Bins of a number; fewer where a bin would hold less than two patients a fold.
MAX_BINS = 4


def strata_of(patient_ids: Sequence[str], outcomes: Sequence[Outcome], folds: int) -> tuple[np.ndarray, list[str]]:
    """Which strata each patient is in.

    A task has one stratum a class; of survival, events and censored patients by time; of a regression, bins of
    the value; and one for the patients without the outcome. So a patient is in one stratum a task. The last
    stratum is everybody.

    Parameters
    ----------
    patient_ids : sequence of str, (n,)
        Patients.
    outcomes : sequence of Outcome
        Tasks to balance.
    folds : int
        Number of folds, which bounds the number of bins.

    Returns
    -------
    labels : ndarray of bool, (n, strata)
        Membership.
    names : list of str
        Names of the strata: ``task=class``.
    """
    ids = np.asarray(patient_ids, dtype=object)
    columns: list[np.ndarray] = []
    names: list[str] = []
    for outcome in outcomes:
        known = set(outcome.patient_ids)  # numpy's isin compares objects one with another
        have = np.array([patient in known for patient in ids], dtype=bool)
        rows = outcome.rows(ids[have])
        for name, members in _strata(outcome, folds):
            column = np.zeros(len(ids), dtype=bool)
            column[have] = members[rows]
            if column.any():
                columns.append(column)
                names.append(f"{outcome.name}={name}")
        if not have.all():
            columns.append(~have)
            names.append(f"{outcome.name}=missing")
    columns.append(np.ones(len(ids), dtype=bool))
    names.append("everybody")
    return np.column_stack(columns), names


def _strata(outcome: Outcome, folds: int) -> list[tuple[str, np.ndarray]]:
    everyone = np.ones(len(outcome), dtype=bool)
    if outcome.kind == "classification":
        return [(c, outcome.y == k) for k, c in enumerate(outcome.classes)]
    if outcome.kind == "survival":
        assert outcome.event is not None and outcome.time is not None
        found = []
        for name, members in (("event", outcome.event), ("censored", ~outcome.event)):
            found += [(f"{name} {b}", m) for b, m in _bins(outcome.time, members, folds, most=2)]
        return found
    if outcome.kind == "regression":
        return _bins(outcome.y, everyone, folds, most=MAX_BINS)
    return [("measured", everyone)]


def _bins(values: np.ndarray, members: np.ndarray, folds: int, most: int) -> list[tuple[str, np.ndarray]]:
    """Cut the members by quantiles of their values."""
    n = max(1, min(most, int(members.sum()) // (2 * folds)))
    edges = np.quantile(values[members], np.linspace(0, 1, n + 1)[1:-1]) if members.any() else np.empty(0)
    number = np.searchsorted(edges, values, side="right")
    return [(f"q{k + 1}", members & (number == k)) for k in range(n)]


def deal(labels: np.ndarray, shares: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    """Deal patients to parts so that every stratum is spread by the shares (iterative stratification).

    The rarest stratum is dealt first; each patient goes where the most of it is still wanted, then where the
    most patients are. With one task every stratum, and the parts as a whole, come out within one of their share.

    Parameters
    ----------
    labels : ndarray of bool, (n, strata)
        As `strata_of` returns them: the last column is True for everybody.
    shares : sequence of float, (parts,)
        Wanted shares; sum 1.
    rng : Generator
        Orders the patients and breaks ties.

    Returns
    -------
    ndarray of int64, (n,)
        Part of each patient.

    References
    ----------
    Sechidis, Tsoumakas and Vlahavas, On the stratification of multi-label data, ECML PKDD 2011, algorithm 1.
    """
    n, strata = labels.shape
    part = np.full(n, -1, dtype=np.int64)
    wanted = np.outer(shares, labels.sum(axis=0)).astype(np.float64)
    order = rng.permutation(n)
    tie = rng.permutation(len(shares))
    left = labels.copy()
    while True:
        counts = left.sum(axis=0)
        if not counts.any():
            return _even(labels, part, wanted, order)
        stratum = min(np.flatnonzero(counts), key=lambda s: counts[s])
        for i in order[left[order, stratum]]:
            best = np.lexsort((tie, -np.round(wanted[:, strata - 1], 6), -np.round(wanted[:, stratum], 6)))[0]
            part[i] = best
            wanted[best, labels[i]] -= 1
        left[part >= 0] = False


def _even(labels: np.ndarray, part: np.ndarray, wanted: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Move patients until every part as a whole is within one of its share.

    Each stratum is rounded by itself, and with shares that are not equal the roundings add up. Who moves is the
    patient whose strata the receiving part lacks most, so that no stratum is pushed past one of its share.
    """
    while True:
        missing = wanted[:, -1]
        taker, giver = int(missing.argmax()), int(missing.argmin())
        if max(missing[taker], -missing[giver]) <= 1 + 1e-9:
            return part
        candidates = order[part[order] == giver]
        lacking = labels[candidates] @ (wanted[taker] - wanted[giver])
        mover = candidates[int(np.round(lacking, 6).argmax())]
        part[mover] = taker
        wanted[giver, labels[mover]] += 1
        wanted[taker, labels[mover]] -= 1
