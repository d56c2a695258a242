"""What is asked of frozen vectors: a linear probe, nearest neighbours, prototypes of few shots, retrieval.

The protocols are those of UNI (Chen et al., Nature Medicine 2024): multinomial logistic regression by L-BFGS, 20
nearest neighbours, and SimpleShot (Wang et al., arXiv 1911.04623), whose vectors are centred by the mean of the
training part and scaled to length 1. All of it is fitted to the training part alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from histostudy.errors import ModelError
from histostudy.models.registry import is_count, require

Floats = NDArray[np.floating]

#: Weights of half the squared norm of all weights, in units of the mean loss a tile, from all but the prior to weak.
PENALTIES = tuple(10 ** (k / 2) for k in range(2, -13, -1))
#: Penalties without a better inner loss before the path ends.
PATIENCE = 3
#: Ranks at which retrieval is counted as a hit.
RANKS = (1, 3, 5)
#: Queries compared with the gallery at once.
CHUNK = 512


@dataclass(frozen=True)
class LinearProbeOptions:
    """Options of the linear probe.

    penalty : of half the squared norm of the weights, a tile's mean loss being 1; None: the inner part chooses.
    """

    penalty: float | None = None

    def __post_init__(self) -> None:
        require(self.penalty is None or _positive(self.penalty), "penalty is above 0, or null")


@dataclass(frozen=True)
class KnnOptions:
    """Options of the nearest neighbours.

    k : neighbours; distance : ``cosine`` or ``euclidean`` (of normalised vectors they rank alike); normalise : centre
    and scale to length 1; standardise : divide each column by its spread first, for encoders whose columns have units
    of their own (builtin); weights : ``uniform`` votes, or by ``similarity``, exp((1 - d) / 0.07) as DINO does.
    """

    k: int = 20
    distance: str = "cosine"
    normalise: bool = True
    standardise: bool = False
    weights: str = "uniform"

    def __post_init__(self) -> None:
        require(is_count(self.k), "k is a whole number from 1")
        require(self.distance in ("cosine", "euclidean"), "distance is cosine or euclidean")
        require(isinstance(self.normalise, bool), "normalise is true or false")
        require(isinstance(self.standardise, bool), "standardise is true or false")
        require(self.weights in ("uniform", "similarity"), "weights is uniform or similarity")


@dataclass(frozen=True)
class PrototypesOptions:
    """Options of the prototypes.

    shots : tiles a class of the few-shot curve, rising; draws : times they are drawn; standardise : as for the nearest
    neighbours, by the spread over the training part; temperature : of the softmax of
    minus the squared distance that makes probabilities of distances (our reading; decisions do not depend on it).
    """

    shots: Sequence[int] = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    draws: int = 100
    standardise: bool = False
    temperature: float = 0.1

    def __post_init__(self) -> None:
        given = isinstance(self.shots, list | tuple) and len(self.shots) > 0 and all(map(is_count, self.shots))
        require(given and sorted(set(self.shots)) == list(self.shots), "shots is a rising list of whole numbers from 1")
        require(is_count(self.draws), "draws is a whole number from 1")
        require(isinstance(self.standardise, bool), "standardise is true or false")
        require(_positive(self.temperature), "temperature is above 0")


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


@dataclass(frozen=True)
class Probe:
    """A linear probe: logits are ``((x - mean) / scale) weight' + bias``."""

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor

    def probabilities(self, x: Floats) -> Floats:
        """Of vectors (n, D): (n, classes)."""
        z = (torch.from_numpy(np.asarray(x, np.float64)) - self.mean) / self.scale
        return (z @ self.weight.T + self.bias).softmax(1).numpy()


