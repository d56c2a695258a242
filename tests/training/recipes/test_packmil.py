"""PackMIL: what is refused, what both branches see, and that planted effects are found with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training.recipes.recipedata import CLASSES, begun, network_of, random_batch, recipes_of, step_of, through
from training.recipes.runs import TRAINING, auc, classified, concordance, measured, survived
from training.trainingdata import planted_bags

from histostudy.errors import ModelError
from histostudy.models.io import load_model, save_tensors
from histostudy.models.model import MILModel
from histostudy.training.recipes.packmil import PackMILSettings

SIX = {"kind": "classification", "classes": [f"grade {k}" for k in range(6)]}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("keep", 0), ("keep", 1), ("keep", "0.5"), ("min_tiles", -1), ("min_tiles", True), ("max_tiles", 0),
        ("pack_tiles", 2.5), ("weight", -0.1), ("weight", "a"), ("labels", "gleason"), ("downsample", 0),
        ("downsample", None), ("channels", "all"), ("attention", 0), ("min_tiles", 300),
    ],
)  # fmt: skip
def test_wrong_settings_are_one_line(name: str, value: object) -> None:
    with pytest.raises(ModelError, match=rf"wrong option: .*{name}"):
        PackMILSettings(**{name: value})


def test_what_it_does_not_go_with() -> None:
    network = network_of()
    for kind in ("survival_cox", "survival_rank"):
        head = {"kind": kind, "days": []}
        with pytest.raises(ModelError, match="no time to be compared at; set `training.loss: nll`"):
            recipes_of(network_of(head=head), packmil={})
    with pytest.raises(ModelError, match="ISUP grades are classes, not survival"):
        recipes_of(network_of(head={"kind": "survival_nll", "bins": 2, "days": []}), packmil={"labels": "isup"})
    with pytest.raises(ModelError, match="named after the grades 0 to 5"):
        begun(network, "packmil", labels="isup")
    with pytest.raises(ModelError, match="named after the grades 0 to 5"):
        begun(network_of(head=SIX | {"classes": SIX["classes"][::-1]}), "packmil", labels="isup")
    begun(network_of(head=SIX), "packmil", labels="isup")
    with pytest.raises(ModelError, match="linear Mean gets the mean of all"):
        recipes_of(network_of("mean"), packmil={})
    recipes_of(network_of("panther"), packmil={})
    with pytest.raises(ModelError, match="fitted to tiles that are not downsampled"):
        recipes_of(network_of("panther"), packmil={"downsample": 2})


def test_cox_is_refused_by_a_whole_run(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no time to be compared at"):
        survived({"recipe": {"packmil": {}}, "training": {"loss": "cox", "epochs": 1}}, tmp_path, n=45)


def test_both_branches_share_the_tiles_and_the_aggregator() -> None:
    network = network_of()
    step = step_of(network, random_batch(20, 7, 31))
    step.batch = replace(step.batch, scales=step.batch.features[:, 0].clone())
    recipe = begun(network, "packmil", min_tiles=8, keep=0.4, pack_tiles=24)
    whole, seen = step.batch, []
    handle = network.aggregator.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    recipe.tiles(step)
    handle.remove()
    (residual,) = seen
    assert step.batch.lengths.tolist() == [8, 7, 12]
    assert residual.lengths.tolist() == [12 + 7, 19]  # 12, the small bag whole, 19
    for batch in (step.batch, residual):
        assert torch.equal(batch.scales, batch.features[:, 0])
    both = torch.cat([step.batch.features[:8], residual.features[:12]])
    assert torch.equal(both.sort(0).values, whole.features[:20].sort(0).values)
    assert recipe.log() == {"packmil_loss": pytest.approx(recipe.residual.item()), "packmil_members": 1.5}
    assert np.isnan(recipe.log()["packmil_loss"])


def test_the_loss_is_main_plus_weighted_residual_and_both_have_gradients() -> None:
    network = network_of()
    losses, gradients = {}, {}
    for weight in (0.0, None, 2.0):
        step = step_of(network, random_batch(20, 30, 31))
        recipe = begun(network, "packmil", weight=weight)
        loss = through(step, recipe)
        losses[weight] = loss.item()
        network.zero_grad()
        loss.backward()
        gradients[weight] = network.aggregator.embed[0].weight.grad.clone()
        residual = recipe.residual.item()
    assert losses[None] == pytest.approx(losses[0.0] + 0.2 * residual, rel=1e-5)
    assert losses[2.0] == pytest.approx(losses[0.0] + 2 * residual, rel=1e-5)
    # linear in the weight: the part of the residual branch is there, and is that branch's alone
    part = (gradients[2.0] - gradients[0.0]) / 2
    assert part.abs().max() > 1e-6
    assert torch.allclose(gradients[None], gradients[0.0] + 0.2 * part, atol=1e-6)


def test_bags_of_one_tile_have_no_residual() -> None:
    network = network_of()
    recipe = begun(network, "packmil", min_tiles=0)
    assert torch.isfinite(through(step_of(network, random_batch(1, 1)), recipe))
    assert recipe.penalty(step_of(network, random_batch(1))) is None


def test_the_downsampler_learns_from_both_branches() -> None:
    settings = {"downsample": 3, "min_tiles": 2}
    front = recipes_of(network_of(), packmil=settings)[0].front()
    network = MILModel(32, "abmil", {"dropout": 0.0}, CLASSES, front=front)
    recipe = begun(network, "packmil", **settings)
    step = step_of(network, random_batch(40, 5, 61))
    loss = through(step, recipe)
    # halves of 20 and 30 tiles by three; 5 tiles are below 2 x 3
    assert step.batch.lengths.tolist() == [7, 5, 10]
    weights = list(network.front.parameters())
    residual = torch.autograd.grad(recipe.residual, weights, retain_graph=True)
    main = torch.autograd.grad(loss - 0.2 * recipe.residual, weights)
    assert all(g.any() for g in (*residual, *main))


def test_a_penalty_of_the_aggregator_is_of_the_main_branch() -> None:
    network = network_of()
    seen: list[int] = []
    pool = network.aggregator.pool
    network.aggregator.pool = lambda tokens: (seen.append(len(tokens)), pool(tokens))[1]
    network.aggregator.penalty = lambda targets, loss: torch.tensor(float(seen[-1] == len(targets["y"])))
    recipe = begun(network, "packmil", weight=0)
    step = step_of(network, random_batch(20, 30, 31))
    plain = network.head.loss(network.head(torch.zeros(3, 32)), step.targets) * 0
    total = through(step, recipe)
    assert seen == [1, 3]
    assert (total - step.loss(step.vectors) - plain).item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"pack_tiles": 40, "min_tiles": 4},
        {"pack_tiles": 40, "min_tiles": 2, "downsample": 2},
        {"pack_tiles": 40, "min_tiles": 2, "downsample": 2, "channels": "subset"},
    ],
)
def test_a_planted_class_is_found(settings: dict, tmp_path: Path) -> None:
    bags, y = planted_bags(150, 0)
    # with the published choice of channels it is learned more slowly
    training = TRAINING | ({"epochs": 60, "patience": 60} if settings.get("channels") == "subset" else {})
    result = classified(bags, y, {"packmil": settings}, tmp_path, training=training)
    assert auc(result) > 0.8
    history = result.history
    assert (history["packmil_members"] > 1).all() and history["packmil_loss"].notna().all()
    assert ("front.0.embed.weight" in result.tensors) == ("downsample" in settings)
    save_tensors(tmp_path / "m", result.tensors, result.config)
    assert len(load_model(tmp_path / "m")[0].front) == ("downsample" in settings)


def test_permuted_labels_are_at_chance(tmp_path: Path) -> None:
    bags, y = planted_bags(150, 1)
    training = {"epochs": 8, "min_epochs": 2, "patience": 3}
    areas = []
    for seed in range(4):
        shuffled = np.random.default_rng(seed).permutation(y)
        areas.append(auc(classified(bags, shuffled, {"packmil": {"pack_tiles": 40}}, tmp_path, training=training)))
    assert abs(np.mean(areas) - 0.5) < 0.12


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    bags, y = planted_bags(60, 2)
    recipe = {"packmil": {"downsample": 2, "min_tiles": 2}, "instance_dropout": {}, "mixup": {}}
    one, two = (classified(bags, y, recipe, tmp_path, training={"epochs": 3}) for _ in range(2))
    assert one.predictions.equals(two.predictions)
    assert all(torch.equal(one.tensors[k], two.tensors[k]) for k in one.tensors)


def test_planted_survival_and_numbers_are_found(tmp_path: Path) -> None:
    packmil = {"packmil": {"pack_tiles": 40, "min_tiles": 4}}
    assert concordance(survived({"recipe": packmil}, tmp_path)) > 0.65
    assert measured(packmil, tmp_path) > 0.7


def test_grades_are_trained_through_gleason(tmp_path: Path) -> None:
    network = network_of(head=SIX)
    recipe = begun(network, "packmil", labels="isup", pack_tiles=500)
    step = step_of(network, random_batch(20, 20))
    step.targets = {"y": torch.tensor([1, 4])}
    recipe.tiles(step)
    grade2 = step_of(network, random_batch(20, 20))
    grade2.targets = {"y": torch.tensor([2, 2])}
    recipe_two = begun(network, "packmil", labels="isup", pack_tiles=500)
    recipe_two.tiles(grade2)  # the same split of the same bags: a mixture of 1 and 4 is a 2
    assert recipe.residual.item() == pytest.approx(recipe_two.residual.item(), rel=1e-6)
    shares = begun(network, "packmil", pack_tiles=500)
    shares.tiles(step_one := step_of(network, random_batch(20, 20)))
    assert step_one.batch.lengths.tolist() == [10, 10] and float(shares.residual) != float(recipe.residual)


def test_it_composes_with_recipes_that_leave_tiles_out(tmp_path: Path) -> None:
    network = network_of()
    recipes = recipes_of(network, packmil={"min_tiles": 0}, instance_dropout={"p": 0.5}, subsample={"tiles": 10})
    assert [recipe.name for recipe in recipes] == ["instance_dropout", "subsample", "packmil"]
    step = step_of(network, random_batch(200, 300))
    assert torch.isfinite(through(step, *recipes))
    assert step.batch.lengths.tolist() == [5, 5]  # half of ten
    bags, y = planted_bags(150, 0)
    result = classified(bags, y, {"packmil": {"min_tiles": 4}, "instance_dropout": {"p": 0.2}}, tmp_path)
    assert auc(result) > 0.8
