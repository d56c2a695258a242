"""HistAug in a training step: which tiles are changed and how, what is refused, what it is good for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training.recipes.recipedata import network_of, random_batch, recipes_of, step_of, store_of
from training.recipes.runs import CLASSES, TRAINING
from training.trainingdata import PackedBags, outcome_for, study_of

from histostudy.encoders.augment import CODES, sample
from histostudy.errors import ModelError
from histostudy.features.pairs import Pairs, PairSettings
from histostudy.study import Training
from histostudy.training.guard import TestPart
from histostudy.training.loop import RunResult, train_run
from histostudy.training.recipes.base import Run
from histostudy.training.recipes.histaug import HistAug, HistAugSettings
from histostudy.training.tilestore import TileStore

QUICK = {"steps": 5, "width": 8, "blocks": 1}
HUE = list(CODES).index(0) + 4


def pairs_of(patients: Sequence[str], dim: int = 32, intensity: float = 0.2, seed: int = 0, each: int = 20) -> Pairs:
    """Features of noise; the hue, of a stain that every tile has, moves the second one by up to 4."""
    rng = np.random.default_rng(seed)
    n = each * len(patients)
    drawn = sample(n, rng, intensity)
    features = rng.normal(size=(n, dim)).astype(np.float32)
    augmented = features.copy()
    augmented[:, 1] += 8 * drawn.values[:, HUE] / intensity
    return Pairs(
        features, augmented, drawn.values, drawn.positions, np.repeat(np.array(patients), each), reach=0.5 * intensity
    )


def begun(**settings: object) -> tuple[HistAug, list[list[str]]]:
    """The recipe begun on ten patients, and who was asked for."""
    network = network_of()
    network.standardise_by(torch.full((32,), 3.0), torch.full((32,), 2.0))
    (recipe,) = recipes_of(network, histaug=QUICK | settings)
    store = store_of([(np.zeros((3, 32), np.float32), np.zeros(3))] * 10)
    asked: list[list[str]] = []

    def pairs(ids: Sequence[str]) -> Pairs:
        asked.append(list(ids))
        return pairs_of(ids, intensity=recipe.settings.intensity)

    recipe.begin(Run(network, store, [1, 4, 7], {}, Training(), 5, lambda epochs: None, pairs))
    recipe.network = network
    return recipe, asked


def test_the_training_patients_are_asked_for_and_no_others() -> None:
    recipe, asked = begun()
    assert asked == [["1", "4", "7"]]
    assert recipe.extra is None and not any(p.requires_grad for p in recipe.generator.parameters())


@pytest.mark.parametrize("mode", ["slide", "tile"])
def test_tiles_are_replaced_by_the_generators_of_the_drawn_changes(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, _ = begun(mode=mode, probability=0.6)
    batch = random_batch(*range(1, 21))
    step = step_of(recipe.network, batch)
    drawn: list[object] = []
    draw = recipe.draw
    monkeypatch.setattr(recipe, "draw", lambda n: drawn.append(draw(n)) or drawn[-1])
    recipe.tiles(step)
    assert step.batch.features.shape == batch.features.shape and step.batch is not batch
    moved = (step.batch.features != batch.features).any(1)
    bags = [bool(moved[batch.segments == i].any()) for i in range(20)]
    assert bags == [bool(moved[batch.segments == i].all()) for i in range(20)]
    assert 5 < sum(bags) < 20
    expected, used = batch.features.clone(), 0
    for i in (i for i in range(20) if bags[i]):
        rows = batch.segments == i
        count = int(rows.sum()) if mode == "tile" else 1
        values, positions = (torch.from_numpy(a[used : used + count]) for a in (drawn[0].values, drawn[0].positions))
        used += count
        told = [x.expand(int(rows.sum()), -1) for x in (values, positions)]
        raw = batch.features[rows] * 2 + 3  # the encoder's scale
        expected[rows] = (recipe.generator(raw, *told) - 3) / 2
    assert used == len(drawn[0])
    torch.testing.assert_close(step.batch.features, expected)
    assert recipe.log()["histaug_changed"] == sum(bags) / 20
    assert math.isnan(recipe.log()["histaug_changed"])


def test_nothing_is_changed_in_evaluation_mode() -> None:
    recipe, _ = begun(probability=1.0)
    step = step_of(recipe.network, random_batch(3, 4))
    recipe.network.eval()
    before = step.batch
    recipe.tiles(step)
    assert step.batch is before


def test_half_precision_is_kept_out_and_given_back() -> None:
    recipe, _ = begun(probability=1.0)
    batch = random_batch(3, 4)
    step = step_of(recipe.network, batch)
    whole = step_of(recipe.network, batch)
    twin, _ = begun(probability=1.0)
    with torch.autocast("cpu", torch.bfloat16):
        recipe.tiles(step)
    twin.tiles(whole)
    torch.testing.assert_close(step.batch.features, whole.batch.features, rtol=0, atol=0)


def test_what_it_needs_is_said() -> None:
    network = network_of()
    (recipe,) = recipes_of(network, histaug=QUICK)
    store = store_of([(np.zeros((3, 32), np.float32), np.zeros(3))])
    run = Run(network, store, [0], {}, Training(), 0, lambda epochs: None)
    with pytest.raises(ModelError, match="needs pairs of tiles .* rule `pairs`"):
        recipe.begin(run)
    with pytest.raises(ModelError, match="pairs 9 wide"):
        recipe.begin(replace(run, pairs=lambda ids: pairs_of(ids, 9)))
    with pytest.raises(ModelError, match=r"changes up to 0.5 for .* intensity 0.2"):
        recipe.begin(replace(run, pairs=lambda ids: pairs_of(ids, intensity=1.0)))


@pytest.mark.parametrize(
    "wrong",
    [{"probability": 0}, {"probability": 1.1}, {"mode": "bag"}, {"intensity": 2}, {"intensity": "0.2"}, {"tiles": 0},
     {"versions": 1.5}, {"steps": 0}, {"held_out": 1}],
)  # fmt: skip
def test_settings_that_cannot_be(wrong: dict) -> None:
    with pytest.raises(ModelError, match=f"wrong option: {next(iter(wrong))} "):
        HistAugSettings(**wrong)


def test_the_pairs_defaults_are_those_of_the_recipe() -> None:
    settings = HistAugSettings()
    assert PairSettings.of({"histaug": {}}) == PairSettings(settings.intensity, settings.tiles, settings.versions)


def stained(n: int, seed: int, sites_tell: bool) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Bags whose first feature tells the class a little; the second is a stain that tells it in training alone."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    bags = {}
    for i in range(n):
        stain = (2 * y[i] - 1 if sites_tell else rng.choice([-1, 1])) * 1.5
        x = rng.normal(size=(15, 8))
        x[:, 0] += 0.7 * (2 * y[i] - 1)
        x[:, 1] += stain
        bags[f"{'train' if sites_tell else 'test'}{i:03d}"] = x
    return bags, y


def confounded(recipe: dict, tmp_path: Path, pairs: Callable[[Sequence[str]], Pairs] | None) -> tuple[float, RunResult]:
    from sklearn.metrics import roc_auc_score

    seen, y = stained(60, 0, True)
    unseen, z = stained(200, 1, False)
    model = {"aggregator": "abmil", "recipe": recipe, "training": TRAINING | {"epoch": "last", "epochs": 12}}
    study = study_of(CLASSES, {"m": model}, tmp_path)
    label = dict(zip([*seen, *unseen], np.concatenate([y, z]).astype(float), strict=True))
    ids = sorted(label)
    truth = outcome_for(study, ids, y=[label[p] for p in ids], classes=["no", "yes"])
    store = TileStore.of(PackedBags.of(seen | unseen))
    result = train_run(
        study.models["m"], store, truth, list(seen), [], TestPart(truth, list(unseen)), seed=0, pairs=pairs
    )
    frame = result.predictions
    return float(roc_auc_score(frame["truth"] == "yes", frame["prob_yes"])), result


def test_a_stain_that_misleads_is_unlearnt(tmp_path: Path) -> None:
    plain, _ = confounded({}, tmp_path, None)
    recipe = {"histaug": {"probability": 1.0, "steps": 150, "width": 16, "blocks": 2, "lr": 5e-3}}
    changed, result = confounded(recipe, tmp_path, lambda ids: pairs_of(ids, 8))
    row = result.history.iloc[-1]
    assert row["histaug_generated"] > row["histaug_original"] + 0.05
    assert row["histaug_changed"] == 1
    assert changed > plain + 0.1, (plain, changed)
