"""Attention in linear time by landmarks: Nystrom's approximation (Xiong et al., Nystromformer, AAAI 2021).

softmax(Q K') is taken as softmax(Q K~') pinv(softmax(Q~ K~')) softmax(Q~ K'), where the landmarks Q~ and K~ are means
of consecutive tokens. Sequences are never padded here: a caller gives sequences of one length together.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d

from histostudy.models.layers import full_precision


def landmark_means(tokens: Tensor, most: int) -> Tensor:
    """Means of segments of consecutive tokens.

    Parameters
    ----------
    tokens : Tensor
        (..., n, d).
    most : int
        Most landmarks.

    Returns
    -------
    Tensor
        (..., m, d): segments of ceil(n / most) tokens, counted from the end, so that the first may be shorter. These
        are the segments of the published code, which fills the first with zeros and counts them in its mean; ours are
        means of real tokens.
    """
    count = tokens.shape[-2]
    size = -(-count // most)
    if size == 1:
        return tokens
    first = (count - 1) % size + 1
    later = tokens[..., first:, :].unflatten(-2, (-1, size)).mean(-2)
    return torch.cat([tokens[..., :first, :].mean(-2, keepdim=True), later], -2)


def pseudo_inverse(matrix: Tensor, iterations: int) -> Tensor:
    """Moore and Penrose's inverse by products alone (Razavi et al. 2014; Nystromformer, equation 11).

    Z <- Z (13 I - A Z (15 I - A Z (7 I - A Z))) / 4 from Z = A' / (largest row sum * largest column sum). The largest
    sums are each matrix's own: the published code takes them over the whole batch, so that one bag changes another.

    Parameters
    ----------
    matrix : Tensor
        (..., m, m).
    iterations : int
        Number of steps; 6 in the papers.
    """
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    sums = matrix.abs().sum(-1).amax(-1) * matrix.abs().sum(-2).amax(-1)
    inverse = matrix.transpose(-1, -2) / sums[..., None, None]
    for _ in range(iterations):
        product = matrix @ inverse
        inverse = inverse @ (13 * eye - product @ (15 * eye - product @ (7 * eye - product))) / 4
    return inverse


def nystrom_factors(
    query: Tensor, key: Tensor, landmarks: int, iterations: int, rows: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The three factors whose product stands for softmax(query key').

    Parameters
    ----------
    query, key : Tensor
        (..., n, d), the query already divided by sqrt(d).
    landmarks : int
        Most landmarks m.
    iterations : int
        Of `pseudo_inverse`.
    rows : Tensor, optional
        (..., r, d) queries whose rows are wanted; all unless given.

    Returns
    -------
    tuple of Tensor
        (..., r, m), (..., m, m) and (..., m, n).
    """
    queries, keys = landmark_means(query, landmarks), landmark_means(key, landmarks)
    left = ((query if rows is None else rows) @ keys.transpose(-1, -2)).softmax(-1)
    middle = pseudo_inverse((queries @ keys.transpose(-1, -2)).softmax(-1), iterations)
    return left, middle, (queries @ key.transpose(-1, -2)).softmax(-1)


def nystrom_attention(query: Tensor, key: Tensor, value: Tensor, landmarks: int, iterations: int = 6) -> Tensor:
    """Approximate softmax(query key' / sqrt(d)) value in O(n m).

    Parameters
    ----------
    query, key, value : Tensor
        (..., n, d).
    landmarks : int
        Most landmarks m. With m = n the result tends to exact attention as the iterations grow.
    iterations : int
        Of `pseudo_inverse`.

    Returns
    -------
    Tensor
        (..., n, d).
    """
    left, middle, right = nystrom_factors(query * query.shape[-1] ** -0.5, key, landmarks, iterations)
    return left @ (middle @ (right @ value))


class NystromAttention(nn.Module):
    """Several heads of Nystrom attention, with a convolution of the values along the sequence added.

    A sequence of no more tokens than landmarks gets exact attention: that is what the approximation would tend to,
    at less cost.

    Parameters
    ----------
    width : int
        Of the tokens; a multiple of `heads`.
    heads : int
        Number of heads.
    landmarks : int
        Most landmarks.
    iterations : int
        Of the pseudo-inverse.
    kernel : int
        Length of the convolution, odd; one kernel a head.
    dropout : float
        Of the output.
    """

    def __init__(
        self, width: int, heads: int, landmarks: int, iterations: int = 6, kernel: int = 33, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.heads, self.landmarks, self.iterations = heads, landmarks, iterations
        self.project = nn.Linear(width, 3 * width, bias=False)
        bound = kernel**-0.5
        self.kernel = nn.Parameter(torch.empty(heads, 1, kernel).uniform_(-bound, bound))
        self.out = nn.Sequential(nn.Linear(width, width), nn.Dropout(dropout))

    def forward(self, tokens: Tensor) -> Tensor:
        """(G, n, width) to the same."""
        query, key, value = self._heads(tokens)
        with torch.autocast(tokens.device.type, enabled=False):
            if tokens.shape[1] <= self.landmarks:
                mixed = (query @ key.transpose(-1, -2)).softmax(-1) @ value
            else:
                left, middle, right = nystrom_factors(query, key, self.landmarks, self.iterations)
                mixed = left @ (middle @ (right @ value))
            mixed = mixed + self._along(value)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def first(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """What the first token takes up, (G, width), and its attention to all, (G, heads, n).

        A row of the approximation sums nearly to 1 and may have values slightly below 0.
        """
        query, key, value = self._heads(tokens)
        with torch.autocast(tokens.device.type, enabled=False):
            if tokens.shape[1] <= self.landmarks:
                row = (query[..., :1, :] @ key.transpose(-1, -2)).softmax(-1)
            else:
                left, middle, right = nystrom_factors(
                    query, key, self.landmarks, self.iterations, rows=query[..., :1, :]
                )
                row = left @ middle @ right
            mixed = (row @ value + self._along(value[..., : self.kernel.shape[2] // 2 + 1, :])[..., :1, :])[..., 0, :]
        return self.out(mixed.flatten(1)), row[..., 0, :]

    def _heads(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scaled queries, keys and values, (G, heads, n, d) each, in float32 or better."""
        parts = full_precision(self.project(tokens)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return parts[0] * parts.shape[-1] ** -0.5, parts[1], parts[2]

    def _along(self, value: Tensor) -> Tensor:
        """Convolution of (G, heads, n, d) along the tokens, each head by its own kernel, zeros beyond the ends."""
        count, _, length, _ = value.shape
        lines = value.permute(0, 3, 1, 2).flatten(0, 1)
        kernel = self.kernel.to(value.dtype)
        done = conv1d(lines, kernel, padding=self.kernel.shape[2] // 2, groups=self.heads)
        return done.unflatten(0, (count, -1)).permute(0, 2, 3, 1)[..., :length, :]
