"""Nystrom attention against exact attention, the pseudo-inverse against LAPACK's, segments against a loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from histostudy.models.nystrom import NystromAttention, landmark_means, nystrom_attention, pseudo_inverse


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exact(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One query at a time."""
    out = torch.zeros(len(q), v.shape[1], dtype=torch.float64)
    for i in range(len(q)):
        weights = np.array([np.exp(float(q[i] @ k[j]) / q.shape[1] ** 0.5) for j in range(len(k))])
        for j in range(len(k)):
            out[i] += weights[j] / weights.sum() * v[j]
    return out


def test_with_every_token_a_landmark_it_is_exact_attention() -> None:
    q, k, v = (2 * drawn(12, 8, seed=s) for s in range(3))
    errors = [float((nystrom_attention(q, k, v, 12, n) - exact(q, k, v)).abs().max()) for n in (2, 6, 12, 20)]
    assert errors[-1] < 1e-8
    assert errors == sorted(errors, reverse=True)


def test_more_landmarks_are_nearer_to_exact_attention() -> None:
    q, k, v = (0.5 * drawn(64, 8, seed=s) for s in range(3))
    true = exact(q, k, v)
    errors = [float((nystrom_attention(q, k, v, m, 30) - true).norm() / true.norm()) for m in (4, 16, 64)]
    assert errors[2] < 1e-3 < errors[1] < errors[0]


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_pseudo_inverse_is_that_of_lapack(scale: float) -> None:
    matrix = (scale * drawn(2, 3, 6, 6)).softmax(-1)
    torch.testing.assert_close(pseudo_inverse(matrix, 30), torch.linalg.pinv(matrix), atol=1e-6, rtol=1e-6)


def test_each_matrix_is_inverted_as_if_alone() -> None:
    """The published start is scaled by the largest sums of the whole batch."""
    one, two = drawn(6, 6).softmax(-1), 5 * drawn(6, 6, seed=1).softmax(-1)
    torch.testing.assert_close(
        pseudo_inverse(torch.stack([one, two]), 4)[0], pseudo_inverse(one, 4), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize(("count", "most"), [(1, 4), (4, 4), (5, 4), (8, 4), (9, 4), (37, 8), (65, 64)])
def test_landmarks_are_means_of_real_tokens_counted_from_the_end(count: int, most: int) -> None:
    x = drawn(count, 3)
    size = -(-count // most)
    expected, stop = [], count
    while stop > 0:
        expected.insert(0, x[max(0, stop - size) : stop].mean(0))
        stop -= size
    found = landmark_means(x, most)
    assert len(found) <= most
    torch.testing.assert_close(found, torch.stack(expected))


def slow_layer(layer: NystromAttention, x: Tensor) -> Tensor:
    """Head by head, the convolution token by token, the inverse by LAPACK."""
    n, width = x.shape
    d = width // layer.heads
    q, k, v = (x @ layer.project.weight.T).split(width, 1)
    out = torch.zeros(n, width, dtype=torch.float64)
    reach = layer.kernel.shape[2] // 2
    for h in range(layer.heads):
        part = slice(h * d, (h + 1) * d)
        scaled, keys, values = q[:, part] / d**0.5, k[:, part], v[:, part]
        near, far = landmark_means(scaled, layer.landmarks), landmark_means(keys, layer.landmarks)
        left, right = (scaled @ far.T).softmax(1), (near @ keys.T).softmax(1)
        out[:, part] = left @ torch.linalg.pinv((near @ far.T).softmax(1)) @ right @ values
        for i in range(n):
            for t in range(-reach, reach + 1):
                if 0 <= i + t < n:
                    out[i, part] += layer.kernel[h, 0, t + reach] * values[i + t]
    return layer.out(out)


@pytest.mark.parametrize("count", [1, 4, 5, 11, 20])
def test_the_layer_equals_a_slow_loop(count: int) -> None:
    torch.manual_seed(0)
    layer = NystromAttention(8, 2, 4, iterations=40, kernel=5).double().eval()
    with torch.no_grad():
        layer.project.weight *= 3
        x = drawn(2, count, 8)
        found = layer(x)
        torch.testing.assert_close(found[0], slow_layer(layer, x[0]), atol=1e-6, rtol=1e-6)
        first, row = layer.first(x)
    torch.testing.assert_close(first, found[:, 0], atol=1e-12, rtol=1e-12)
    assert row.shape == (2, 2, count)
    if count <= 4:
        torch.testing.assert_close(row.sum(2), torch.ones(2, 2).double())
