"""The loop: one run from bags and a split to predictions and weights."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from histostudy.errors import ModelError
from histostudy.models.heads import head_config
from histostudy.models.model import MILModel
from histostudy.training.determinism import deterministic
from histostudy.training.guard import TestPart
from histostudy.training.linear import fit_linear
from histostudy.training.recipes import Recipe, build_recipes
from histostudy.training.targets import head_names, targets_of
from histostudy.training.tilestore import TileStore

if TYPE_CHECKING:
    import pandas as pd

    from histostudy.cohort.outcomes import Outcome
    from histostudy.study import Model, Training

logger = logging.getLogger(__name__)

#: In a cohort of few patients the batch shrinks until an epoch has this many steps, but not below a size.
STEPS_AN_EPOCH = 8
SMALLEST_BATCH = 8


@dataclass
class RunResult:
    """What a run leaves.

    Attributes
    ----------
    predictions : DataFrame
        One row a test patient: truth and prediction.
    tensors, config : dict
        Weights and buffers by name, and what rebuilds the model from them.
    history : DataFrame
        One row an epoch: `epoch`, `lr`, `train_loss`, `val_loss`, `best` (the epoch whose weights were kept).
    info : dict
        Counts: patients of each part, parameters, epochs.
    """

    predictions: pd.DataFrame
    tensors: dict[str, Tensor]
    config: dict[str, Any]
    history: pd.DataFrame
    info: dict[str, Any] = field(default_factory=dict)


def train_run(
    model: Model,
    store: TileStore,
    outcome: Outcome,
    train_ids: Sequence[str],
    val_ids: Sequence[str],
    test: TestPart,
    *,
    seed: int,
    days: Sequence[int] = (),
    threads: int = 1,
) -> RunResult:
    """Train a model on the training part, choose its epoch on the inner part, predict the test part once.

    Everything fitted (standardisation, bins, target moments, weights, the Cox baseline) comes from `train_ids`.
    AdamW with a cosine schedule; the weights kept are those of the epoch with the lowest inner loss. A linear model
    of the mean is solved instead (see `histostudy.training.linear`).

    Parameters
    ----------
    model : histostudy.study.Model
        Aggregator, options, recipe and training settings.
    store : TileStore
        Tiles of all patients.
    outcome : Outcome
        The task's outcome; asked for the training and inner part only.
    train_ids, val_ids : sequence of str
        Training part and inner validation part.
    test : TestPart
        The guard of the test part.
    seed : int
        Of weights, order and dropout.
    days : sequence of int
        Where S(t) is reported (survival).
    threads : int
        CPU threads of torch.

    Raises
    ------
    ModelError
        If an option is wrong, a patient has no tiles, or the loss stops being finite.
    """
    if not train_ids:
        raise ModelError("no patient to train on", todo="use fewer folds")
    with deterministic(seed, threads):
        recipes = build_recipes(model.recipe)
        targets = targets_of(outcome, train_ids)
        head = head_config(outcome.task.kind, model.training.loss, targets, **head_names(outcome, days))
        network = MILModel(store.dim, model.aggregator, model.options, head)
        network.head.start(targets)
        if network.aggregator.linear:
            store = store.means()
        rows = store.rows(train_ids)
        network.standardise_by(*store.moments(rows))
        val_targets = targets_of(outcome, val_ids) if val_ids else {}
        val = (store.rows(val_ids), val_targets) if _can_judge(val_targets) else None
        if network.aggregator.linear and not recipes:
            history = fit_linear(network, store, (rows, targets), val)
        else:
            history = _fit(network, store, (rows, targets), val, model.training, seed, recipes)
        network.head.finish(raw_predictions(network, store, rows), targets)
        predictions = _predict(network, store, test.patient_ids)
        if "risk" in predictions:
            predictions["risk_median_train"] = _predict(network, store, train_ids)["risk"].median()
    kept = history.loc[history["best"], "epoch"]
    info = {
        "n_train": len(train_ids), "n_val": len(val_ids), "n_test": len(test.patient_ids),
        "parameters": network.count_parameters(), "epochs": len(history), "best_epoch": int(kept.iloc[0]),
    }  # fmt: skip
    return RunResult(test.submit(predictions), network.state_dict(), network.config, history, info)


def _fit(
    network: MILModel,
    store: TileStore,
    train: tuple[list[int], dict[str, Tensor]],
    val: tuple[list[int], dict[str, Tensor]] | None,
    settings: Training,
    seed: int,
    recipes: list[Recipe],
) -> pd.DataFrame:
    """Train in place, end with the best epoch's weights, return the history."""
    import pandas as pd

    rows, targets = train
    network.to(store.device)
    targets = {name: value.to(store.device) for name, value in targets.items()}
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
    generator = torch.Generator().manual_seed(seed)
    batch_size = min(settings.batch_size, max(SMALLEST_BATCH, len(rows) // STEPS_AN_EPOCH))
    best, best_state, since = math.inf, None, 0
    history: list[dict[str, Any]] = []
    for epoch in range(settings.epochs):
        lr = settings.lr * 0.5 * (1 + math.cos(math.pi * epoch / settings.epochs))
        for group in optimiser.param_groups:
            group["lr"] = lr
        train_loss = _epoch(
            network,
            store,
            rows,
            targets,
            optimiser,
            batch_size,
            settings.max_tiles,
            generator,
            recipes,
            epoch / settings.epochs,
        )
        val_loss = _loss_of(network, store, *val) if val is not None else math.nan
        if not math.isfinite(train_loss):
            raise ModelError(f"the loss is not finite in epoch {epoch + 1}", todo="lower training.lr")
        history.append({"epoch": epoch + 1, "lr": lr, "train_loss": train_loss, "val_loss": val_loss})
        if val is not None and val_loss < best:
            best, best_state, since = val_loss, copy.deepcopy(network.state_dict()), 0
        else:
            since += 1
        if val is not None and since >= settings.patience and epoch + 1 >= settings.min_epochs:
            break
    if best_state is not None:
        network.load_state_dict(best_state)
    network.eval()
    frame = pd.DataFrame(history)
    chosen = frame["val_loss"].idxmin() if best_state is not None else len(frame) - 1
    frame["best"] = frame.index == chosen
    return frame


def _can_judge(targets: dict[str, Tensor]) -> bool:
    """Whether the inner part can choose an epoch: it has patients, and events where time matters."""
    if not targets:
        return False
    if "event" in targets and not bool((targets["event"] > 0).any()):
        logger.warning("the inner part has no event; the last epoch is kept")
        return False
    return True


def _epoch(
    network: MILModel,
    store: TileStore,
    rows: list[int],
    targets: dict[str, Tensor],
    optimiser: torch.optim.Optimizer,
    batch_size: int,
    max_tiles: int | None,
    generator: torch.Generator,
    recipes: list[Recipe],
    progress: float,
) -> float:
    """One pass over the training part in a drawn order; return its mean loss, without the recipes' penalties."""
    network.train()
    order = torch.randperm(len(rows), generator=generator)
    total = torch.zeros((), dtype=torch.float64, device=store.device)
    for chosen in order.split(batch_size):
        batch = store.batch([rows[i] for i in chosen.tolist()], max_tiles, generator)
        place = chosen.to(store.device)
        with torch.autocast("cuda", torch.bfloat16, enabled=store.device == "cuda"):
            raw, attention = network(batch)
        loss = network.head.loss(raw, {name: value[place] for name, value in targets.items()})
        total += loss.detach().double() * len(chosen)
        for recipe in recipes:
            loss = loss + recipe.penalty(batch, attention, progress)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    return float(total) / len(rows)


@torch.no_grad()
def raw_predictions(network: MILModel, store: TileStore, rows: Sequence[int]) -> Tensor:
    """Raw outputs (n, outputs) on the CPU of patients at `rows`, in float32 without dropout or autocast."""
    network.eval()
    raw = [network(batch)[0].cpu() for batch in store.evaluation_batches(rows)]
    return torch.cat(raw)


def _loss_of(network: MILModel, store: TileStore, rows: list[int], targets: dict[str, Tensor]) -> float:
    raw = raw_predictions(network, store, rows).to(store.device)
    return float(network.head.loss(raw, {name: value.to(store.device) for name, value in targets.items()}))


def _predict(network: MILModel, store: TileStore, patient_ids: Sequence[str]) -> pd.DataFrame:
    """Predict patients; the network ends on the CPU."""
    import pandas as pd

    raw = raw_predictions(network, store, store.rows(patient_ids))
    network.cpu()
    return pd.DataFrame({"patient_id": list(patient_ids)} | network.head.predict(raw))
