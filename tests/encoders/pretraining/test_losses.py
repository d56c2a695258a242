"""The losses against slow loops in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from histostudy.encoders.pretraining.losses import (
    FeatureMatch,
    Head,
    Targets,
    dino_loss,
    koleo,
    mask_weights,
    patch_loss,
    sinkhorn,
)  # fmt: skip


def _softmax(row: list[float], temperature: float) -> list[float]:
    top = max(row)
    e = [math.exp((v - top) / temperature) for v in row]
    return [v / sum(e) for v in e]


def _cross(target: list[float], logits: list[float], temperature: float) -> float:
    return -sum(t * math.log(s) for t, s in zip(target, _softmax(logits, temperature), strict=True))


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_dino_pairs_every_global_crop_with_every_other_crop() -> None:
    targets = [torch.softmax(_draw(5, 7, seed=s), dim=1) for s in range(2)]
    logits = [_draw(5, 7, seed=10 + s) for s in range(4)]
    terms = []
    for g in range(2):
        for c in range(4):
            if g != c:
                terms += [_cross(targets[g][i].tolist(), logits[c][i].tolist(), 0.1) for i in range(5)]
    assert len(terms) == 2 * 3 * 5
    assert float(dino_loss(targets, logits, 0.1)) == pytest.approx(sum(terms) / len(terms), rel=1e-12)


def test_ibot_counts_masked_images_alike() -> None:
    masks = torch.zeros(4, 6, dtype=torch.bool)
    masks[0, :4], masks[2, 1] = True, True
    targets, logits = torch.softmax(_draw(4, 6, 3), dim=2), _draw(4, 6, 3, seed=1)
    each = []
    for image in range(4):
        found = [
            _cross(targets[image, p].tolist(), logits[image, p].tolist(), 0.1) for p in range(6) if masks[image, p]
        ]
        each += [sum(found) / len(found)] if found else []
    got = patch_loss(targets[masks], logits[masks], mask_weights(masks).double(), 0.1)
    assert float(got) == pytest.approx(sum(each) / len(each), rel=1e-6)


def test_sinkhorn_is_its_loop_and_uses_prototypes_equally() -> None:
    logits = _draw(64, 8) * 0.3
    q = np.exp(logits.numpy().T / 0.1)
    q /= q.sum()
    for _ in range(3):
        q /= q.sum(1, keepdims=True) * len(q)
        q /= q.sum(0, keepdims=True) * q.shape[1]
    got = sinkhorn(logits, 0.1)
    np.testing.assert_allclose(got.numpy(), (q * q.shape[1]).T, rtol=1e-10)
    np.testing.assert_allclose(got.sum(dim=1), 1, rtol=1e-12)
    used = sinkhorn(logits, 0.3).sum(dim=0) / 64
    np.testing.assert_allclose(used, 1 / 8, rtol=0.01)
    assert torch.softmax(logits / 0.3, dim=1).mean(dim=0).sub(1 / 8).abs().max() > 0.01 / 8  # softmax alone does not
    assert torch.isfinite(sinkhorn(logits * 1e4, 0.04)).all()


def test_the_centre_is_taken_off_and_then_moves() -> None:
    targets, logits = Targets(4, momentum=0.9), _draw(6, 4).float()
    first = targets(logits, 0.5)
    torch.testing.assert_close(first, torch.softmax(logits / 0.5, dim=1))
    torch.testing.assert_close(targets.centre, 0.1 * logits.mean(dim=0))
    centre = targets.centre.clone()
    torch.testing.assert_close(targets(logits, 0.5), torch.softmax((logits - centre) / 0.5, dim=1))
    torch.testing.assert_close(targets.centre, 0.9 * centre + 0.1 * logits.mean(dim=0))


def test_koleo_is_the_log_distance_to_the_nearest() -> None:
    x = _draw(9, 5).float()
    v = (x.double() / x.double().norm(dim=1, keepdim=True)).tolist()
    logs = [math.log(min(math.dist(a, b) for j, b in enumerate(v) if j != i) + 1e-8) for i, a in enumerate(v)]
    assert float(koleo(x)) == pytest.approx(-sum(logs) / 9, rel=1e-5)
    assert koleo(torch.eye(5)) < koleo(torch.ones(5, 5) + 0.01 * torch.eye(5))


def test_a_head_gives_cosines_to_its_prototypes() -> None:
    torch.manual_seed(0)
    head, x = Head(6, 8, 4, 10), torch.randn(3, 6)
    low = head.mlp(x)
    for i in range(3):
        for k in range(10):
            want = torch.dot(low[i], head.prototypes[k]) / (low[i].norm() * head.prototypes[k].norm())
            assert float(head(x)[i, k].detach()) == pytest.approx(float(want.detach()), abs=1e-5)
    with torch.no_grad():
        before = head(x)
        head.prototypes.mul_(7)  # weight norm without a gain: length says nothing
    torch.testing.assert_close(head(x), before)


def test_feature_match_is_cosine_and_square_to_standardised_vectors() -> None:
    torch.manual_seed(0)
    teacher = torch.randn(20, 3) * torch.tensor([1.0, 50.0, 0.0]) + torch.tensor([0.0, 9.0, 4.0])
    match = FeatureMatch(2, 3, cosine=0.7, mse=0.3)
    match.standardise_by(teacher)
    student = torch.randn(20, 2)
    t = teacher.double().numpy()
    z = np.c_[(t[:, :2] - t[:, :2].mean(0)) / t[:, :2].std(0), np.zeros(20)]  # a constant column keeps its scale
    p = match.projector(student).detach().double().numpy()
    cosine = [1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) for a, b in zip(p, z, strict=True)]
    parts = match(student, teacher)
    assert float(parts["cosine"].detach()) == pytest.approx(np.mean(cosine), abs=1e-5)
    assert float(parts["mse"].detach()) == pytest.approx(((p - z) ** 2).mean(), rel=1e-5)
    assert float(parts["loss"].detach()) == pytest.approx(0.7 * np.mean(cosine) + 0.3 * ((p - z) ** 2).mean(), rel=1e-5)
