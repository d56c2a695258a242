"""What tests of recipes share: the benchmark's bags, one step by hand, and small trainings."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from histostudy.models.batch import BagBatch
from histostudy.models.model import MILModel
from histostudy.models.registry import Moment
from histostudy.study import Training
from histostudy.training.determinism import deterministic
from histostudy.training.epoch import Epoch, loss_of_vectors
from histostudy.training.loop import _fit, raw_predictions
from histostudy.training.recipes.base import Recipe, Run, Step, build_recipes, check_recipes
from histostudy.training.tilestore import TileStore

CLASSES = {"kind": "classification", "classes": ["no", "yes"]}
SMALL = {"hidden": 32, "attention": 16, "dropout": 0.0}


def _bags_module() -> ModuleType:
    path = Path(__file__).parents[3] / "benchmarks" / "bags.py"
    spec = importlib.util.spec_from_file_location("benchmark_bags", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


planted = _bags_module()


def store_of(bags: list[tuple[np.ndarray, np.ndarray]]) -> TileStore:
    offsets = np.cumsum([0, *(len(x) for x, _ in bags)]).tolist()
    return TileStore(
        torch.from_numpy(np.concatenate([x for x, _ in bags])), offsets, [str(i) for i in range(len(bags))]
    )


def random_batch(*lengths: int, dim: int = 32, seed: int = 0) -> BagBatch:
    generator = torch.Generator().manual_seed(seed)
    return BagBatch.pack([torch.randn(n, dim, generator=generator) for n in lengths])


def network_of(aggregator: str = "abmil", head: Mapping[str, Any] = CLASSES, **options: Any) -> MILModel:
    return MILModel(32, aggregator, (SMALL if aggregator == "abmil" else {}) | options, head)


def recipes_of(network: MILModel, **settings: Mapping[str, Any]) -> list[Recipe]:
    recipes = build_recipes(settings)
    check_recipes(recipes, network.aggregator, network.head.config["kind"])
    return recipes


def begun(network: MILModel, name: str, bags: TileStore | None = None, **settings: Any) -> Recipe:
    """A recipe of the network, begun; plain training before it is refused."""

    def fit(epochs: int) -> None:
        raise AssertionError(f"{epochs} epochs of plain training")

    (recipe,) = recipes_of(network, **{name: settings})
    store = bags if bags is not None else store_of(planted.sb2(0, 8)[0])
    rows = list(range(len(store.patient_ids)))
    targets = {"y": torch.tensor(rows) % 2}
    recipe.begin(Run(network, store, rows, targets, Training(epochs=10), 0, fit))
    return recipe


def step_of(network: MILModel, batch: BagBatch, progress: float = 0.0, seed: int = 0) -> Step:
    targets = {"y": torch.arange(len(batch)) % 2}
    generator = torch.Generator().manual_seed(seed)
    rows = list(range(len(batch)))
    loss = loss_of_vectors(network.head, targets)
    return Step(network.train(), batch, rows, targets, Moment(progress, 10 * progress), generator, loss)


def through(step: Step, *recipes: Recipe) -> Tensor:
    """The step's loss by the loop's own code, with its penalties."""
    epoch = Epoch(step.network, store_of(planted.sb2(0, 2)[0]), [], {}, None, Training(), step.generator, recipes)  # type: ignore[arg-type]
    return epoch._loss(step) + epoch._penalties(step)


def trained(
    recipe: Mapping[str, Mapping[str, Any]],
    bags: list[tuple[np.ndarray, np.ndarray]],
    labels: np.ndarray,
    seed: int = 0,
    aggregator: str = "abmil",
    **training: Any,
) -> tuple[MILModel, pd.DataFrame]:
    """A model of these bags, its last epoch kept, and its history."""
    settings = Training(**({"epochs": 30, "batch_size": 8, "lr": 3e-3, "weight_decay": 1e-5} | training))
    with deterministic(seed):
        network, store = network_of(aggregator), store_of(bags)
        recipes, rows = recipes_of(network, **recipe), list(range(len(bags)))
        network.standardise_by(*store.moments(rows))
        history = _fit(network, store, (rows, {"y": torch.from_numpy(labels)}), None, settings, seed, recipes)
    return network, history


def auc_of(network: MILModel, bags: list[tuple[np.ndarray, np.ndarray]], labels: np.ndarray) -> float:
    raw = raw_predictions(network, store_of(bags), range(len(bags)))
    return float(roc_auc_score(labels, (raw[:, 1] - raw[:, 0]).numpy()))