def fit_probe(
    x: Floats, y: NDArray[np.int64], classes: int, inner: tuple[Floats, NDArray[np.int64]] | None,
    groups: NDArray[np.int64], penalty: float | None = None, device: str = "cpu",
) -> tuple[Probe, list[dict[str, float]]]:  # fmt: skip
    """Multinomial logistic regression on standardised vectors, the penalty chosen by the inner part.

    Minimises the mean cross-entropy plus ``penalty / 2 |W|^2``, the bias unpenalised, by L-BFGS, from the strongest
    penalty to ever weaker ones, each from the last solution; scikit-learn's C is ``1 / (n penalty)``. Without an inner
    part five groups of patients of the training part choose, each left out in turn.

    Parameters
    ----------
    x, y : ndarray, (n, D) and (n,)
        Training part.
    classes : int
        Number of classes; one without a training tile is all but never predicted.
    inner : (ndarray, ndarray) or None
        The inner part.
    groups : ndarray of int, (n,)
        Patient of each training tile.
    penalty : float, optional
        The only one, where it is not to be chosen.
    device : str
        Where it is solved, in float64.

    Returns
    -------
    Probe
        On the CPU, in float64.
    list of dict
        One a penalty tried: penalty, train_loss, val_loss (NaN where nothing chose), best.
    """
    mean, scale = x.mean(0, dtype=np.float64), spread_of(x)

    def placed(values: Floats, labels: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        z = (np.asarray(values, np.float64) - mean) / scale
        return torch.from_numpy(z).to(device), torch.from_numpy(np.asarray(labels)).to(device)

    train = placed(x, y)
    val = None if inner is None or not len(inner[1]) else placed(*inner)
    if penalty is None and val is None:
        penalty = _by_groups(train, classes, groups)
    rows: list[dict[str, float]] = []
    best, chosen, solution, since = np.inf, 0, None, 0
    path = _path(*train, classes, PENALTIES if penalty is None else (penalty,))
    for number, (strength, weight, bias) in enumerate(path):
        judged = float("nan") if val is None else _loss(weight, bias, *val)
        rows.append({"penalty": strength, "train_loss": _loss(weight, bias, *train), "val_loss": judged})
        if solution is None or judged < best:
            best, chosen, solution, since = judged if val is not None else np.inf, number, (weight, bias), 0
        else:
            since += 1
        if since >= PATIENCE:
            break
    assert solution is not None
    for number, row in enumerate(rows):
        row["best"] = number == chosen
    weight, bias = (part.cpu() for part in solution)
    return Probe(torch.from_numpy(mean), torch.from_numpy(scale), weight, bias), rows


def _path(x: Tensor, y: Tensor, classes: int, penalties: Sequence[float]) -> Iterator[tuple[float, Tensor, Tensor]]:
    """The optimum at each penalty, from strong to weak, each from the last."""
    weight = torch.zeros(classes, x.shape[1], dtype=torch.float64, device=x.device, requires_grad=True)
    # the optimum without weights, a class without a tile taken for half of one
    shares = torch.bincount(y, minlength=classes).double().clamp(min=0.5)
    bias = shares.log().sub(shares.log().mean()).requires_grad_()
    for penalty in penalties:
        solver = torch.optim.LBFGS(
            [weight, bias], max_iter=500, history_size=20, tolerance_grad=1e-7, tolerance_change=1e-10,
            line_search_fn="strong_wolfe",
        )  # fmt: skip

        def closure(solver: torch.optim.LBFGS = solver, penalty: float = penalty) -> Tensor:
            solver.zero_grad()
            total = torch.nn.functional.cross_entropy(x @ weight.T + bias, y) + 0.5 * penalty * weight.square().sum()
            total.backward()
            return total

        solver.step(closure)
        yield penalty, weight.detach().clone(), bias.detach().clone()


def _loss(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor) -> float:
    return float(torch.nn.functional.cross_entropy(x @ weight.T + bias, y))


def _by_groups(train: tuple[Tensor, Tensor], classes: int, groups: NDArray[np.int64], parts: int = 5) -> float:
    """The penalty of the lowest mean loss over parts of the patients, each left out in turn."""
    x, y = train
    number = np.unique(groups, return_inverse=True)[1]
    parts = min(parts, int(number.max(initial=0)) + 1)
    if parts < 2:
        raise ModelError("one patient to train on chooses no penalty", todo="give options.penalty, or more patients")
    losses = np.zeros(len(PENALTIES))
    for part in range(parts):
        out = torch.from_numpy(number % parts == part).to(x.device)
        for k, (_, weight, bias) in enumerate(_path(x[~out], y[~out], classes, PENALTIES)):
            losses[k] += _loss(weight, bias, x[out], y[out]) * int(out.sum())
    return float(PENALTIES[int(losses.argmin())])


def spread_of(x: Floats) -> Floats:
    """Spread (D,) of each column of a training part; 1 of one that does not vary."""
    spread = x.std(0, dtype=np.float64)
    return np.where(spread > 1e-8 * np.abs(x.mean(0, dtype=np.float64)) + 1e-12, spread, 1.0)


@dataclass(frozen=True)
class Space:
    """Vectors as SimpleShot sees them: less the mean of the training part, of length 1."""

    centre: Floats

    @classmethod
    def of(cls, x: Floats) -> Space:
        """That of a training part (n, D)."""
        return cls(x.mean(0, dtype=np.float64))

    def __call__(self, x: Floats) -> Floats:
        """(n, D) float64; a vector that is the mean stays 0."""
        z = np.asarray(x, np.float64) - self.centre
        norm = np.linalg.norm(z, axis=1, keepdims=True)
        return z / np.where(norm > 0, norm, 1.0)


def knn_probabilities(
    gallery: Floats, y: NDArray[np.int64], queries: Floats, classes: int, options: KnnOptions
) -> Floats:
    """Votes of the k nearest tiles of the training part, as shares: (n, classes).

    Parameters
    ----------
    gallery, y : ndarray, (m, D) and (m,)
        Training part.
    queries : ndarray, (n, D)
    classes : int
    options : KnnOptions
        With fewer than k tiles all of them vote. Of tiles as far as the k-th the first in order votes.
    """
    if options.normalise:
        space = Space.of(gallery)
        gallery, queries = space(gallery), space(queries)
    one = np.eye(classes)
    out = np.zeros((len(queries), classes))
    for start, distance in _distances(gallery, queries, options.distance):
        nearest = np.argsort(distance, axis=1, kind="stable")[:, : options.k]
        votes = one[y[nearest]]
        if options.weights == "similarity":
            # as DINO's, exp(similarity / 0.07), less the largest so that nothing overflows
            near = np.take_along_axis(distance, nearest, 1)
            votes = votes * np.exp((near[:, :1] - near) / 0.07)[..., None]
        out[start : start + len(distance)] = votes.sum(1)
    return out / out.sum(1, keepdims=True)


def _distances(gallery: Floats, queries: Floats, distance: str) -> Iterator[tuple[int, Floats]]:
    """Distances of some queries at a time to the whole gallery: first query, (chunk, m)."""
    if distance == "cosine":
        lengths = [np.linalg.norm(part, axis=1, keepdims=True) for part in (gallery, queries)]
        gallery, queries = (p / np.where(n > 0, n, 1.0) for p, n in zip((gallery, queries), lengths, strict=True))
    squares = (gallery.astype(np.float64) ** 2).sum(1)
    for start in range(0, len(queries), CHUNK):
        part = queries[start : start + CHUNK].astype(np.float64)
        products = part @ gallery.T.astype(np.float64)
        if distance == "cosine":
            yield start, 1 - products
        else:
            yield start, np.sqrt(np.maximum((part**2).sum(1)[:, None] + squares - 2 * products, 0))


def prototypes(z: Floats, y: NDArray[np.int64], classes: int) -> Floats:
    """Means (classes, D) of each class's vectors; NaN for one without a tile."""
    sums = np.zeros((classes, z.shape[1]))
    np.add.at(sums, y, z)
    counts = np.bincount(y, minlength=classes)[:, None].astype(float)
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def squared_distances(z: Floats, means: Floats) -> Floats:
    """Of vectors (n, D) to prototypes (classes, D): (n, classes); infinite to one that is NaN."""
    apart = (z**2).sum(1)[:, None] + (means**2).sum(1) - 2 * z @ means.T
    return np.where(np.isnan(apart), np.inf, np.maximum(apart, 0))


def softmax_of_distances(apart: Floats, temperature: float) -> Floats:
    """Probabilities (n, classes) from squared distances."""
    logits = -(apart - apart.min(1, keepdims=True)) / temperature
    weights = np.exp(logits)
    return weights / weights.sum(1, keepdims=True)


def few_shots(
    z: Floats, y: NDArray[np.int64], queries: Floats, classes: int, options: PrototypesOptions, seed: int
) -> dict[tuple[int, int], NDArray[np.int8]]:
    """Decisions for the queries from prototypes of few tiles a class, drawn again and again.

    Vectors are centred by the mean of the drawn tiles alone, as SimpleShot does where nothing else is known; a number
    of shots that some class of the training part does not have is left out.

    Parameters
    ----------
    z, y : ndarray, (n, D) and (n,)
        Training part, neither centred nor scaled.
    queries : ndarray, (q, D)
    classes : int
    options : PrototypesOptions
    seed : int
        Of the draws; a draw of more shots is not one of fewer with tiles added.

    Returns
    -------
    dict
        By (shots, draw), the class called of each query (q,).
    """
    members = [np.flatnonzero(y == k) for k in range(classes)]
    members_there = [rows for rows in members if len(rows)]
    out = {}
    for shots in options.shots:
        if shots > min(map(len, members_there)):
            break
        for draw in range(options.draws):
            rng = np.random.default_rng((seed, shots, draw))
            rows = np.concatenate([rng.choice(mine, shots, replace=False) for mine in members_there])
            space = Space.of(z[rows])
            means = prototypes(space(z[rows]), y[rows], classes)
            out[shots, draw] = squared_distances(space(queries), means).argmin(1).astype(np.int8)
    return out


def retrieval(gallery: Floats, y: NDArray[np.int64], queries: Floats, truth: NDArray[np.int64]) -> dict[str, Floats]:
    """How well queries find tiles of their class: by cosine, in the space of the training part.

    Parameters
    ----------
    gallery, y : ndarray, (m, D) and (m,)
        Training part: tiles of other patients.
    queries, truth : ndarray, (n, D) and (n,)

    Returns
    -------
    dict of str to ndarray, (n,)
        ``retrieval_acc@1``, ``@3``, ``@5``: whether a tile of the class is among the nearest; ``retrieval_map``: the
        average precision of the whole ranking. A query whose class the gallery lacks has found nothing: 0. Ties are
        broken by the gallery's order.
    """
    space = Space.of(gallery)
    gallery, queries = space(gallery), space(queries)
    out: dict[str, Floats] = {f"retrieval_acc@{rank}": np.zeros(len(queries)) for rank in RANKS}
    out["retrieval_map"] = np.zeros(len(queries))
    place = np.arange(1, len(gallery) + 1)
    for start, distance in _distances(gallery, queries, "cosine"):
        hits = y[np.argsort(distance, axis=1, kind="stable")] == truth[start : start + len(distance), None]
        rows = slice(start, start + len(distance))
        for rank in RANKS:
            out[f"retrieval_acc@{rank}"][rows] = hits[:, :rank].any(1)
        total = hits.sum(1)
        precision = (np.cumsum(hits, 1) / place * hits).sum(1)
        out["retrieval_map"][rows] = np.divide(precision, total, out=np.zeros(len(total)), where=total > 0)
    return out
