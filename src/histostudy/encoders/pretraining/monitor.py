"""Is the encoder collapsing? Spread of its vectors, entropies of its prototypes, and whose tile is nearest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

#: Smallest spread of l2-normalised vectors, times sqrt(dim): 1 is isotropic (the notes' 0.1 / sqrt(d)).
LEAST_SPREAD = 0.1
#: Entropies as shares of log K.
ALL_ALIKE, ONE_FOR_ALL = 0.995, 0.05
NEIGHBOURS = 5


def spread(vectors: np.ndarray) -> float:
    """Standard deviation of l2-normalised vectors (N, D) over tiles, mean of columns, times sqrt(D).

    1 where they point everywhere alike, 0 where they are one point.
    """
    v = vectors.astype(np.float64)
    v /= np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12)
    return float(v.std(axis=0).mean() * np.sqrt(v.shape[1]))


def neighbours_of_own(vectors: np.ndarray, groups: Sequence[str], k: int = NEIGHBOURS) -> tuple[float, float]:
    """Share of the k nearest tiles (cosine, itself left out) that are of a tile's own group; and its chance.

    High where vectors tell slides apart rather than tissue (EXAONEPath's collapse by slide), or where a group is a
    class, as wanted. NaN where no group has two tiles.
    """
    ids = np.unique(np.asarray(groups), return_inverse=True)[1]
    n = len(ids)
    same = ids[:, None] == ids[None, :]
    np.fill_diagonal(same, False)
    if n < 3 or not same.any():
        return float("nan"), float("nan")
    v = vectors.astype(np.float64)
    v /= np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12)
    similar = v @ v.T
    np.fill_diagonal(similar, -np.inf)
    nearest = np.argsort(-similar, axis=1, kind="stable")[:, : min(k, n - 1)]
    return float(np.take_along_axis(same, nearest, axis=1).mean()), float(same.sum() / (n * (n - 1)))


def collapse(found: Mapping[str, float]) -> str:
    """What collapsed, in words; empty where nothing did.

    Parameters
    ----------
    found : mapping
        `spread` and, of a method with prototypes, `entropy_each` and `entropy_mean` (shares of log K).
    """
    if found["spread"] < LEAST_SPREAD:
        return f"the vectors of all tiles are alike (spread {found['spread']:.3f}, at least {LEAST_SPREAD})"
    if found.get("entropy_mean", 1.0) < ONE_FOR_ALL:
        return f"all tiles have one prototype (entropy of their mean {found['entropy_mean']:.3f} of log K)"
    if found.get("entropy_each", 0.0) > ALL_ALIKE:
        return f"every tile has all prototypes alike (entropy {found['entropy_each']:.3f} of log K)"
    return ""
