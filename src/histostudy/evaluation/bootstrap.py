"""Patients resampled with replacement, as weights, so that a metric is one array operation over all resamples.

Weight `w[b, i]` says how often patient `i` occurs in resample `b`; the estimate itself has weights of one.
All models of a task are given the same weights, which makes every comparison paired.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.floating]

#: Corrections of p-values that `adjust` knows.
CORRECTIONS = ("holm", "bonferroni", "bh", "none")
#: Pointwise bands of curves rest on at most this many resamples.
BAND_RESAMPLES = 500


def bootstrap_weights(
    strata: ArrayLike, resamples: int, seed: int, groups: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Draw patients with replacement within each stratum.

    Parameters
    ----------
    strata : array_like, shape (n,)
        Stratum of each patient: the fold that tests him, or one constant.
    resamples : int
        Number of resamples.
    seed : int
        Seed of the draws.
    groups : array_like, shape (n,), optional
        Rows drawn together, all or none (the spots of a block, see `block_groups`); each within one stratum.

    Returns
    -------
    ndarray, shape (resamples, n)
        How often each patient occurs; every stratum keeps its size (with groups: its number of groups).

    Raises
    ------
    ValueError
        If a group lies in two strata: resampling within strata would tear it apart.
    """
    codes = np.unique(np.asarray(strata), return_inverse=True)[1]
    if groups is not None:
        first, group = np.unique(np.asarray(groups), return_index=True, return_inverse=True)[1:]
        if torn := np.flatnonzero(codes[first][group] != codes).size:
            raise ValueError(f"{torn} rows lie in another stratum than the first row of their group")
        return bootstrap_weights(codes[first], resamples, seed)[:, group]
    rng = np.random.default_rng(seed)
    weights = np.zeros((resamples, codes.size))
    for code in range(codes.max() + 1 if codes.size else 0):
        members = np.flatnonzero(codes == code)
        n = members.size
        draws = rng.integers(n, size=(resamples, n)) + n * np.arange(resamples)[:, None]
        weights[:, members] = np.bincount(draws.ravel(), minlength=resamples * n).reshape(resamples, n)
    return weights


def block_groups(x_um: ArrayLike, y_um: ArrayLike, slide: ArrayLike, block_um: float) -> NDArray[np.intp]:
    """Square blocks of neighbouring spots, to be resampled whole.

    Neighbouring spots share tissue and even cells' RNA: single spots drawn with replacement give intervals that
    are too narrow. Blocks should be wider than the distance over which spots resemble each other; with few
    blocks an interval is rough itself. Source: the block bootstrap (Kuensch, Ann. Statist. 1989, 17:1217), its
    blocks non-overlapping and in two dimensions.

    Parameters
    ----------
    x_um, y_um : array_like, shape (n,)
        Position of each spot, micrometres; blocks start at the least position of each slide.
    slide : array_like, shape (n,)
        Slide of each spot; a block never spans two.
    block_um : float
        Side of a block.

    Returns
    -------
    ndarray of int, shape (n,)
        Block of each spot, for `bootstrap_weights`.

    Raises
    ------
    ValueError
        If `block_um` is not positive.
    """
    if not block_um > 0:
        raise ValueError(f"blocks of {block_um} um; give a positive width")
    slides = np.unique(np.asarray(slide), return_inverse=True)[1]
    cells = [slides]
    for values in (np.asarray(x_um, float), np.asarray(y_um, float)):
        least = np.full(slides.max(initial=-1) + 1, np.inf)
        np.minimum.at(least, slides, values)
        cells.append(np.floor((values - least[slides]) / block_um).astype(np.intp))
    return np.unique(np.stack(cells, 1), axis=0, return_inverse=True)[1].reshape(-1)


def interval(
    values: Floats,
    confidence: float = 0.95,
    *,
    estimate: float | None = None,
    bounds: tuple[float, float] | None = None,
) -> tuple[float, float]:
    """Percentile interval of the resampled values; resamples where the metric is undefined are left out.

    Parameters
    ----------
    values : ndarray, shape (B,)
        The metric on each resample.
    confidence : float
        Share of the distribution that the interval covers.
    estimate : float, optional
        Shift the interval so that the median of the resamples falls on it. For metrics such as the expected
        calibration error, which rise with resampling noise: without it the interval lies above the estimate.
    bounds : (float, float), optional
        Range of the metric, to which a shifted interval is cut.

    Returns
    -------
    low, high : float
        NaN where no resample is defined.
    """
    good = values[np.isfinite(values)]
    if good.size == 0:
        return float("nan"), float("nan")
    tail = (1 - confidence) / 2
    low, middle, high = np.quantile(good, [tail, 0.5, 1 - tail])
    if estimate is not None:
        low, high = low + estimate - middle, high + estimate - middle
    if bounds is not None:
        low, high = np.clip([low, high], *bounds)
    return float(low), float(high)


def p_value(differences: Floats) -> float:
    """Two-sided p of "no difference" from paired resamples: twice the smaller tail, with one added to each count.

    Never below ``2 / (B + 1)``; NaN where no resample is defined. Source: Davison and Hinkley, Bootstrap
    Methods and their Application (1997), section 4.4 (an interval turned into a test).
    """
    good = differences[np.isfinite(differences)]
    if good.size == 0:
        return float("nan")
    below = (1 + np.count_nonzero(good <= 0)) / (good.size + 1)
    above = (1 + np.count_nonzero(good >= 0)) / (good.size + 1)
    return float(min(1.0, 2 * min(below, above)))


def adjust(p: ArrayLike, method: str = "holm") -> NDArray[np.float64]:
    """Correct p-values for the number of tests; NaN stays NaN and does not count as a test.

    Parameters
    ----------
    p : array_like, shape (m,)
        Raw p-values.
    method : {'holm', 'bonferroni', 'bh', 'none'}
        Holm (1979) step-down, Bonferroni, Benjamini and Hochberg (1995), or nothing.

    Raises
    ------
    ValueError
        For an unknown method.
    """
    raw = np.asarray(p, float)
    out = np.full(raw.shape, np.nan)
    good = np.flatnonzero(np.isfinite(raw))
    values, m = raw[good], good.size
    if method not in CORRECTIONS:
        raise ValueError(f"unknown correction {method!r}; known: {', '.join(CORRECTIONS)}")
    if m == 0 or method == "none":
        out[good] = values
        return out
    order = np.argsort(values, kind="stable")
    ranked, rank = values[order], np.arange(1, m + 1)
    if method == "holm":
        ranked = np.maximum.accumulate(ranked * (m - rank + 1))
    elif method == "bonferroni":
        ranked = ranked * m
    else:
        ranked = np.minimum.accumulate((ranked * m / rank)[::-1])[::-1]
    values[order] = np.minimum(ranked, 1.0)
    out[good] = values
    return out
