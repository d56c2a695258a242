"""Mutual information between vectors, bounded by a variational conditional, and products of Gaussian experts."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call


def club_bound(mean: Tensor, log_variance: Tensor, y: Tensor) -> Tensor:
    """CLUB's estimate of I(x; y) in nats from a conditional q(y | x) = N(mean(x), variance(x)).

    mean_i log q(y_i | x_i) - mean_{i != j} log q(y_j | x_i) (Cheng et al., ICML 2020, equation 14, with the pairs
    of a sample with itself left out, which makes it unbiased at small batches). With the true conditional it is an
    upper bound; for Gaussians of correlation r in d dimensions it is d r^2 / (1 - r^2), where I is
    -(d / 2) log(1 - r^2).

    Parameters
    ----------
    mean, log_variance : Tensor
        (n, d) of q for each x.
    y : Tensor
        (n, d) the paired samples.

    Returns
    -------
    Tensor
        A scalar; 0, without a gradient, for fewer than two samples.
    """
    n = len(y)
    if n < 2:
        return y.new_zeros(())
    centre = y.detach().mean(0)  # an origin near the data: the squares below would cancel far from it
    mean, y = mean - centre, y - centre
    paired = (y - mean).square()
    every = y.square().mean(0) - 2 * mean * y.mean(0) + mean.square()  # over all j, the sample itself too
    gap = 0.5 * ((every - paired) * (-log_variance).exp()).sum(1).mean()
    return gap * (n / (n - 1))


def club_mean_bound(mean: Tensor, y: Tensor) -> Tensor:
    """`club_bound` with a conditional of variance 1 (PIBD's "CLUBMean").

    Not an upper bound where the true conditional is narrower: d r^2 for Gaussians of correlation r. It also falls
    when y shrinks, which leaves the information as it is: give it vectors of a fixed scale.
    """
    return club_bound(mean, torch.zeros_like(mean), y)


class CLUBMean(nn.Module):
    """A learned conditional q(y | x) = N(m(x), 1), m a perceptron of one hidden layer.

    `likelihood` trains q and moves nothing else; `bound` moves x and y and leaves q as it is. One optimiser of both
    then does what alternating steps would: q follows the network, and the network gains nothing by making q's work
    easy (as it does where both losses reach both).

    Parameters
    ----------
    dim_x, dim_y : int
        Widths.
    hidden : int
        Width of the hidden layer.
    """

    def __init__(self, dim_x: int, dim_y: int, hidden: int) -> None:
        super().__init__()
        self.mean = nn.Sequential(nn.Linear(dim_x, hidden), nn.ReLU(), nn.Linear(hidden, dim_y))

    def likelihood(self, x: Tensor, y: Tensor) -> Tensor:
        """Negative log-likelihood of q a dimension, up to a constant; x and y are taken as given."""
        if not len(x):
            return x.new_zeros(())
        return 0.5 * (y.detach() - self.mean(x.detach())).square().mean()

    def bound(self, x: Tensor, y: Tensor) -> Tensor:
        """`club_mean_bound` of I(x; y) under q as it stands."""
        if len(x) < 2:
            return x.new_zeros(())
        weights = {name: value.detach() for name, value in self.mean.named_parameters()}
        return club_mean_bound(functional_call(self.mean, weights, (x,)), y)


def product_of_experts(means: Tensor, variances: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of the normalised product of Gaussians N(mean_m, variance_m)^weight_m.

    Precisions add: 1 / variance = sum_m w_m / variance_m, mean = variance sum_m w_m mean_m / variance_m (Hinton,
    Neural Computation 2002; Cao and Fleet 2014 for the weights). With weights that sum to 1 it is the experts'
    logarithmic opinion pool, no sharper than the sharpest of them.

    Parameters
    ----------
    means, variances : Tensor
        (M, ..., D) of M experts.
    weights : Tensor
        (M, ...) broadcast over D; an expert of weight 0 has no say. One at least is positive.
    """
    precision = weights[..., None] / variances.clamp(min=1e-8)
    total = precision.sum(0)
    return (precision * means).sum(0) / total, 1 / total


def kl_to_standard(mean: Tensor, variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, 1)) in nats, summed over the last dimension."""
    return 0.5 * (mean.square() + variance - 1 - variance.log()).sum(-1)


def mixture_moments(shares: Tensor, means: Tensor, variances: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (B, D) of mixtures with `shares` (B, P) of Gaussians `means`, `variances` (P, D)."""
    mean = shares @ means
    square = shares @ (variances + means.square())
    return mean, (square - mean.square()).clamp(min=1e-8)
