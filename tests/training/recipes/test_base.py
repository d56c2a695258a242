"""Where recipes act: their order, what they are handed, what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training.trainingdata import PackedBags, folds_of, outcome_for, planted_bags, study_of

from histostudy.errors import ModelError
from histostudy.models.batch import BagBatch
from histostudy.models.front import FRONTS, Front
from histostudy.models.io import load_model, save_tensors
from histostudy.models.model import MILModel
from histostudy.models.registry import AGGREGATORS, aggregator_kind
from histostudy.training.epoch import loss_of_vectors
from histostudy.training.guard import TestPart
from histostudy.training.loop import RunResult, train_run
from histostudy.training.recipes.base import RECIPES, Recipe, Run, Step, build_recipes, check_recipes
from histostudy.training.tilestore import TileStore

aggregator_kind("mean")  # registers them all
#: Those that need neither tables, nor other models, nor a regression.
ALONE = [n for n in AGGREGATORS if not (AGGREGATORS[n].multimodal or AGGREGATORS[n].sources or n == "weakstil")]


@dataclass(frozen=True)
class NoSettings:
    """None."""


def run(model: dict[str, Any], tmp_path: Path) -> tuple[RunResult, TileStore, list[str]]:
    bags, y = planted_bags(45, 5)
    ids = sorted(bags)
    study = study_of({"name": "t", "kind": "classification", "target": "y"}, {"m": model}, tmp_path)
    truth = outcome_for(study, ids, y=y.astype(float), classes=["no", "yes"])
    part = folds_of(ids, y, 3).query("fold == 0").groupby("part")["patient_id"].apply(list)
    store = TileStore.of(PackedBags.of(bags))
    test = TestPart(truth, part["test"])
    return train_run(study.models["m"], store, truth, part["train"], part["val"], test, seed=0), store, part["test"]


@contextmanager
def registered(**kinds: type[Recipe]) -> Iterator[None]:
    for name, kind in kinds.items():
        RECIPES.register(name)(kind)
    try:
        yield
    finally:
        for name in kinds:
            del RECIPES._items[name]


def test_recipes_act_in_their_order_at_every_place(tmp_path: Path) -> None:
    calls: list[tuple[str, str]] = []

    class Probe(Recipe):
        Settings = NoSettings

        def begin(self, run: Run) -> None:
            assert len(run.rows) == len(run.targets["y"]) == 24
            calls.append((self.name, "begin"))

        def tiles(self, step: Step) -> None:
            assert step.tokens is None and step.vectors is None
            assert step.batch.features.mean().abs() < 0.3  # standardised
            calls.append((self.name, "tiles"))

        def tokens(self, step: Step) -> None:
            assert step.tokens.features.shape == (len(step.batch.features), 128) and step.vectors is None
            calls.append((self.name, "tokens"))

        def vectors(self, step: Step) -> None:
            assert step.vectors.shape == (len(step.batch), 128)
            assert step.maps.sum().item() == pytest.approx(len(step.batch), rel=1e-5)
            calls.append((self.name, "vectors"))

        def penalty(self, step: Step) -> None:
            assert step.attended is step.tokens
            calls.append((self.name, "penalty"))

        def after_step(self, step: Step) -> None:
            calls.append((self.name, "after"))

        def log(self) -> dict[str, float]:
            return {f"{self.name}_seen": float(len(calls))}

    class Late(Probe):
        order = 60

    class Early(Probe):
        order = 10

    with registered(a_late=Late, b_early=Early):
        result, _, _ = run(
            {"aggregator": "abmil", "recipe": {"a_late": {}, "b_early": {}}, "training": {"epochs": 1}}, tmp_path
        )
    places = ["tiles", "tokens", "vectors", "penalty", "after"]
    assert calls[:2] == [("b_early", "begin"), ("a_late", "begin")]
    assert calls[2:12] == [(name, place) for place in places for name in ("b_early", "a_late")]
    assert {"a_late_seen", "b_early_seen"} <= set(result.history)


def test_what_is_trained_beside_the_model_moves_but_is_not_kept(tmp_path: Path) -> None:
    seen: list[float] = []

    class Beside(Recipe):
        Settings = NoSettings

        def begin(self, run: Run) -> None:
            self.extra = torch.nn.Linear(128, 1)

        def penalty(self, step: Step) -> torch.Tensor:
            seen.append(self.extra.weight.detach().sum().item())
            return self.extra(step.vectors).square().mean()

    with registered(beside=Beside):
        result, _, _ = run({"aggregator": "abmil", "recipe": {"beside": {}}, "training": {"epochs": 2}}, tmp_path)
    assert seen[0] != seen[-1]
    assert not [name for name in result.tensors if "extra" in name]


def test_averaged_weights_are_judged_and_kept_while_training_goes_on(tmp_path: Path) -> None:
    class Halved(Recipe):
        Settings = NoSettings

        def begin(self, run: Run) -> None:
            self.network, self.live = run.network, []

        def weights(self) -> dict[str, torch.Tensor]:
            state = self.network.state_dict()
            self.live.append(state["head.linear.weight"].abs().sum().item())
            return {k: v / 2 if k == "head.linear.weight" else v.clone() for k, v in state.items()}

    class Plain(Recipe):
        Settings = NoSettings

    training = {"epochs": 3, "epoch": "last"}
    with registered(halved=Halved, plain=Plain):
        halved, _, _ = run({"aggregator": "abmil", "recipe": {"halved": {}}, "training": training}, tmp_path)
        plain, _, _ = run({"aggregator": "abmil", "recipe": {"plain": {}}, "training": training}, tmp_path)
        with pytest.raises(ModelError, match="both average"):
            check_recipes(build_recipes({"halved": {}, "ema": {}}), None, "classification")
    # the same training went on underneath: what is kept is half of what it ended with
    torch.testing.assert_close(halved.tensors["head.linear.weight"] * 2, plain.tensors["head.linear.weight"])


def test_a_front_is_part_of_the_model_that_is_kept(tmp_path: Path) -> None:
    class Shift(Front):
        def __init__(self, dim: int, *, by: float) -> None:
            super().__init__(dim)
            self.bias = torch.nn.Parameter(torch.full((dim,), by))

        def forward(self, batch):
            return batch.with_features(batch.features + self.bias)

    class Shifted(Recipe):
        Settings = NoSettings

        def front(self) -> dict[str, dict[str, Any]]:
            return {"shift": {"by": 0.25}}

    FRONTS.register("shift")(Shift)
    try:
        with registered(shifted=Shifted):
            result, store, test = run(
                {"aggregator": "abmil", "recipe": {"shifted": {}}, "training": {"epochs": 1}}, tmp_path
            )
        assert (result.tensors["front.0.bias"] != 0.25).any()  # trained
        save_tensors(tmp_path / "w.safetensors", result.tensors, result.config)
        model, _ = load_model(tmp_path / "w.safetensors")
        with torch.no_grad():
            again = model.head.predict(model(store.batch(store.rows(test)))[0])
        np.testing.assert_allclose(again["prob_yes"], result.predictions["prob_yes"], rtol=1e-6)
    finally:
        del FRONTS._items["shift"]


def test_one_that_needs_attention_refuses_an_aggregator_without(tmp_path: Path) -> None:
    class Needs(Recipe):
        Settings = NoSettings
        needs_attention = True

    with registered(needs=Needs), pytest.raises(ModelError, match="recipe needs needs attention .* Max has not"):
        run({"aggregator": "max", "recipe": {"needs": {}}, "training": {"epochs": 1}}, tmp_path)


@pytest.mark.parametrize("name", ALONE)
def test_the_head_takes_whatever_half_precision_an_aggregator_leaves(name: str) -> None:
    """As on a GPU: the aggregator under autocast, the loss outside it."""
    torch.manual_seed(0)
    model = MILModel(6, name, {}, {"kind": "classification", "classes": ["a", "b"]}).train()
    targets = {"y": torch.tensor([0, 1])}
    batch = BagBatch.pack([torch.randn(5, 6), torch.randn(20, 6)])
    model.aggregator.start(targets)
    model.aggregator.prepare(lambda most: torch.randn(min(most, 60), 6), 0)
    with torch.autocast("cpu", torch.bfloat16):
        vectors, _ = model.aggregator(batch)
    loss = loss_of_vectors(model.head, targets)
    total = loss(vectors)
    if (own := model.aggregator.penalty(targets, loss)) is not None:
        total = total + own
    total.backward()
    assert total.dtype == torch.float32 and torch.isfinite(total)
