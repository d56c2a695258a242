"""CLAM: attention and instance loss against a slow loop, small bags, and which tasks have an instance loss."""

from __future__ import annotations

import math

import pytest
import torch
from models.aggregators.witnesses import HEADS, outcomes
from torch import Tensor

from histostudy.errors import ModelError
from histostudy.models.aggregators.clam import CLAM, smooth_svm, top_rows
from histostudy.models.batch import BagBatch
from histostudy.models.model import MILModel
from histostudy.models.registry import build_aggregator

BAGS = [torch.randn(n, 5, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in (1, 2, 3, 7, 30)]
CLASSES = torch.tensor([0, 2, 1, 1, 2])
both = pytest.mark.parametrize("name", ["clam_sb", "clam_mb"])


def clam(name: str, **options: object) -> CLAM:
    torch.manual_seed(0)
    model = build_aggregator(name, 5, {"hidden": 8, "attention": 4, "dropout": 0, **options}, outputs=3).double()
    assert isinstance(model, CLAM)
    return model


def slow_attention(model: CLAM, tile: Tensor, branch: int) -> float:
    """Gated attention of one embedded tile before the softmax."""
    part = model.attention
    inner = [
        math.tanh(float(v @ tile + b)) / (1 + math.exp(-float(u @ tile + c)))
        for v, b, u, c in zip(part.value.weight, part.value.bias, part.gate.weight, part.gate.bias, strict=True)
    ]
    return sum(float(w) * x for w, x in zip(part.score.weight[branch], inner, strict=True))


def slow_svm(scores: Tensor, label: int) -> float:
    """Two classes, tau = alpha = 1."""
    return math.log(1 + math.exp(1 + float(scores[1 - label]) - float(scores[label])))


def slow_outputs(model: CLAM, bag: Tensor, branches: int) -> list[float]:
    tiles = [(model.embed[0].weight @ x + model.embed[0].bias).clamp(min=0) for x in bag]
    found = []
    for c in range(3):
        powers = [math.exp(slow_attention(model, tile, c % branches)) for tile in tiles]
        pooled = sum(p / sum(powers) * tile for p, tile in zip(powers, tiles, strict=True))
        found.append(float(model.score.weight[c] @ pooled))
    return found


def slow_instance_loss(model: CLAM, bag: Tensor, y: int, branches: int) -> float:
    """Of one bag, tile by tile."""
    tiles = [(model.embed[0].weight @ x + model.embed[0].bias).clamp(min=0) for x in bag]
    k = min(model.options.instances, len(tiles) // 2)
    if not k:
        return 0.0
    total = 0.0
    for c in range(3):
        order = sorted(tiles, key=lambda tile, c=c: slow_attention(model, tile, c % branches))
        weight, bias = model.instances.weight[2 * c : 2 * c + 2], model.instances.bias[2 * c : 2 * c + 2]
        if c == y:
            labelled = [(tile, 1) for tile in order[-k:]] + [(tile, 0) for tile in order[:k]]
        else:
            labelled = [(tile, 0) for tile in order[-k:]] if model.options.subtyping else []
        total += sum(slow_svm(weight @ tile + bias, label) for tile, label in labelled) / max(len(labelled), 1)
    return total / 3 if model.options.subtyping else total


@both
@torch.no_grad()
def test_outputs_equal_a_slow_loop(name: str) -> None:
    model = clam(name).eval()
    expected = [slow_outputs(model, bag, 1 if name == "clam_sb" else 3) for bag in BAGS]
    torch.testing.assert_close(model(BagBatch.pack(BAGS))[0], torch.tensor(expected, dtype=torch.float64))


@both
@pytest.mark.parametrize("subtyping", [False, True])
@pytest.mark.parametrize("instances", [2, 8])
@torch.no_grad()
def test_the_penalty_equals_a_slow_loop(name: str, subtyping: bool, instances: int) -> None:
    model = clam(name, subtyping=subtyping, instances=instances).train()
    model(BagBatch.pack(BAGS))
    penalty = model.penalty({"y": CLASSES}, lambda *_: pytest.fail("the head's loss has no part in it"))
    branches = 1 if name == "clam_sb" else 3
    each = [slow_instance_loss(model, bag, int(y), branches) for bag, y in zip(BAGS, CLASSES, strict=True)]
    assert each[0] == 0  # a single tile is neither of two ends
    assert float(penalty) == pytest.approx(0.3 / 0.7 * sum(each) / 5, rel=1e-10)


def test_the_share_of_the_instance_loss_is_that_of_the_total() -> None:
    found = {}
    for weight in (0.3, 0.6):
        model = clam("clam_sb", instance_weight=weight).train()
        model(BagBatch.pack(BAGS))
        found[weight] = model.penalty({"y": CLASSES}, None).item()
    assert found[0.6] / found[0.3] == pytest.approx((0.6 / 0.4) / (0.3 / 0.7))


def test_ends_of_a_bag_never_meet_and_padding_is_no_tile() -> None:
    batch = BagBatch.pack([torch.zeros(n, 1) for n in (1, 2, 3, 16, 40)])
    scores = -100.0 - torch.arange(62.0)
    high, real = top_rows(scores, batch, 8)
    low, _ = top_rows(-scores, batch, 8)
    assert real.sum(1).tolist() == [0, 1, 1, 8, 8]
    for bag in range(5):
        start, stop = batch.offsets[bag].item(), batch.offsets[bag + 1].item()
        k = int(real[bag].sum())
        assert high[bag, real[bag]].tolist() == list(range(start, start + k))
        assert low[bag, real[bag]].tolist() == list(range(stop - 1, stop - 1 - k, -1))
        assert ((high[bag] >= start) & (high[bag] < stop)).all()


def test_smooth_svm_has_a_margin_and_the_hinge_as_its_limit() -> None:
    scores, labels = torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.2, 0.1]]), torch.tensor([0, 2])
    smooth = smooth_svm(scores, labels, temperature=1e-3)
    torch.testing.assert_close(smooth, torch.tensor([0.0, 1.1]))  # max over j of [j != y] + s_j - s_y
    assert smooth_svm(torch.zeros(1, 2), torch.zeros(1).long()).item() == pytest.approx(math.log(1 + math.e))


