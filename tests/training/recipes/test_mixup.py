"""Mixup: the loss is the mixed one, and that of nothing else is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot
from training.recipes.recipedata import begun, network_of, random_batch, recipes_of, step_of, through
from training.recipes.runs import auc, classified, concordance, measured, survived
from training.trainingdata import planted_bags

from histostudy.errors import ModelError
from histostudy.models.model import MILModel
from histostudy.models.survival import bin_of, nll_loss
from histostudy.study import Training
from histostudy.training.epoch import loss_of_vectors
from histostudy.training.recipes.base import Run, Step
from histostudy.training.recipes.mixup import MixupSettings


def drawn_share(alpha: float, seed: int = 0) -> float:
    generator = torch.Generator().manual_seed(seed)
    return float(np.random.default_rng(int(torch.randint(2**62, (), generator=generator))).beta(alpha, alpha))


def mixed(network: MILModel, targets: dict | None = None, alpha: float = 1.0) -> tuple[Step, object]:
    """A step of three patients in mixup's hands, and its loss before."""
    step = step_of(network, random_batch(5, 6, 7))
    if targets is not None:
        step.targets, step.loss = targets, loss_of_vectors(network.head, targets)
    step.vectors = torch.randn(3, network.aggregator.dim_out, requires_grad=True)
    plain = step.loss
    (recipe,) = recipes_of(network, mixup={"alpha": alpha})
    recipe.vectors(step)
    return step, plain


@pytest.mark.parametrize("value", [0, -1, "a", None, True])
def test_wrong_settings_are_one_line(value: object) -> None:
    with pytest.raises(ModelError, match="wrong option: alpha"):
        MixupSettings(alpha=value)


def test_the_loss_is_that_of_mixed_vectors_against_mixed_labels() -> None:
    network = network_of()
    step, _ = mixed(network, {"y": torch.tensor([0, 1, 1])})
    share = drawn_share(1.0)
    assert 0.01 < share < 0.99
    blend = share * step.vectors + (1 - share) * step.vectors[[1, 2, 0]]
    labels = one_hot(torch.tensor([0, 1, 1]), 2).double()
    labels = share * labels + (1 - share) * labels[[1, 2, 0]]
    expected = cross_entropy(network.head(blend), labels.float())
    loss = step.loss(step.vectors)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    one, two = (torch.autograd.grad(x, step.vectors)[0] for x in (loss, expected))
    assert torch.allclose(one, two, atol=1e-7)


def test_the_loss_of_survival_is_the_mixture_of_both_likelihoods() -> None:
    network = network_of(head={"kind": "survival_nll", "bins": 3, "days": []})
    time, event = torch.tensor([50.0, 150.0, 250.0]), torch.tensor([1.0, 0.0, 1.0])
    network.head.edges.copy_(torch.tensor([0.0, 100.0, 200.0, float("inf")]))
    step, _ = mixed(network, {"time": time, "event": event})
    share, partner = drawn_share(1.0), [1, 2, 0]
    raw = network.head(share * step.vectors + (1 - share) * step.vectors[partner])
    own = bin_of(time, network.head.edges)
    expected = share * nll_loss(raw, own, event) + (1 - share) * nll_loss(raw, own[partner], event[partner])
    assert step.loss(step.vectors).item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_loss_of_numbers_has_the_gradient_of_mixed_numbers() -> None:
    network = network_of(head={"kind": "regression", "columns": ["a"]})
    y = torch.tensor([[1.0], [5.0], [2.0]])
    step, _ = mixed(network, {"y": y})
    share, partner = drawn_share(1.0), [1, 2, 0]
    raw = network.head(share * step.vectors + (1 - share) * step.vectors[partner])
    expected = (raw - share * y - (1 - share) * y[partner]).square().mean()
    one, two = (torch.autograd.grad(x, step.vectors)[0] for x in (step.loss(step.vectors), expected))
    assert torch.allclose(one, two, atol=1e-6)


def test_other_vectors_than_the_bags_have_their_own_loss() -> None:
    network = network_of()
    step, plain = mixed(network)
    other, places = torch.randn(4, network.aggregator.dim_out), torch.tensor([0, 2, 2, 1])
    assert torch.equal(step.loss(other[:3]), plain(other[:3]))
    assert torch.equal(step.loss(other, places), plain(other, places))
    assert not torch.equal(step.loss(step.vectors), plain(step.vectors))
    assert torch.equal(step.loss(step.vectors.clone()), plain(step.vectors))


def test_penalties_are_not_mixed() -> None:
    network = network_of()
    asked = {}

    def penalty(targets: dict, loss: object) -> torch.Tensor:
        vectors = torch.ones(len(targets["y"]), network.aggregator.dim_out)
        asked["got"], asked["want"] = loss(vectors), network.head.loss(network.head(vectors), targets)
        return asked["got"] * 0

    network.aggregator.penalty = penalty
    step = step_of(network, random_batch(5, 6, 7))
    through(step, *recipes_of(network, mixup={"alpha": 1.0}))
    assert torch.equal(asked["got"], asked["want"])


def test_a_batch_of_one_is_not_mixed_and_nothing_else_may_be_impossible() -> None:
    network = network_of()
    step = step_of(network, random_batch(5))
    plain = step.loss
    (recipe,) = recipes_of(network, mixup={})
    step.vectors = torch.randn(1, network.aggregator.dim_out)
    recipe.vectors(step)
    assert step.loss is plain
    with pytest.raises(ModelError, match="a batch of one patient has nobody to mix with"):
        recipe.begin(Run(network, None, [], {}, Training(batch_size=1), 0, None))
    for kind in ("survival_cox", "survival_rank"):
        with pytest.raises(ModelError, match="no time to be compared at"):
            begun(network_of(head={"kind": kind, "days": []}), "mixup")


def test_cox_is_refused_by_a_whole_run(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no time to be compared at"):
        survived({"recipe": {"mixup": {}}, "training": {"loss": "cox", "epochs": 1}}, tmp_path, n=45)


def test_planted_effects_are_found(tmp_path: Path) -> None:
    bags, y = planted_bags(150, 0)
    assert auc(classified(bags, y, {"mixup": {}}, tmp_path)) > 0.8
    assert concordance(survived({"recipe": {"mixup": {}}}, tmp_path)) > 0.65
    assert measured({"mixup": {}}, tmp_path) > 0.7
