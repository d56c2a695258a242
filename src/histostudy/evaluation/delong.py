"""DeLong's variance of areas under the ROC curve, and the paired test of two models on the same patients.

Source: DeLong, DeLong and Clarke-Pearson, Biometrics 1988 (44:837); the mid-rank form is that of Sun and Xu, IEEE
Signal Processing Letters 2014 (21:1389).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from histostudy.evaluation.metrics.base import Run
from histostudy.evaluation.metrics.classification import Classes
from histostudy.evaluation.metrics.kernels import Floats, midranks

#: Variances of a difference below this are rounding.
TINY = 1e-14


class Areas(NamedTuple):
    """AUCs of some models on one set of patients.

    Attributes
    ----------
    auc : ndarray, shape (k,)
    covariance : ndarray, shape (k, k)
        Of the AUCs; NaN with fewer than two cases or two controls.
    """

    auc: Floats
    covariance: Floats


class Difference(NamedTuple):
    """A paired test: difference of the AUCs (first less second), its standard error, z and two-sided p; NaN where
    there is none."""

    difference: float
    se: float
    z: float
    p: float


NONE = Difference(math.nan, math.nan, math.nan, math.nan)


def delong(scores: ArrayLike, positive: ArrayLike) -> Areas:
    """AUCs and their covariance.

    With psi = 1, 1/2, 0 where a case scores above, as, below a control, V10 of a case is the mean of psi over the
    controls and V01 of a control that over the cases; the covariance is cov(V10) / m + cov(V01) / n. Both are
    differences of mid-ranks, so that it costs sorting, not m n comparisons.

    Parameters
    ----------
    scores : array_like, shape (k, m + n)
        Scores of k models for the same patients; higher means more like a case.
    positive : array_like, shape (m + n,)
        Which patients are cases: m of them, and n controls.
    """
    scores, case = np.atleast_2d(np.asarray(scores, float)), np.asarray(positive, bool)
    k, m, n = len(scores), int(case.sum()), int((~case).sum())
    if not m or not n:
        return Areas(np.full(k, np.nan), np.full((k, k), np.nan))
    among_all, within = np.stack([_ranks(s) for s in scores]), np.empty(scores.shape)
    for part in (case, ~case):
        within[:, part] = np.stack([_ranks(s) for s in scores[:, part]])
    above = among_all - within  # how many of the other class a patient scores above, ties counting a half
    v10, v01 = above[:, case] / n, 1 - above[:, ~case] / m
    if min(m, n) < 2:
        return Areas(v10.mean(1), np.full((k, k), np.nan))
    return Areas(v10.mean(1), np.atleast_2d(np.cov(v10)) / m + np.atleast_2d(np.cov(v01)) / n)


def _ranks(score: Floats) -> Floats:
    return midranks(np.ones((1, score.size)), score)[0]


def mean_over_folds(folds: Sequence[Areas]) -> Areas:
    """AUCs averaged over folds of different patients; the covariance is the sum of theirs over their number squared.

    Folds without a case or a control have no AUC, those with one of either no variance; both are left out. The
    training sets of folds overlap: as every interval here, this is the variance over test patients, not over trainings.
    """
    used = [fold for fold in folds if np.isfinite(fold.auc).all() and np.isfinite(fold.covariance).all()]
    if not used:
        return folds[0] if folds else Areas(np.empty(0), np.empty((0, 0)))
    return Areas(
        np.mean([fold.auc for fold in used], axis=0),
        np.sum([fold.covariance for fold in used], axis=0) / len(used) ** 2,
    )


def difference(areas: Areas) -> Difference:
    """Paired z test of the first of two AUCs less the second.

    Two models of one ranking differ by nothing: z = 0, p = 1. Where the variance vanishes though they differ
    (perfect separation against a constant) it says nothing, and there is no test.
    """
    from scipy.stats import norm

    apart = float(areas.auc[0] - areas.auc[1])
    (a, c), (_, b) = areas.covariance
    variance = float(a + b - 2 * c)
    if not math.isfinite(variance) or not math.isfinite(apart):
        return NONE._replace(difference=apart)
    if variance <= TINY:
        return Difference(apart, 0.0, 0.0, 1.0) if abs(apart) < 1e-9 else NONE._replace(difference=apart)
    se = math.sqrt(variance)
    return Difference(apart, se, apart / se, float(2 * norm.sf(abs(apart / se))))


def delong_test(runs: Mapping[str, Sequence[Run]], classes: Classes) -> Callable[[str, str], Difference] | None:
    """What `comparison.compare` asks for DeLong's test of two models; None for more than two classes.

    Parameters
    ----------
    runs : mapping of model to sequence of Run
        Of the same patients for all models, see `runs.check`.
    classes : Classes

    Returns
    -------
    callable or None
        Takes two models. Where a patient is tested in several runs the runs are not independent: all is NaN.
    """
    if len(classes.names) != 2:
        return None

    def test(one: str, other: str) -> Difference:
        rows = np.concatenate([run.rows for run in runs[one]])
        if np.unique(rows).size < rows.size:
            return NONE
        folds = []
        for mine, theirs in zip(runs[one], runs[other], strict=True):
            assert np.array_equal(mine.rows, theirs.rows), "runs of other patients"
            scores = np.stack([run.frame[f"prob_{classes.positive}"].to_numpy(float) for run in (mine, theirs)])
            folds.append(delong(scores, (mine.frame["truth"].astype(str) == classes.positive).to_numpy()))
        return difference(mean_over_folds(folds)) if folds else NONE

    return test
