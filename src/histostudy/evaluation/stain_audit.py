"""Does a feature space know the slide rather than the tissue, and does it hold under another stain or scanner?

Slide identity: the nearest neighbours of a tile among all other tiles, and whether their slide is its own (the collapse
that EXAONEPath 1.0, arXiv 2408.00380, names). Robustness: cosine and top-10 retrieval of the same tile in another
version, as plismbench defines them for PLISM. All intervals resample patients; the pool of
neighbours stays as it is, so that they show the spread over patients, not that of another pool.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from histostudy.evaluation.bootstrap import bootstrap_weights, interval

if TYPE_CHECKING:
    import pandas as pd

#: Neighbours that vote on the slide, and among which the same tile is looked for.
K, TOP = 5, 10
#: Shuffles of the sites over the patients, for the chance level.
SHUFFLES = 200
#: A cosine of the same tiles that exceeds that of other tiles by less says nothing; and a retrieval below this is low.
LEAST_GAP, LOW_RETRIEVAL, HIGH_COSINE = 0.1, 0.25, 0.8
#: Standard deviations beyond which a statistic counts as no farther out.
FARTHEST = 50.0
#: What is measured, in the order of the table, with words for the reader.
MEASURES: dict[str, str] = {
    "slide_knn": "slide told by its neighbours",
    "site_knn": "site told by neighbours of other patients",
    "slide_variance": "variance between slides",
    "cosine": "cosine, all pairs of versions",
    "cosine_other": "cosine of other tiles",
    "top10_scanner": "top-10 retrieval, other scanner",
    "top10_stain": "top-10 retrieval, other stain",
    "top10_both": "top-10 retrieval, both",
}
COLUMNS = [
    "method", "in_use", "measure", "estimate", "low", "high", "chance", "n", "slides", "patients", "pairs",
    "fallbacks", "warning",
]  # fmt: skip


@dataclass(frozen=True)
class Encoded:
    """The tiles that were looked at, of one method.

    Attributes
    ----------
    slides, patients, sites : ndarray of str, (n,)
        Of each tile; sites empty where unknown.
    vectors : ndarray of float32, (n, dim)
        Features of the tiles as they are.
    versions : ndarray of float32, (v, m, dim)
        Features of some of the tiles in every version, the first as they are.
    version_tiles : ndarray of int, (m,)
        Which tiles those are.
    names : sequence of (str, str)
        Stain and scanner of each version.
    fallbacks : int
        Slides that could not be normalised.
    """

    slides: np.ndarray
    patients: np.ndarray
    sites: np.ndarray
    vectors: np.ndarray
    versions: np.ndarray
    version_tiles: np.ndarray
    names: Sequence[tuple[str, str]]
    fallbacks: int = 0


def audit_table(
    tested: Mapping[str, Encoded], in_use: str, *, resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """All measures of all methods.

    Parameters
    ----------
    tested : mapping of str to Encoded
        By method: ``none`` and the methods of normalisation, of the same tiles.
    in_use : str
        The method of the study's own features.
    resamples, confidence, seed
        Of the bootstrap over patients.

    Returns
    -------
    DataFrame
        `COLUMNS`; a row each method and measure of `MEASURES`, `site_knn` only where two sites have two patients each.
        `warning` is ``collapsed`` on the cosine of a space that cannot be trusted by it, see `collapsed`.
    """
    import pandas as pd

    rows = []
    for method, one in tested.items():
        values = _identity(one, resamples, seed) | _robustness(one, resamples, seed)
        facts = {
            "method": method, "in_use": method == in_use, "slides": len(set(one.slides)),
            "patients": len(set(one.patients)), "fallbacks": one.fallbacks,
        }  # fmt: skip
        retrieved = float(np.mean([values[name]["estimate"] for name in values if name.startswith("top10")]))
        warn = collapsed(values["cosine"]["estimate"], values["cosine_other"]["estimate"], retrieved)
        for measure in MEASURES:
            if measure not in values:
                continue
            value = dict(values[measure])
            low, high = interval(value.pop("resampled"), confidence)
            warning = "collapsed" if warn and measure == "cosine" else ""
            rows.append({**facts, "measure": measure, "low": low, "high": high, "warning": warning, **value})
    return pd.DataFrame(rows).reindex(columns=COLUMNS)


def collapsed(cosine: float, other: float, retrieved: float) -> bool:
    """Whether a high cosine must not be taken for robustness: tiles of other places are almost as alike, or the same
    tile is not found again (PLIP on PLISM: cosine 0.88, top-10 0.05)."""
    return cosine - other < LEAST_GAP or (cosine > HIGH_COSINE and retrieved < LOW_RETRIEVAL)


def standardised(vectors: np.ndarray) -> np.ndarray:
    """Columns of mean 0 and s.d. 1 (float64); constant ones are left out."""
    wide = np.asarray(vectors, np.float64)
    sd = wide.std(axis=0)
    used = sd > 1e-9 * (1 + np.abs(wide.mean(axis=0)))
    return (wide[:, used] - wide[:, used].mean(axis=0)) / sd[used]


def without_units(versions: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Versions (v, m, dim) in standard deviations of the unchanged tiles (n, dim).

    A cosine of columns of different units is that of the largest of them: statistics, unlike learned vectors, are
    standardised before they are compared. Constant columns are left out; a column that hardly varies among the
    unchanged tiles does not outweigh all others: no value lies farther out than `FARTHEST`.
    """
    mean, sd = np.asarray(vectors, np.float64).mean(axis=0), np.asarray(vectors, np.float64).std(axis=0)
    used = sd > 1e-9 * (1 + np.abs(mean))
    return ((versions[..., used] - mean[used]) / sd[used]).clip(-FARTHEST, FARTHEST).astype(np.float32)


