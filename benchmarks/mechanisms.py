"""Aggregators and recipes on planted problems, beside gated ABMIL on the same bags and seeds.

    python benchmarks/mechanisms.py [--seeds 5] [--problem hard_witnesses] [--model abmil_aem] [--out FILE.csv]

Problems: `hard_witnesses` (SB-2 of bags.py: one tile is easy to find, the others are not), `few_bags` (the same with 40
training bags), `everywhere` (every tile of a positive bag is shifted a little: the mean is the best there is), `order`
(the class is how far apart two tiles come in file order), `neighbours` (the class is whether tiles of a kind adjoin on
the lattice) and `null` (hard witnesses, labels drawn anew: whoever differs from 0.5 leaks).

A seed draws the training bags, 300 test bags and the weights; all models see the same. The last of 30 epochs is kept
(of `order`, `neighbours` and every member of an ensemble the one that a fifth of the training bags chooses). auc: of
the test bags; hard: of test bags without an easy witness; tile: AUROC of the attention on which tiles of the positive
bags are witnesses, a mean over bags (a good auc with a tile near 0.5 is a right answer from a wrong map); entropy: of
the attention, over the log of the number of tiles. Differences are paired over seeds: mean, standard
deviation, in how many of the seeds the model is better. ABMIL with twice the epochs is the control of models that train
longer (MHIM: 30 plain epochs first). All models have width 32 and one learning rate a problem, found for nobody.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import torch
from bags import sb2
from sklearn.metrics import roc_auc_score

from histostudy.cohort.outcomes import Outcome
from histostudy.log import progress
from histostudy.models.batch import BagBatch, segment_sum
from histostudy.models.model import MILModel
from histostudy.models.registry import aggregator_kind
from histostudy.studyfile import parse_study
from histostudy.training.guard import TestPart
from histostudy.training.loop import train_run
from histostudy.training.tilestore import TileStore

TESTED = 300
WIDTH = {"hidden": 32, "attention": 16, "heads": 4, "state": 8}

MHIM = {"version": 2, "warmup": 30, "score": "attention"}
ATTENTION_MODELS: dict[str, dict[str, Any]] = {
    name: {"aggregator": name}
    for name in (
        "mean", "max", "abmil", "clam_sb", "clam_mb", "dsmil", "self_vit_mil", "dtfd", "transmil", "rrt", "ilra",
        "wikg",
        "gnn_vitcap", "mixed_magnification", "mambamil", "mamba2d", "lbmamba", "otsurv", "panther", "token_merging",
    )
}  # fmt: skip
RECIPES: dict[str, dict[str, Any]] = {
    "abmil_twice": {"aggregator": "abmil", "training": {"epochs": 60}},
    "abmil_aem": {"aggregator": "abmil", "recipe": {"aem": {}}},
    "abmil_mhim": {"aggregator": "abmil", "recipe": {"mhim": MHIM}},
    "abmil_mhim_v1": {"aggregator": "abmil", "recipe": {"mhim": MHIM | {"version": 1}}},
    "abmil_mhim_no_mask": {"aggregator": "abmil", "recipe": {"mhim": MHIM | {"high": 1e-6, "keep_fraction": 1.0}}},
    "abmil_packmil": {"aggregator": "abmil", "recipe": {"packmil": {}}},
    "abmil_subsample": {"aggregator": "abmil", "recipe": {"subsample": {}}},
    "abmil_instance_dropout": {"aggregator": "abmil", "recipe": {"instance_dropout": {}}},
    "abmil_mixup": {"aggregator": "abmil", "recipe": {"mixup": {}}},
    "abmil_ema": {"aggregator": "abmil", "recipe": {"ema": {}}},
    "abmil_swa": {"aggregator": "abmil", "recipe": {"swa": {}}},
    "abmil_ensemble": {"aggregator": "abmil", "recipe": {"ensemble": {"members": 5}}, "training": {"epoch": "inner"}},
}


@dataclass
class Bags:
    """Tiles (N, D) of each bag, which of them tell (or None), where they lie (or None), and the labels."""

    tiles: list[np.ndarray]
    labels: np.ndarray
    telling: list[np.ndarray] | None = None
    coords: list[np.ndarray] | None = None

    def __add__(self, other: Bags) -> Bags:
        both = None if self.coords is None or other.coords is None else self.coords + other.coords
        return Bags(self.tiles + other.tiles, np.concatenate([self.labels, other.labels]), None, both)


def hard_witnesses(seed: int, n: int, hard_only: bool = False) -> Bags:
    bags, labels = sb2(seed, n, hard_only)
    return Bags([tiles for tiles, _ in bags], labels, [which for _, which in bags])


def everywhere(seed: int, n: int, hard_only: bool = False) -> Bags:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    tiles = []
    for label in labels:
        bag = rng.normal(size=(int(rng.integers(40, 81)), 32)).astype(np.float32)
        bag[:, 4:] += 0.5 * rng.normal(size=28)
        bag[:, 1:4] += 0.14 * label
        tiles.append(bag)
    return Bags(tiles, labels)


def order(seed: int, n: int, hard_only: bool = False) -> Bags:
    """Two marked tiles of 20: one behind the other, or more than five apart."""
    rng = np.random.default_rng(seed)
    labels, tiles = np.arange(n) % 2, []
    for label in labels:
        bag = 0.3 * rng.normal(size=(20, 6)).astype(np.float32)
        while True:
            one, two = sorted(rng.choice(20, 2, replace=False).tolist())
            if two - one == 1 if label else two - one > 5:
                break
        bag[one, 0] += 2
        bag[two, 1] += 2
        tiles.append(bag)
    return Bags(tiles, labels)


def neighbours(seed: int, n: int, hard_only: bool = False) -> Bags:
    """A lattice of 6 x 6 with two tiles of a kind in every second row: adjoining, or apart."""
    rng = np.random.default_rng(seed)
    labels, tiles, coords = np.arange(n) % 2, [], []
    for label in labels:
        bag = 0.3 * rng.normal(size=(36, 6)).astype(np.float32)
        for row in range(0, 6, 2):
            first = int(rng.integers(5 if label else 3))
            second = first + 1 if label else int(rng.integers(first + 3, 6))
            bag[[6 * row + first, 6 * row + second], 0] += 3
        places = np.stack(np.divmod(np.arange(36), 6)[::-1], 1) * 448
        mixed = rng.permutation(36)
        tiles.append(bag[mixed])
        coords.append(places[mixed])
    return Bags(tiles, labels, None, coords)


def null(seed: int, n: int, hard_only: bool = False) -> Bags:
    bags = hard_witnesses(seed, n)
    bags.labels = np.random.default_rng(seed + 1).permutation(bags.labels)
    bags.telling = None
    return bags


@dataclass
class Problem:
    """Bags, how many to train on, and the models that are tried."""

    draw: Callable[..., Bags]
    train: int
    models: dict[str, dict[str, Any]]
    training: dict[str, Any]


SHORT = {"epochs": 30, "lr": 3e-3, "batch_size": 2, "epoch": "last"}
CHOSEN = {"epochs": 30, "patience": 30, "lr": 3e-3, "batch_size": 16}
ORDERED: dict[str, dict[str, Any]] = {
    "abmil": {"aggregator": "abmil"},
    "transmil": {"aggregator": "transmil"},
    "mambamil": {"aggregator": "mambamil"},
    "mambamil_forward": {"aggregator": "mambamil", "options": {"scan": "forward"}},
    "lbmamba": {"aggregator": "lbmamba"},
}
PLACED: dict[str, dict[str, Any]] = {
    "abmil": {"aggregator": "abmil"},
    "transmil_square": {"aggregator": "transmil"},
    "transmil_coords": {"aggregator": "transmil", "options": {"grid": "coords"}},
    "mamba2d": {"aggregator": "mamba2d"},
    "mixed_magnification": {"aggregator": "mixed_magnification"},
}
EVERYONE = ATTENTION_MODELS | RECIPES
SOME = {name: EVERYONE[name] for name in (
    "abmil", "mean", "clam_sb", "dtfd", "transmil", "mambamil", "abmil_twice", "abmil_aem", "abmil_mhim",
    "abmil_packmil", "abmil_mixup", "abmil_instance_dropout", "abmil_ensemble",
)}  # fmt: skip
PROBLEMS = {
    "hard_witnesses": Problem(hard_witnesses, 100, EVERYONE, SHORT),
    "few_bags": Problem(hard_witnesses, 40, {"abmil": EVERYONE["abmil"], "mean": EVERYONE["mean"]} | RECIPES, SHORT),
    "everywhere": Problem(everywhere, 100, SOME, SHORT),
    "order": Problem(order, 300, ORDERED, CHOSEN),
    "neighbours": Problem(neighbours, 160, PLACED, CHOSEN),
    "null": Problem(null, 100, SOME, SHORT),
}


def say(line: str = "") -> None:
    sys.stdout.write(line + "\n")


def narrow(model: dict[str, Any], problem: Problem) -> dict[str, Any]:
    """A model of the benchmark's width, trained as the problem says."""
    known = {field.name for field in fields(aggregator_kind(model["aggregator"]).Options)}
    width = {name: value for name, value in WIDTH.items() if name in known}
    if model["aggregator"] == "abmil":
        width["heads"] = 1
    return {
        **model,
        "options": width | model.get("options", {}) if model["aggregator"] != "mean" else {},
        "training": problem.training | model.get("training", {}),
    }


