"""One run: planted effects are found, nulls are not, and the test part is left alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from training.trainingdata import PackedBags, folds_of, outcome_for, planted_bags, study_of

from histostudy.errors import ConfigError, ModelError
from histostudy.models.batch import BagBatch, segment_mean
from histostudy.models.registry import AGGREGATORS, Aggregator, DrawTiles
from histostudy.study import Training
from histostudy.training.epoch import Epoch
from histostudy.training.guard import LeakError, TestPart
from histostudy.training.loop import RunResult, train_run
from histostudy.training.recipes.base import RECIPES, Recipe, Step
from histostudy.training.tilestore import TileStore

CLASSES = {"name": "t", "kind": "classification", "target": "y"}


def run(bags: dict, y: np.ndarray, settings: dict, tmp_path: Path, seed: int = 0, **outcome: object) -> RunResult:
    ids = sorted(bags)
    study = study_of(CLASSES, {"m": settings}, tmp_path)
    truth = outcome_for(study, ids, y=y.astype(float), classes=["no", "yes"], **outcome)
    part = folds_of(ids, y, 3, seed=seed).query("fold == 0").groupby("part")["patient_id"].apply(list)
    store = TileStore.of(PackedBags.of(bags))
    return train_run(
        study.models["m"], store, truth, part["train"], part["val"], TestPart(truth, part["test"]), seed=seed
    )


def auc(result: RunResult) -> float:
    from sklearn.metrics import roc_auc_score

    return roc_auc_score(result.predictions["truth"] == "yes", result.predictions["prob_yes"])


@pytest.mark.parametrize("aggregator", ["mean", "max", "abmil"])
def test_planted_effect_is_found(aggregator: str, tmp_path: Path) -> None:
    bags, y = planted_bags(150, 0)
    settings = {"aggregator": aggregator, "training": {"lr": 3e-3, "batch_size": 16, "epochs": 30}}
    result = run(bags, y, settings, tmp_path)
    assert auc(result) > 0.8
    assert result.predictions[["prob_no", "prob_yes"]].sum(axis=1).to_numpy() == pytest.approx(1)
    assert result.history["best"].sum() == 1
    assert result.history.loc[result.history["best"], "val_loss"].item() == result.history["val_loss"].min()


def test_permuted_labels_are_at_chance(tmp_path: Path) -> None:
    bags, y = planted_bags(150, 1)
    areas = []
    for seed in range(4):
        shuffled = np.random.default_rng(seed).permutation(y)
        settings = {"aggregator": "abmil", "training": {"epochs": 8, "min_epochs": 2, "patience": 3}}
        areas.append(auc(run(bags, shuffled, settings, tmp_path, seed=seed)))
    assert abs(np.mean(areas) - 0.5) < 0.12


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    bags, y = planted_bags(60, 2)
    settings = {"aggregator": "abmil", "training": {"epochs": 3, "max_tiles": 8}}
    first, again, other = (run(bags, y, settings, tmp_path, seed=s) for s in (0, 0, 1))
    assert first.predictions.equals(again.predictions)
    assert all(torch.equal(first.tensors[k], again.tensors[k]) for k in first.tensors)
    assert not torch.equal(
        first.tensors["aggregator.attention.score.weight"], other.tensors["aggregator.attention.score.weight"]
    )


def test_test_patients_change_nothing_that_is_fitted(tmp_path: Path) -> None:
    bags, y = planted_bags(60, 3)
    settings = {"aggregator": "abmil", "training": {"epochs": 3}}
    first = run(bags, y, settings, tmp_path)
    tested = set(first.predictions["patient_id"])
    spoiled = {p: x * 100 + 7 if p in tested else x for p, x in bags.items()}
    wrong = np.array([1 - v if p in tested else v for p, v in zip(sorted(bags), y, strict=True)])
    ids = sorted(bags)
    study = study_of(CLASSES, {"m": settings}, tmp_path)
    truth = outcome_for(study, ids, y=wrong.astype(float), classes=["no", "yes"])
    part = folds_of(ids, y, 3).query("fold == 0").groupby("part")["patient_id"].apply(list)
    again = train_run(
        study.models["m"], TileStore.of(PackedBags.of(spoiled)), truth, part["train"], part["val"],
        TestPart(truth, part["test"]), seed=0,
    )  # fmt: skip
    assert all(torch.equal(first.tensors[k], again.tensors[k]) for k in first.tensors)


def test_standardised_by_the_tiles_of_the_training_part(tmp_path: Path) -> None:
    bags, y = planted_bags(40, 4)
    store = TileStore.of(PackedBags.of(bags))
    ids = sorted(bags)[::3]
    mean, spread = store.moments(store.rows(ids))
    tiles = np.concatenate([bags[p] for p in ids]).astype("float32").astype(float)
    assert mean.numpy() == pytest.approx(tiles.mean(0), abs=1e-12)
    assert spread.numpy() == pytest.approx(tiles.std(0), abs=1e-12)


def test_guard_keeps_the_labels_until_the_predictions_are_in(tmp_path: Path) -> None:
    study = study_of(CLASSES, {"m": {"aggregator": "mean"}}, tmp_path)
    truth = outcome_for(study, ["a", "b", "c"], y=[0.0, 1.0, 1.0], classes=["no", "yes"])
    test = TestPart(truth, ["b", "c"])
    good = pd.DataFrame({"patient_id": ["b", "c"], "prob_yes": [0.1, 0.2]})
    with pytest.raises(LeakError, match="before the predictions"):
        _ = test.targets
    with pytest.raises(LeakError, match="each test patient once"):
        test.submit(good[::-1])
    with pytest.raises(LeakError, match="finite"):
        test.submit(good.assign(prob_yes=np.nan))
    assert list(test.submit(good)["truth"]) == ["yes", "yes"]
    assert test.targets["y"].tolist() == [1, 1]
    with pytest.raises(LeakError, match="predicted once"):
        test.submit(good)


def test_recipes_add_to_the_loss_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    seen = []

    @dataclass(frozen=True)
    class WatchSettings:
        weight: float = 0.0

    class Watch(Recipe):
        Settings = WatchSettings

        def penalty(self, step: Step) -> torch.Tensor:
            seen.append((len(step.batch), step.moment.progress))
            return self.settings.weight * step.maps.square().sum()

    RECIPES.register("watch")(Watch)
    try:
        bags, y = planted_bags(45, 5)
        plain = {"aggregator": "abmil", "training": {"epochs": 2}}
        base = run(bags, y, plain, tmp_path)
        result = run(bags, y, {**plain, "recipe": {"watch": {"weight": 5.0}}}, tmp_path)
        assert seen[0][1] == 0
        assert 0.5 < seen[-1][1] < 1
        assert not torch.equal(base.tensors["head.linear.weight"], result.tensors["head.linear.weight"])
        with pytest.raises(ModelError, match="unknown key 'wait'"):
            run(bags, y, {**plain, "recipe": {"watch": {"wait": 1}}}, tmp_path)
        with pytest.raises(ConfigError, match="unknown recipe 'aem2'"):
            run(bags, y, {**plain, "recipe": {"aem2": {}}}, tmp_path)
    finally:
        del RECIPES._items["watch"]


def test_batches_draw_tiles_and_leave_out_who_has_none() -> None:
    bags = {"a": np.ones((5, 2)), "b": np.zeros((0, 2)), "c": np.full((3, 2), 2.0)}
    store = TileStore.of(PackedBags.of(bags))
    assert store.patient_ids == ["a", "c"]
    with pytest.raises(ModelError, match="patient b has no tiles"):
        store.rows(["b"])
    batch = store.batch(store.rows(["c", "a"]), max_tiles=4, generator=torch.Generator())
    assert batch.lengths.tolist() == [3, 4]
    assert batch.features[:3].eq(2).all()
    assert batch.features[3:].eq(1).all()


def test_diverging_training_is_one_line(tmp_path: Path) -> None:
    bags, y = planted_bags(40, 6)
    bags = {p: x * 1e30 for p, x in bags.items()}
    with pytest.raises(ModelError, match="lower training.lr"):
        run(bags, y, {"aggregator": "mean", "options": {"hidden": 4}, "training": {"lr": 1e30}}, tmp_path)


SURVIVAL = {"name": "t", "kind": "survival", "time": "a", "event": "b", "horizons": [100]}


def survival_run(settings: dict, tmp_path: Path, n: int = 60, seed: int = 0, spoil: str = "") -> RunResult:
    """Bags whose first feature is the log hazard; `spoil` shuffles the outcome of a part, as if it were unknown."""
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=n)
    bags = {f"p{i:03d}": rng.normal(size=(6, 4)) + np.eye(4)[0] * 2 * hidden[i] for i in range(n)}
    time, event = rng.exponential(300 * np.exp(-hidden)) + 1, rng.random(n) < 0.7
    ids = sorted(bags)
    part = folds_of(ids, event, 3).query("fold == 0").groupby("part")["patient_id"].apply(list)
    if spoil:
        rows = np.isin(ids, part[spoil])
        time[rows], event[rows] = time[rows][::-1] + 50, True
    study = study_of(SURVIVAL, {"m": settings}, tmp_path)
    truth = outcome_for(study, ids, time=time, event=event)
    return train_run(
        study.models["m"], TileStore.of(PackedBags.of(bags)), truth, part["train"], part["val"],
        TestPart(truth, part["test"]), seed=seed, days=[100, 300],
    )  # fmt: skip


def same(one: RunResult, two: RunResult) -> bool:
    return all(torch.equal(one.tensors[k], two.tensors[k]) for k in one.tensors)


@pytest.mark.parametrize("epoch", ["inner", "last"])
def test_the_last_epoch_is_trained_on_the_inner_part_too(epoch: str, tmp_path: Path) -> None:
    # seven epochs, whichever is the best of them
    settings = {"aggregator": "abmil", "training": {"epochs": 7, "patience": 50, "epoch": epoch, "loss": "cox"}}
    result = survival_run(settings, tmp_path)
    inner = epoch == "inner"
    assert (result.info["n_train"], result.info["n_val"]) == ((32, 8) if inner else (40, 0))
    assert len(result.history) == 7
    assert result.history["val_loss"].notna().all() == inner
    if inner:
        assert result.info["best_epoch"] == result.history["val_loss"].idxmin() + 1
    else:
        assert result.info["best_epoch"] == 7 and result.history["best"].tolist() == [False] * 6 + [True]
    # nobody's outcome but the test part's is without effect
    assert same(result, survival_run(settings, tmp_path, spoil="test"))
    assert not torch.equal(
        result.tensors["head.linear.weight"],
        survival_run(settings, tmp_path, spoil="train").tensors["head.linear.weight"],
    )
    spoilt = survival_run(settings, tmp_path, spoil="val")
    moved = not torch.equal(result.tensors["head.linear.weight"], spoilt.tensors["head.linear.weight"])
    if epoch == "last":
        assert moved
    elif spoilt.info["best_epoch"] == result.info["best_epoch"]:
        assert not moved  # the inner part says which epoch, never a weight


def test_no_epochs_leave_the_weights_as_they_were_drawn(tmp_path: Path) -> None:
    off = {"aggregator": "abmil", "training": {"epochs": 0, "loss": "cox"}}
    result = survival_run(off, tmp_path)
    assert result.history["epoch"].tolist() == [0] and result.info["best_epoch"] == 0
    assert result.info["parameters"] > 0 and np.isfinite(result.predictions.drop(columns="patient_id")).all(axis=None)
    spoilt = survival_run(off, tmp_path, spoil="train")
    fitted = {"head.baseline_times", "head.baseline_hazard"}  # of the prediction, not of the score
    assert all(torch.equal(result.tensors[k], spoilt.tensors[k]) for k in set(result.tensors) - fitted)
    assert not same(result, survival_run(off, tmp_path, seed=1))
    linear = survival_run({"aggregator": "mean", "training": {"epochs": 0}}, tmp_path)
    assert linear.predictions["risk"].nunique() == 1  # an untrained linear model is the prior


@pytest.mark.parametrize("loss", ["nll", "cox", "rank"])
def test_a_trace_holds_one_prediction_an_epoch_and_ends_with_the_submitted_one(loss: str, tmp_path: Path) -> None:
    training = {"epochs": 4, "epoch": "last", "loss": loss, "lr": 0.01}
    plain = survival_run({"aggregator": "abmil", "training": training}, tmp_path)
    traced = survival_run({"aggregator": "abmil", "training": training | {"trace": True}}, tmp_path)
    assert plain.epochs is None and traced.epochs is not None
    assert plain.predictions.equals(traced.predictions) and same(plain, traced)  # looking changes nothing
    table = traced.epochs
    assert list(table.columns) == ["epoch", "patient_id", "risk", "time", "event"]
    assert table.groupby("epoch").size().to_dict() == dict.fromkeys([1, 2, 3, 4], len(traced.predictions))
    last = table[table["epoch"] == 4].reset_index(drop=True)
    columns = ["patient_id", "risk", "time", "event"]
    pd.testing.assert_frame_equal(last[columns], traced.predictions[columns])
    first = table[table["epoch"] == 1]["risk"].to_numpy()
    assert (first != last["risk"].to_numpy()).any()


def test_a_trace_goes_on_after_the_stop_and_keeps_the_inner_parts_epoch(tmp_path: Path) -> None:
    training = {"epochs": 12, "patience": 1, "min_epochs": 1, "lr": 0.05, "loss": "cox"}
    stopped = survival_run({"aggregator": "abmil", "training": training}, tmp_path)
    traced = survival_run({"aggregator": "abmil", "training": training | {"trace": True}}, tmp_path)
    assert len(stopped.history) < 12 and len(traced.history) == 12 and traced.epochs["epoch"].max() == 12
    assert traced.history["best"].sum() == 1
    best = traced.info["best_epoch"]
    assert best == traced.history.loc[traced.history["val_loss"].idxmin(), "epoch"]
    kept = traced.epochs[traced.epochs["epoch"] == best]["risk"].to_numpy()
    np.testing.assert_array_equal(kept, traced.predictions["risk"].to_numpy())


@pytest.mark.parametrize(("aggregator", "epochs"), [("mean", 5), ("abmil", 0), ("mean", 0)])
def test_without_epochs_there_is_nothing_to_trace(aggregator: str, epochs: int, tmp_path: Path) -> None:
    result = survival_run({"aggregator": aggregator, "training": {"epochs": epochs, "trace": True}}, tmp_path)
    assert result.epochs is None and len(result.predictions) == 20


def test_a_trace_of_classes(tmp_path: Path) -> None:
    bags, y = planted_bags(45, 5)
    result = run(bags, y, {"aggregator": "abmil", "training": {"epochs": 2, "trace": True}}, tmp_path)
    assert list(result.epochs.columns) == ["epoch", "patient_id", "prob_no", "prob_yes", "truth"]


def drawn(settings: dict, targets: dict[str, torch.Tensor], epochs: int = 60) -> np.ndarray:
    """How often each patient is drawn an epoch."""
    n = len(next(iter(targets.values())))
    model = Training(**settings)
    step = Epoch(None, None, list(range(n)), targets, None, model, torch.Generator().manual_seed(0), [])  # type: ignore[arg-type]
    return sum(np.bincount(step._order().numpy(), minlength=n) for _ in range(epochs)) / epochs


def test_balanced_sampling_draws_every_class_alike() -> None:
    y = torch.tensor([0] * 45 + [1] * 10 + [2] * 5)
    often = drawn({"sampling": "balanced"}, {"y": y})
    assert [often[y == k].sum() for k in range(3)] == pytest.approx([20, 20, 20], rel=0.08)
    assert (drawn({}, {"y": y}) == 1).all()


def test_balanced_sampling_draws_every_interval_and_event_alike() -> None:
    time = torch.cat([torch.arange(1.0, 41), torch.full((20,), 100.0)])
    event = torch.cat([torch.ones(40), torch.zeros(20)])  # 2 intervals with events, one with censored ones
    often = drawn({"sampling": "balanced", "bins": 2}, {"time": time, "event": event})
    early = (time < 20.5) & (event > 0)
    groups = [early, (event > 0) & ~early, event == 0]
    assert [often[group.numpy()].sum() for group in groups] == pytest.approx([20, 20, 20], rel=0.08)


def test_balanced_sampling_of_numbers_is_refused() -> None:
    with pytest.raises(ModelError, match="balanced sampling is for classes and survival; set `sampling: shuffle`"):
        drawn({"sampling": "balanced"}, {"y": torch.zeros(5, 1)})


def test_balanced_training_is_deterministic_and_learns(tmp_path: Path) -> None:
    from sksurv.metrics import concordance_index_censored

    training = {"epochs": 4, "sampling": "balanced", "lr": 0.01, "epoch": "last"}
    one, two = (survival_run({"aggregator": "abmil", "training": training}, tmp_path, n=150) for _ in range(2))
    assert same(one, two)
    shuffled = survival_run({"aggregator": "abmil", "training": training | {"sampling": "shuffle"}}, tmp_path, n=150)
    assert not same(one, shuffled)
    frame = one.predictions
    assert concordance_index_censored(frame["event"].to_numpy(bool), frame["time"], frame["risk"])[0] > 0.6


def test_constant_and_cosine_schedules(tmp_path: Path) -> None:
    training = {"epochs": 4, "epoch": "last", "lr": 0.01}
    rates = {
        name: survival_run({"aggregator": "abmil", "training": training | {"schedule": name}}, tmp_path).history["lr"]
        for name in ("constant", "cosine")
    }
    assert (rates["constant"] == 0.01).all()
    assert rates["cosine"].to_numpy() == pytest.approx(0.005 * (1 + np.cos(np.pi * np.arange(4) / 4)))


def probed(weight: float, tmp_path: Path) -> tuple[list[tuple], RunResult]:
    """A run of an aggregator that notes every call, and the notes."""
    calls: list[tuple] = []

    @dataclass(frozen=True)
    class Empty:
        pass

    class Probe(Aggregator):
        Options = Empty

        def __init__(self, dim_in: int, options: Empty) -> None:
            super().__init__(dim_in, options)
            self.dim_out = dim_in
            self.map = torch.nn.Linear(dim_in, dim_in)
            self.register_buffer("centre", torch.zeros(dim_in))

        def start(self, targets: Mapping[str, torch.Tensor]) -> None:
            calls.append(("start", {k: len(v) for k, v in targets.items()}))

        def prepare(self, draw: DrawTiles, seed: int) -> None:
            tiles = draw(64)
            self.centre.copy_(tiles.mean(0))
            calls.append(("prepare", tuple(tiles.shape), float(tiles.mean()), float(tiles.std()), seed))

        def forward(self, batch: BagBatch) -> tuple[torch.Tensor, None]:
            calls.append(("forward", self.training, len(batch), self.moment.progress, self.moment.epoch))
            return self.map(segment_mean(batch.features, batch)), None

        def penalty(self, targets: Mapping[str, torch.Tensor], loss: object) -> torch.Tensor:
            calls.append(("penalty", self.training, {k: len(v) for k, v in targets.items()}))
            return weight * self.map.weight.square().sum()

    AGGREGATORS.register("probe")(Probe)
    try:
        settings = {"aggregator": "probe", "training": {"epochs": 2, "batch_size": 8, "lr": 0.01, "weight_decay": 0.0}}
        return calls, survival_run(settings, tmp_path, seed=7)
    finally:
        del AGGREGATORS._items["probe"]


def test_an_aggregator_is_started_prepared_and_told_the_moment(tmp_path: Path) -> None:
    calls, result = probed(0.0, tmp_path)
    assert [call[0] for call in calls[:3]] == ["start", "prepare", "forward"]
    assert calls[0] == ("start", {"time": 32, "event": 32})  # of the training part alone
    _, shape, mean, spread, seed = calls[1]
    assert shape == (64, 4) and seed == 7 and abs(mean) < 0.3 and abs(spread - 1) < 0.3  # standardised
    assert result.tensors["aggregator.centre"].any()
    trained = [i for i, call in enumerate(calls) if call[0] == "forward" and call[1]]
    assert len(trained) == 2 * 4  # 32 patients, 8 a step
    for number, i in enumerate(trained):
        assert calls[i][2:] == (8, pytest.approx(number / 8), pytest.approx(number / 4))
        assert calls[i + 1] == ("penalty", True, {"time": 8, "event": 8})
    assert sum(call[0] == "penalty" for call in calls) == len(trained)  # never when predicting


def test_the_penalty_is_in_the_gradient_and_not_in_the_reported_loss(tmp_path: Path) -> None:
    free, held = (probed(weight, tmp_path)[1] for weight in (0.0, 10.0))
    sizes = [float(result.tensors["aggregator.map.weight"].square().sum()) for result in (free, held)]
    assert sizes[1] < 0.95 * sizes[0]
    assert abs(held.history["train_loss"] - free.history["train_loss"]).max() < 1  # the penalty is above 10


def test_balanced_sampling_does_not_spoil_the_calibration(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    n = 240
    share = rng.random(n)
    bags = {f"p{i:03d}": rng.normal(size=(6, 4)) + share[i] for i in range(n)}
    ids = sorted(bags)
    time = rng.exponential(3000 * np.exp(-share), n) + 1
    event = time < 700
    time = np.minimum(time, 700.0)
    task = {"name": "t", "kind": "survival", "time": "t", "event": "e", "horizons": [600]}
    training = {"sampling": "balanced", "epochs": 15, "epoch": "last"}
    study = study_of(task, {"m": {"aggregator": "abmil", "training": training}}, tmp_path)
    outcome = outcome_for(study, ids, time=time, event=event)
    store = TileStore.of(PackedBags.of(bags))
    result = train_run(
        study.models["m"], store, outcome, ids[:160], [], TestPart(outcome, ids[160:]), seed=0, days=[600]
    )
    died = float(((time[160:] <= 600) & event[160:]).mean())
    assert 1 - result.predictions["surv_600"].mean() == pytest.approx(died, abs=0.08)


def test_the_bias_of_the_head_starts_where_the_study_says(tmp_path: Path) -> None:
    task = {"name": "t", "kind": "classification", "target": "y"}
    ids = [f"p{i:02d}" for i in range(40)]
    store = TileStore.of(PackedBags.of({p: np.zeros((2, 3)) for p in ids}))
    y = np.array([1.0] * 10 + [0.0] * 30)
    share = {}
    for start in ("prior", "zero"):
        models = {"m": {"aggregator": "abmil", "training": {"epochs": 0, "start": start}}}
        study = study_of(task, models, tmp_path)
        outcome = outcome_for(study, ids, y=y, classes=["no", "yes"])
        result = train_run(study.models["m"], store, outcome, ids, [], TestPart(outcome, ids), seed=0)
        share[start] = float(result.tensors["head.linear.bias"].diff())
    assert share["zero"] == 0 and share["prior"] < -0.5


def test_a_parameter_may_be_spared_the_weight_decay() -> None:
    from histostudy.training.loop import _optimiser

    plain, spared, fixed = (torch.nn.Parameter(torch.ones(1), requires_grad=k < 2) for k in range(3))
    spared._no_weight_decay = True
    groups = _optimiser([plain, spared, fixed], Training(weight_decay=0.1)).param_groups
    assert [(len(g["params"]), g["weight_decay"]) for g in groups] == [(1, 0.1), (1, 0.0)]
