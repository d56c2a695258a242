"""Folds: nested, stratified, of patients, and of whole sites where asked.

An outer fold is tested once; the rest is its training part, a share of which (the inner validation part) chooses
the epoch. All slides of a patient are on one side because folds are of patients.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from histostudy.errors import SplitError
from histostudy.seeds import derive_seed
from histostudy.splits.groups import deal_groups
from histostudy.splits.strata import deal, strata_of

if TYPE_CHECKING:
    import pandas as pd

    from histostudy.cohort.outcomes import Outcome
    from histostudy.study import Splits

logger = logging.getLogger(__name__)

TRAIN, VAL, TEST = "train", "val", "test"


def make_splits(
    patients: pd.DataFrame,
    outcomes: Sequence[Outcome],
    splits: Splits,
    seed: int,
    slides: pd.DataFrame | None = None,
    source: str = "patients.csv",
) -> pd.DataFrame:
    """Draw the folds of a study, or read the published ones.

    Parameters
    ----------
    patients : DataFrame
        One row a patient: `patient_id`, and the column `splits.preserve`. The order of the rows does not matter.
    outcomes : sequence of Outcome
        What to balance.
    splits : Splits
        The study's settings.
    seed : int
        The study's seed.
    slides : DataFrame, optional
        `slide_id` and `patient_id`: published folds may list slides.
    source : str
        Name of the patient table, for messages.

    Returns
    -------
    DataFrame
        `repeat`, `fold`, `patient_id`, `part` (train, val or test), sorted by the first three.

    Raises
    ------
    SplitError
        For fewer patients (or sites, or patients with an outcome) than folds, a class of one patient, a patient
        without a site.
    """
    if splits.published is not None:
        from histostudy.splits.published import read_published

        return read_published(
            splits.published, patients, slides, outcomes=outcomes, inner=splits.inner, seed=seed, repeats=splits.repeats
        )
    if splits.column is not None:
        from histostudy.splits.column import folds_of_column

        return folds_of_column(patients, outcomes, splits, seed, source)
    patients = patients.sort_values("patient_id", ignore_index=True)
    ids = patients["patient_id"].to_numpy(dtype=object)
    check_size(len(ids), outcomes, splits.folds)
    labels, _ = strata_of(ids, outcomes if splits.stratify else (), splits.folds)
    group = _groups(patients, splits) if splits.preserve else None
    rows: list[tuple[int, int, str, str]] = []
    for repeat in range(splits.repeats):
        rng = np.random.default_rng(derive_seed(seed, "splits", repeat))
        fold_of = _deal(labels, group, np.full(splits.folds, 1 / splits.folds), rng)
        for fold in range(splits.folds):
            rng = np.random.default_rng(derive_seed(seed, "splits", repeat, fold))
            part = np.full(len(ids), TEST, dtype=object)
            training = np.flatnonzero(fold_of != fold)
            part[training] = inner_parts(
                labels[training], splits.inner, rng, None if group is None else group[training]
            )
            rows.extend((repeat, fold, p, q) for p, q in zip(ids, part, strict=True))
    return as_frame(rows)


def as_frame(rows: list[tuple[int, int, str, str]]) -> pd.DataFrame:
    """Rows (repeat, fold, patient, part) as the table of splits."""
    import pandas as pd

    return pd.DataFrame(sorted(rows), columns=["repeat", "fold", "patient_id", "part"])


def inner_parts(
    labels: np.ndarray, inner: float, rng: np.random.Generator, group: np.ndarray | None = None
) -> np.ndarray:
    """Divide a training part into train and val, stratified, and by whole groups where given.

    Whole groups are not insisted on: where too few of them are left to come near the share, or to leave every
    stratum in training, the inner part is drawn by patient. What is reported does not depend on it.

    Returns
    -------
    ndarray of str, (n,)
        ``train`` or ``val``; both occur if there are two patients.
    """
    shares = np.array([1 - inner, inner])
    part = _deal(labels, group, shares, rng)
    if group is not None:
        share = float((part == 1).mean())
        lost = labels.any(axis=0) & ~labels[part == 0].any(axis=0)
        if lost.any() or not inner / 2 <= share <= 2 * inner:
            logger.info("inner part drawn by patient: whole groups would make it %.0f%%", 100 * share)
            part = _deal(labels, None, shares, rng)
    if not (part == 1).any() and len(part) > 1:
        part[int(rng.integers(len(part)))] = 1
    return np.where(part == 1, VAL, TRAIN)


def _deal(labels: np.ndarray, group: np.ndarray | None, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if group is None:
        return deal(labels, shares.tolist(), rng)
    _, number = np.unique(group, return_inverse=True)
    counts = np.zeros((number.max() + 1, labels.shape[1]), dtype=np.int64)
    np.add.at(counts, number, labels)
    if labels.shape[1] > 1:
        counts = counts[:, :-1]  # the strata of a task add up to everybody
    if len(counts) < len(shares):
        return np.zeros(len(group), dtype=np.int64)
    return deal_groups(counts, shares.tolist(), rng)[number]


def check_size(n: int, outcomes: Sequence[Outcome], folds: int) -> None:
    """Refuse what cannot be divided into folds.

    Raises
    ------
    SplitError
        See `make_splits`.
    """
    if n < folds or n - -(-n // folds) < 2:
        raise SplitError(
            f"{n} patients for {folds} folds", todo="lower splits.folds, or add patients: each fold tests one at least"
        )
    for outcome in outcomes:
        if len(outcome) < folds:
            raise SplitError(
                f"task {outcome.name!r}: {len(outcome)} patients with the outcome for {folds} folds",
                todo="lower splits.folds, or drop the task",
            )
        counts = {c: int((outcome.y == k).sum()) for k, c in enumerate(outcome.classes)}
        if outcome.event is not None:
            counts = {"event": int(outcome.event.sum())}
        for name, count in counts.items():
            if count < 2:
                raise SplitError(
                    f"task {outcome.name!r}: one patient with {name!r}, who cannot be both trained on and tested",
                    todo="merge the class with another, or leave it empty",
                )
            if count < folds:
                logger.warning(
                    "task %s: %d patients with %r for %d folds: some folds test none", outcome.name, count, name, folds
                )


def _groups(patients: pd.DataFrame, splits: Splits) -> np.ndarray:
    """The preserved column, complete and with enough values."""
    column = str(splits.preserve)
    if column not in patients:
        names = [str(c) for c in patients.columns if c not in ("patient_id", "table_row")]
        raise SplitError(
            f"splits.preserve: patients have no column {column!r}", todo=f"their columns are {', '.join(names[:8])}"
        )
    values = patients[column]
    missing = patients.loc[values.isna() | (values.astype("str").str.strip() == ""), "patient_id"]
    if len(missing):
        raise SplitError(
            f"splits.preserve: {len(missing)} patients have no {column} (the first: {missing.iloc[0]})",
            todo=f"fill in {column}, or leave those patients out",
        )
    group = values.astype("str").to_numpy(dtype=object)
    found = len(set(group))
    if found < splits.folds:
        raise SplitError(
            f"splits.preserve: {found} values of {column} for {splits.folds} folds",
            todo="lower splits.folds, or leave out `preserve`",
        )
    return group