def store_of(bags: Bags) -> TileStore:
    """Bags as a run reads them."""
    offsets = np.cumsum([0, *(len(bag) for bag in bags.tiles)])
    coords = None if bags.coords is None else torch.from_numpy(np.concatenate(bags.coords))
    ids = [f"b{i:05d}" for i in range(len(bags.tiles))]
    return TileStore(torch.from_numpy(np.concatenate(bags.tiles)), offsets.tolist(), ids, coords=coords)


@torch.no_grad()
def predicted(network: MILModel, bags: Bags) -> tuple[np.ndarray, np.ndarray | None, BagBatch]:
    """Score of each bag, and attention of each tile."""
    store = store_of(bags)
    batch = store.batch(range(len(bags.tiles)))
    raw, attention = network.eval()(batch)
    return (raw[:, 1] - raw[:, 0]).numpy(), None if attention is None else attention.numpy(), batch


def one_run(problem: Problem, model: dict[str, Any], seed: int) -> dict[str, float]:
    """Train a model on a seed's bags, and measure it."""
    train, test = problem.draw(100 + seed, problem.train), problem.draw(900 + seed, TESTED)
    every = train + test
    store = store_of(every)
    study = parse_study({
        "study": "benchmark", "cohort": {"name": "benchmark", "simulate": {}},
        "tasks": [{"name": "t", "kind": "classification", "target": "y"}], "models": {"m": narrow(model, problem)},
    })  # fmt: skip
    ids = np.array(store.patient_ids, dtype=object)
    truth = Outcome(study.tasks[0], ids, every.labels.astype(float), adjust=pd.DataFrame(index=ids), classes=["0", "1"])
    inner = np.arange(problem.train) % 10 >= 8  # as many of both classes
    start = time.perf_counter()
    result = train_run(
        study.models["m"], store, truth, ids[: problem.train][~inner].tolist(), ids[: problem.train][inner].tolist(),
        TestPart(truth, ids[problem.train :].tolist()), seed=seed,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    out = {"auc": roc_auc_score(result.predictions["truth"] == "1", result.predictions["prob_1"]), "seconds": seconds}
    network = rebuilt(result)
    if problem.draw is hard_witnesses:
        hard = problem.draw(1900 + seed, TESTED, hard_only=True)
        out["hard"] = roc_auc_score(hard.labels, predicted(network, hard)[0])
    attention, batch = predicted(network, test)[1:]
    if attention is not None:
        weights = torch.from_numpy(attention).double().clamp(min=1e-12)
        entropy = -segment_sum(weights * weights.log(), batch) / batch.lengths.double().log()
        out["entropy"] = float(entropy.mean())
        if test.telling is not None:
            parts = np.split(attention, batch.offsets[1:-1].numpy())
            maps = [(w, a) for w, a in zip(test.telling, parts, strict=True) if w.any()]
            out["tile"] = float(np.mean([roc_auc_score(w, a) for w, a in maps]))
    return out


def rebuilt(result: Any) -> MILModel:
    """The network of a run, as it would be read from the disk."""
    from histostudy.models.io import load_model, save_tensors

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_tensors(path, result.tensors, result.config)
        return load_model(path)[0]  # type: ignore[return-value]


def table_of(runs: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds, and the difference from ABMIL paired over seeds."""
    control = runs[runs["model"] == "abmil"].set_index(["problem", "seed"])["auc"]
    rows = []
    for (problem, model), mine in runs.groupby(["problem", "model"], sort=False):
        apart = (mine.set_index(["problem", "seed"])["auc"] - control).dropna()
        row = {"problem": problem, "model": model, "auc": mine["auc"].mean(), "sd": mine["auc"].std()}
        row |= {"difference": apart.mean(), "difference_sd": apart.std()}
        row["better"] = f"{int((apart > 0).sum())}/{len(apart)}"
        for name in ("hard", "tile", "entropy", "seconds"):
            row[name] = mine[name].mean() if name in mine else math.nan
        rows.append(row)
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--problem", action="append", choices=PROBLEMS)
    parser.add_argument("--model", action="append")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    plan = [
        (name, model, seed)
        for name in given.problem or PROBLEMS
        for model in PROBLEMS[name].models
        if given.model is None or model in given.model or model == "abmil"
        for seed in range(given.seeds)
    ]
    rows = []
    for name, model, seed in progress(plan, "runs", total=len(plan)):
        problem = PROBLEMS[name]
        rows.append({"problem": name, "model": model, "seed": seed} | one_run(problem, problem.models[model], seed))
    runs = pd.DataFrame(rows)
    if given.out is not None:
        runs.to_csv(given.out, index=False)
    for name, part in table_of(runs).groupby("problem", sort=False):
        say(f"\n{name}: {given.seeds} seeds")
        say(part.drop(columns="problem").to_string(index=False, float_format="%.3f", na_rep=""))


if __name__ == "__main__":
    main()
