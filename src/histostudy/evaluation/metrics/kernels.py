"""Weighted statistics, vectorised over resamples: `w` of shape (B, n) in, (B,) out.

With integer weights each equals the plain statistic on rows repeated that often (tested against scikit-learn,
SciPy and scikit-survival). Where it is undefined the value is NaN.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
#: Rows of a pair matrix held at once by `concordance`.
PAIR_BLOCK = 1024


def nanmean(values: Floats, axis: int) -> Floats:
    """Mean of the defined values; NaN, silently, where there is none."""
    defined = np.isfinite(values)
    count = defined.sum(axis)
    total = np.where(defined, values, 0).sum(axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def ratio(top: Floats, bottom: Floats) -> Floats:
    """`top / bottom`, NaN where the bottom is not positive."""
    good = bottom > 0
    return np.where(good, top / np.where(good, bottom, 1), np.nan)


def tie_starts(ordered: Floats, tolerance: float = 0.0) -> NDArray[np.intp]:
    """First index of each group of equal neighbours in a sorted vector."""
    new = np.abs(np.diff(ordered)) > tolerance
    return np.concatenate([[0], np.flatnonzero(new) + 1])


def auc(w: Floats, score: Floats, case: Floats, control: Floats, tolerance: float = 0.0) -> Floats:
    """Probability that a case scores above a control, ties counting a half.

    Parameters
    ----------
    w : ndarray, shape (B, n)
        Resampling weights.
    score : ndarray, shape (n,)
        Higher means more like a case.
    case, control : ndarray, shape (n,)
        Weight of each row as a case and as a control: 0 and 1, or inverse probabilities of censoring.
    tolerance : float
        Neighbouring scores closer than this are tied.
    """
    order = np.argsort(score, kind="stable")
    starts = tie_starts(score[order], tolerance)
    cases, controls = (w * case)[:, order], (w * control)[:, order]
    if starts.size < order.size:
        cases, controls = (np.add.reduceat(x, starts, axis=1) for x in (cases, controls))
    below = np.cumsum(controls, axis=1) - 0.5 * controls
    return ratio((cases * below).sum(1), cases.sum(1) * controls.sum(1))


def average_precision(w: Floats, score: Floats, positive: Floats) -> Floats:
    """Area under the precision-recall steps (as scikit-learn: no interpolation), shape (B,)."""
    order = np.argsort(-score, kind="stable")
    starts = tie_starts(score[order])
    hits, misses = (w * positive)[:, order], (w * (1 - positive))[:, order]
    if starts.size < order.size:
        hits, misses = (np.add.reduceat(x, starts, axis=1) for x in (hits, misses))
    true = np.cumsum(hits, axis=1)
    called = true + np.cumsum(misses, axis=1)
    precision = np.where(called > 0, true / np.maximum(called, 1e-300), 0)
    return ratio((hits * precision).sum(1), hits.sum(1))


def concordance(
    w: Floats, time: Floats, event: NDArray[np.bool_], risk: Floats, pair: Floats | None = None, tolerance: float = 1e-8
) -> Floats:
    """Share of comparable pairs in which the earlier event has the higher risk, ties in risk counting a half.

    A pair is comparable if the earlier of the two had the event; at one time, an event is earlier than a
    censoring, and two events are not comparable (Harrell et al. 1996, as scikit-survival).

    Parameters
    ----------
    w : ndarray, shape (B, n)
        Resampling weights.
    time, event, risk : ndarray, shape (n,)
        Follow-up, whether it ended in the event, predicted risk (higher is worse).
    pair : ndarray, shape (n,), optional
        Weight of a pair by its earlier patient; ones give Harrell's c, ``1 / G(t)^2`` up to tau Uno's.
    tolerance : float
        Risks closer than this are tied.
    """
    weight = np.ones(time.size) if pair is None else pair
    first = np.flatnonzero(event & (weight > 0))
    top, bottom = np.zeros(w.shape[0]), np.zeros(w.shape[0])
    w32 = np.ascontiguousarray(w, np.float32)  # sums of integers and halves: exact below 2**23
    for start in range(0, first.size, PAIR_BLOCK):
        rows = first[start : start + PAIR_BLOCK]
        t, r = time[rows, None], risk[rows, None]
        comparable = (time[None] > t) | ((time[None] == t) & ~event[None])
        tied = np.abs(r - risk[None]) <= tolerance
        won = comparable * np.where(tied, np.float32(0.5), (r > risk[None]).astype(np.float32))
        earlier = w[:, rows] * weight[rows]
        top += np.einsum("bi,bi->b", w32 @ won.T, earlier)
        bottom += np.einsum("bi,bi->b", w32 @ comparable.T.astype(np.float32), earlier)
    return ratio(top, bottom)


def midranks(w: Floats, x: Floats) -> Floats:
    """Rank of each row among the repeated rows, ties sharing their mean rank, shape (B, n)."""
    order = np.argsort(x, kind="stable")
    starts = tie_starts(x[order])
    ordered = w[:, order]
    if starts.size < order.size:
        ordered = np.add.reduceat(ordered, starts, axis=1)
    middle = np.cumsum(ordered, axis=1) - 0.5 * ordered + 0.5
    group = np.zeros(order.size, np.intp)
    group[starts[1:]] = 1
    place = np.empty(order.size, np.intp)
    place[order] = np.cumsum(group)
    return middle[:, place]


def _scaled(x: Floats) -> Floats:
    """Columns of (n, g) with mean 0 and variance 1, NaN where constant; guards the sums against cancellation."""
    centred = x - x.mean(0)
    spread = centred.std(0)
    constant = spread <= 1e-12 * np.maximum(np.abs(x).max(0), 1e-300)
    return centred / np.where(constant, np.nan, spread)


def pearson(w: Floats, x: Floats, y: Floats) -> Floats:
    """Correlation of each column of `x` and `y` (n, g), shape (B, g); NaN where either is constant."""
    a, b = _scaled(x).astype(w.dtype), _scaled(y).astype(w.dtype)
    undefined = ~np.isfinite(a + b).all(0)
    a, b = np.nan_to_num(a), np.nan_to_num(b)
    total = w.sum(1, keepdims=True)
    ma, mb = (w @ a) / total, (w @ b) / total
    cov = (w @ (a * b)) / total - ma * mb
    va, vb = (w @ (a * a)) / total - ma**2, (w @ (b * b)) / total - mb**2
    good = (va > 1e-6) & (vb > 1e-6) & ~undefined
    return np.where(good, np.clip(cov / np.sqrt(np.where(good, va * vb, 1)), -1, 1), np.nan)


def spearman(w: Floats, x: Floats, y: Floats) -> Floats:
    """Rank correlation of two vectors (n,), the ranks taken anew in each resample, shape (B,)."""
    if np.ptp(x) <= 1e-12 * max(np.abs(x).max(), 1e-300) or np.ptp(y) <= 1e-12 * max(np.abs(y).max(), 1e-300):
        return np.full(w.shape[0], np.nan)
    total = w.sum(1)
    middle = ((total + 1) / 2)[:, None]  # the mean of midranks
    a, b = midranks(w, x) - middle, midranks(w, y) - middle
    wa, wb = w * a, w * b
    va, vb = np.einsum("bi,bi->b", wa, a), np.einsum("bi,bi->b", wb, b)
    good = (va > 0) & (vb > 0)
    return np.where(good, np.einsum("bi,bi->b", wa, b) / np.sqrt(np.where(good, va * vb, 1)), np.nan)


def standard_ranks(x: Floats) -> Floats:
    """Ranks within each row of (n, g), centred and of unit length: their products are Spearman's coefficients.

    NaN where a row is constant.
    """
    from scipy.stats import rankdata

    constant = np.ptp(x, axis=1) <= 1e-12 * np.maximum(np.abs(x).max(1), 1e-300)
    ranks = rankdata(x, axis=1)
    ranks -= ranks.mean(1, keepdims=True)
    length = np.sqrt((ranks**2).sum(1))
    return ranks / np.where(constant | (length == 0), np.nan, length)[:, None]


def r2(w: Floats, truth: Floats, prediction: Floats) -> Floats:
    """Coefficient of determination of each column (n, g), about the weighted mean of the truth, shape (B, g)."""
    centre = truth.mean(0)
    spread = truth.std(0)
    scale = np.where(spread > 1e-12 * np.maximum(np.abs(truth).max(0), 1e-300), spread, np.nan)
    t, p = ((truth - centre) / scale).astype(w.dtype), ((prediction - centre) / scale).astype(w.dtype)
    undefined = ~np.isfinite(t).all(0)
    t, p = np.nan_to_num(t), np.nan_to_num(p)
    total = w.sum(1, keepdims=True)
    about_mean = (w @ (t * t)) / total - ((w @ t) / total) ** 2
    error = (w @ ((t - p) ** 2)) / total
    good = (about_mean > 1e-6) & ~undefined
    return np.where(good, 1 - error / np.where(good, about_mean, 1), np.nan)


def mean_of(w: Floats, values: Floats) -> Floats:
    """Weighted mean of a vector (n,) or of each column (n, g)."""
    total = w.sum(1)
    return (w @ values) / (total if values.ndim == 1 else total[:, None])