def nearest(vectors: np.ndarray, not_these: np.ndarray, k: int = K) -> np.ndarray:
    """The k nearest (Euclidean) of each row, nearest first; -1 where there are fewer.

    Parameters
    ----------
    vectors : ndarray, (n, dim)
    not_these : ndarray of bool, (n, n)
        Row i may not have column j as a neighbour; its own is never one.
    """
    square = (vectors**2).sum(axis=1)
    distance = square[:, None] + square[None] - 2 * vectors @ vectors.T
    distance[not_these] = np.inf
    np.fill_diagonal(distance, np.inf)
    order = np.argsort(distance, axis=1, kind="stable")[:, :k]
    return np.where(np.isfinite(np.take_along_axis(distance, order, 1)), order, -1)


def voted(neighbours: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Label (codes from 0) that most neighbours have; of as many votes, the nearer ones'. -1: no neighbours."""
    classes = int(labels.max()) + 1
    one_hot = np.concatenate([np.eye(classes), np.zeros((1, classes))])  # the last row is nobody
    own = np.where(neighbours >= 0, labels[neighbours], classes)
    # less than one vote, more for a nearer neighbour
    rank = 1 - 1e-3 * np.arange(neighbours.shape[1])
    votes = (one_hot[own] * rank[None, :, None]).sum(axis=1)
    counts = one_hot[own].sum(axis=1)
    best = np.where(counts == counts.max(axis=1, keepdims=True), votes, -1).argmax(axis=1)
    return np.where((neighbours >= 0).any(axis=1), best, -1)


def retrieval(first: np.ndarray, second: np.ndarray, top: int = TOP) -> tuple[np.ndarray, np.ndarray]:
    """Cosine of the same tiles in two versions, and whether each finds the other.

    For each tile of one version: is the same tile of the other among its `top` nearest (cosine) of all 2n tiles of
    both, itself excluded? The mean of both directions, 0, 0.5 or 1 a tile. Vectors are rounded to float16 first, as
    plismbench does, here at unit length so that none overflows. Of tiles as near as the one looked for, all count as
    nearer: a space of one point finds nothing, nor does a vector that is not finite.

    Parameters
    ----------
    first, second : ndarray, (n, dim)
        Row i of both is the same tile.

    Returns
    -------
    cosine, found : ndarray of float64, (n,)
    """
    both = _unit(_unit(np.concatenate([first, second])).astype(np.float16))
    n = len(first)
    alike = np.round(both @ both.T, 12)  # so that equal vectors are equally near
    wanted = np.concatenate([np.arange(n, 2 * n), np.arange(n)])
    match = alike[np.arange(2 * n), wanted]
    np.fill_diagonal(alike, -np.inf)
    nearer = (alike >= match[:, None]).sum(axis=1) - 1  # the match itself
    found = np.isfinite(match) & (nearer < top)
    return match[:n], (found[:n].astype(float) + found[n:]) / 2


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1, float64."""
    wide = np.asarray(vectors, np.float64)
    return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)


def _identity(one: Encoded, resamples: int, seed: int) -> dict[str, dict[str, Any]]:
    """How well neighbours tell the slide and the site, and the share of variance between slides."""
    vectors = standardised(one.vectors)
    slides, patients = (np.unique(labels, return_inverse=True)[1] for labels in (one.slides, one.patients))
    weights = bootstrap_weights(np.zeros(len(slides)), resamples, seed, groups=one.patients)
    n = len(slides)
    hit = voted(nearest(vectors, np.zeros((n, n), bool)), slides) == slides
    share, drawn = _variance(vectors, slides, weights)
    out: dict[str, dict[str, Any]] = {
        "slide_knn": _mean(hit, weights) | {"chance": 1 / (slides.max() + 1)},
        "slide_variance": {"estimate": share, "resampled": drawn, "n": n, "chance": slides.max() / (n - 1)},
    }
    sites = np.unique(one.sites, return_inverse=True)[1]
    of_site = [len(set(patients[sites == site])) for site in range(sites.max() + 1)]
    if "" not in set(one.sites) and sum(count > 1 for count in of_site) > 1:
        # neighbours of the same patient would tell the patient
        found = nearest(vectors, patients[:, None] == patients[None])
        out["site_knn"] = _mean(voted(found, sites) == sites, weights)
        site_of = np.array([sites[patients == p][0] for p in range(patients.max() + 1)])
        rng = np.random.default_rng(seed)
        shuffled = (rng.permutation(site_of)[patients] for _ in range(SHUFFLES))
        out["site_knn"]["chance"] = float(np.mean([(voted(found, s) == s).mean() for s in shuffled]))
    return out


def _variance(vectors: np.ndarray, slides: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray]:
    """Share of the sum of squares that lies between slides, of the tiles and of each resample."""
    count = np.bincount(slides)
    means = np.stack([vectors[slides == s].mean(axis=0) for s in range(len(count))])
    within = np.array([((vectors[slides == s] - means[s]) ** 2).sum() for s in range(len(count))])
    first = np.array([np.flatnonzero(slides == s)[0] for s in range(len(count))])
    times = np.concatenate([np.ones((1, len(count))), weights[:, first]])
    size = times * count
    centre = (size @ means) / size.sum(axis=1, keepdims=True)
    between = size @ (means**2).sum(axis=1) - size.sum(axis=1) * (centre**2).sum(axis=1)
    whole = between + times @ within
    share = np.divide(between, whole, out=np.full(len(whole), np.nan), where=whole > 1e-12)
    return float(share[0]), share[1:]


def _robustness(one: Encoded, resamples: int, seed: int) -> dict[str, dict[str, Any]]:
    """Cosine and retrieval, medians over pairs of versions."""
    weights = bootstrap_weights(
        np.zeros(len(one.version_tiles)), resamples, seed, groups=one.patients[one.version_tiles]
    )
    cosines: list[np.ndarray] = []
    found: dict[str, list[np.ndarray]] = {"top10_scanner": [], "top10_stain": [], "top10_both": []}
    for a, b in combinations(range(len(one.names)), 2):
        cosine, hit = retrieval(one.versions[a], one.versions[b])
        cosines.append(cosine)
        (stain, scanner), (other_stain, other_scanner) = one.names[a], one.names[b]
        kind = "top10_both" if stain != other_stain and scanner != other_scanner else (
            "top10_stain" if stain != other_stain else "top10_scanner"
        )  # fmt: skip
        found[kind].append(hit)
    m = len(one.version_tiles)
    out = {"cosine": _median(cosines, weights), "cosine_other": _others(one.versions[0], weights)}
    for kind, hits in found.items():
        out[kind] = _median(hits, weights) | {"chance": min(1.0, TOP / (2 * m - 1))}
    return out


def _others(vectors: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    """Mean cosine of each tile with all others of the same version: what a cosine is to be compared with."""
    unit = _unit(vectors)
    return _mean((unit @ unit.sum(axis=0) - 1) / max(1, len(unit) - 1), weights)


def _mean(values: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    return _median([np.asarray(values, float)], weights) | {"pairs": 0}


def _median(values: Sequence[np.ndarray], weights: np.ndarray) -> dict[str, Any]:
    """Median over pairs of the mean over tiles, of the tiles and of each resample."""
    table = np.stack(values)
    total = weights.sum(axis=1, keepdims=True)
    drawn = np.median(weights @ table.T / total, axis=1)
    estimate = float(np.median(table.mean(axis=1)))
    return {"estimate": estimate, "resampled": drawn, "n": table.shape[1], "pairs": len(table)}