def test_the_instance_loss_trains_the_embedding_but_not_the_attention() -> None:
    model = clam("clam_mb").train()
    model(BagBatch.pack(BAGS))
    model.penalty({"y": CLASSES}, None).backward()
    assert model.embed[0].weight.grad.abs().sum() > 0
    assert model.instances.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.attention.parameters())


@both
@pytest.mark.parametrize("kind", ["survival_nll", "survival_cox", "regression"])
def test_a_task_without_classes_has_no_instance_loss(name: str, kind: str) -> None:
    targets = outcomes(kind, 5)
    with pytest.raises(ModelError, match=r"instance loss needs classes.*instance_weight: 0"):
        MILModel(5, name, {}, HEADS[kind]).aggregator.start(targets)
    without = MILModel(5, name, {"instance_weight": 0}, HEADS[kind]).train()
    without.aggregator.start(targets)
    without.aggregator(BagBatch.pack([bag.float() for bag in BAGS]))
    assert without.aggregator.penalty(targets, None) is None


def test_evaluation_has_no_penalty() -> None:
    model = clam("clam_sb").eval()
    model(BagBatch.pack(BAGS))
    assert model.penalty({"y": CLASSES}, None) is None


def test_a_branch_an_output() -> None:
    tokens = BagBatch.pack([torch.randn(4, 8).double()])
    assert clam("clam_sb").pool(tokens).maps.shape == (4, 1)
    assert clam("clam_mb").pool(tokens).maps.shape == (4, 3)
