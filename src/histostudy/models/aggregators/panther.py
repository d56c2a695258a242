"""PANTHER: a bag as a mixture of Gaussians around the cohort's prototypes (Song et al., CVPR 2024)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from histostudy.errors import ModelError
from histostudy.models.batch import BagBatch
from histostudy.models.layers import full_precision
from histostudy.models.registry import AGGREGATORS, Aggregator, DrawTiles, is_count, is_positive, require

OUTPUTS = ("allcat", "weights", "means", "weight_means")


@dataclass(frozen=True)
class PantherOptions:
    """Options of `Panther`.

    components : of the mixture, K; iterations : of EM; strength : weight tau of the prior, in tiles a component;
    variance : the prior variance V of the (standardised) features; output : ``allcat`` (weights, means, variances),
    ``weights``, ``means`` or ``weight_means``; scaled : relative to the training tiles, else as the paper has them;
    tiles : drawn for the prototypes, at most.
    """

    components: int = 16
    iterations: int = 1
    strength: float = 1.0
    variance: float = 1.0
    output: str = "allcat"
    scaled: bool = True
    tiles: int = 50_000

    def __post_init__(self) -> None:
        for name in ("components", "iterations", "tiles"):
            require(is_count(getattr(self, name)), f"{name} is a whole number from 1")
        for name in ("strength", "variance"):
            require(is_positive(getattr(self, name)), f"{name} is a number above 0")
        require(self.output in OUTPUTS, f"output is one of {', '.join(OUTPUTS)}")
        require(isinstance(self.scaled, bool), "scaled is true or false")


@AGGREGATORS.register("panther")
class Panther(Aggregator):
    """Weights, means and variances of a diagonal Gaussian mixture fitted to each bag by MAP-EM; nothing is trained.

    The prototypes m_c are k-means centres of training tiles. From pi = 1/K, mu = m, S = V each iteration takes
    q_nc in proportion to pi_c N(x_n; mu_c, S_c), w_c = sum_n q_nc + tau, pi_c = w_c / sum w,
    mu_c = (sum_n q_nc x_n + tau m_c) / w_c and S_c = (sum_n q_nc x_n^2 + tau (V + m_c^2)) / w_c - mu_c^2.

    The vector [pi, mu, S] has K + 2 K D numbers of unlike scales, and no weights before the head to even them out.
    With `scaled` (ours) each is taken relative to the drawn training tiles of its component, of share p_c, centre m_c
    and variance s_c: (pi - p) / sqrt(p (1 - p)), (mu - m) / sqrt(s D) and (S - s) / (s sqrt(2 D)). The factor
    1 / sqrt(D) lets a component's mean as a whole weigh as much as its share. It is not a standardisation by the
    spread between patients, which drawn tiles cannot show.
    """

    Options = PantherOptions
    prototypes: Tensor
    share: Tensor
    spread: Tensor

    def __init__(self, dim_in: int, options: PantherOptions) -> None:
        super().__init__(dim_in, options)
        k = options.components
        widths = {"weights": k, "means": k * dim_in, "weight_means": k * (1 + dim_in), "allcat": k * (1 + 2 * dim_in)}
        self.dim_out = widths[options.output]
        self.register_buffer("prototypes", torch.randn(k, dim_in))
        self.register_buffer("share", torch.full((k,), 1 / k))
        self.register_buffer("spread", torch.ones(k, dim_in))

    def prepare(self, draw: DrawTiles, seed: int) -> None:
        """Take prototypes, and each one's share and variance, from training tiles.

        Raises
        ------
        ModelError
            If there are fewer tiles than components.
        """
        tiles, k = draw(self.options.tiles).float(), self.options.components
        if len(tiles) < k:
            raise ModelError(f"panther: {len(tiles)} training tiles for {k} components", todo="lower `components`")
        centres, labels = _k_means(tiles, k, seed)
        counts = torch.bincount(labels, minlength=k)
        squares = torch.zeros_like(centres).index_add(0, labels, (tiles - centres[labels]).square())
        self.prototypes.copy_(centres)
        self.share.copy_((counts + 0.5) / (len(tiles) + 0.5 * k))
        # a component of few tiles knows its variance badly: one tile's worth of the prior's steadies it
        self.spread.copy_((squares + self.options.variance) / (counts[:, None] + 1))

    def forward(self, batch: BagBatch) -> tuple[Tensor, Tensor | None]:
        """Fit each bag's mixture; there is no attention."""
        with torch.autocast(batch.features.device.type, enabled=False):
            features = full_precision(batch.features)
            bags = [features[start:stop] for start, stop in pairwise(batch.offsets.tolist())]
            return torch.stack([self.vector(*self.mixture(bag)) for bag in bags]), None

    def mixture(self, tiles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights (K,), means and variances (K, D) of one bag (N, D)."""
        options, prior = self.options, self.prototypes.to(tiles.dtype)
        tau, squares = options.strength, tiles.square()
        weights = tiles.new_full((len(prior),), 1 / len(prior))
        means, variances = prior, torch.full_like(prior, options.variance)
        for _ in range(options.iterations):
            held = log_density(tiles, squares, means, variances).add(weights.log()).softmax(1)
            mass = held.sum(0) + tau
            weights = mass / mass.sum()
            means = (held.T @ tiles + tau * prior) / mass[:, None]
            second = (held.T @ squares + tau * (options.variance + prior.square())) / mass[:, None]
            # never below the prior's own part, which rounding might undercut
            variances = (second - means.square()).maximum(tau * options.variance / mass[:, None])
        return weights, means, variances

    def vector(self, weights: Tensor, means: Tensor, variances: Tensor) -> Tensor:
        """(dim_out,) of one bag's mixture."""
        if self.options.scaled:
            share, spread, root = self.share, self.spread, math.sqrt(self.dim_in)
            weights = (weights - share) / (share * (1 - share)).clamp(min=1e-6).sqrt()
            means = (means - self.prototypes) / (spread.sqrt() * root)
            variances = (variances - spread) / (spread * math.sqrt(2) * root)
        parts = {
            "weights": [weights],
            "means": [means],
            "weight_means": [weights, means],
            "allcat": [weights, means, variances],
        }
        return torch.cat([part.flatten() for part in parts[self.options.output]])


def log_density(tiles: Tensor, squares: Tensor, means: Tensor, variances: Tensor) -> Tensor:
    """(N, K) log density of (N, D) tiles, less a constant, under Gaussians of (K, D) means and variances."""
    precision = 1 / variances
    distance = squares @ precision.T - 2 * tiles @ (means * precision).T + (means.square() * precision).sum(1)
    return -0.5 * (distance + variances.log().sum(1))


def _k_means(tiles: Tensor, k: int, seed: int) -> tuple[Tensor, Tensor]:
    """Centres (K, D) and labels (n,); on one thread, as several add up in an order of chance."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        found = KMeans(k, n_init=3, max_iter=100, random_state=seed % 2**32).fit(tiles.numpy())
    return torch.from_numpy(found.cluster_centers_).to(tiles.dtype), torch.from_numpy(found.labels_).long()
