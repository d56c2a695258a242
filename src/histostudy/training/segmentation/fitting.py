"""Training a network on batches drawn as it goes; the inner part chooses the epoch."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from histostudy.errors import ModelError

if TYPE_CHECKING:
    from histostudy.study import Training

logger = logging.getLogger(__name__)

Batch = tuple[Tensor, Tensor]
History = list[dict[str, float | int | str]]


class Fitted(NamedTuple):
    """What training left behind: a row an epoch, and the epoch that was kept."""

    history: History
    best: int


def fit(
    network: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    draw: Callable[[np.random.Generator], Batch],
    inner: Sequence[Batch],
    training: Training,
    *,
    steps: int,
    seed: int,
    device: str = "cpu",
    stage: str = "",
) -> Fitted:
    """Train in place with AdamW and keep the weights of the epoch of least inner loss; of equals the first.

    Parameters
    ----------
    network : nn.Module
        Takes the first of a batch, returns what `loss` compares with the second.
    loss : callable
    draw : callable
        Draws a batch; the generator is all that it may take chance from.
    inner : sequence of batches
        Of the inner part, the same at every epoch. Empty: the last epoch is kept.
    training : Training
        epochs, min_epochs, patience, lr, weight_decay, schedule.
    steps : int
        Batches an epoch.
    seed : int
    device, stage : str
        `stage` names the rows of the history.

    Raises
    ------
    ModelError
        If no epoch had a finite inner loss, or, without an inner part, the last one's training loss is not finite.
    """
    rng = np.random.default_rng(seed)
    network.to(device)
    optimiser = torch.optim.AdamW(network.parameters(), lr=training.lr, weight_decay=training.weight_decay)
    least, best, kept = math.inf, 0, copy.deepcopy(network.state_dict())
    history: History = []
    for epoch in range(1, training.epochs + 1):
        network.train()
        total = 0.0
        for step in range(steps):
            done = (epoch - 1 + step / steps) / training.epochs
            rate = training.lr * (0.5 * (1 + math.cos(math.pi * done)) if training.schedule == "cosine" else 1.0)
            for group in optimiser.param_groups:
                group["lr"] = rate
            x, y = draw(rng)
            optimiser.zero_grad()
            value = loss(network(x.to(device)), y.to(device))
            value.backward()
            optimiser.step()
            total += float(value.detach())
        inner_loss = evaluate(network, loss, inner, device)
        row: dict[str, float | int | str] = {"stage": stage, "epoch": epoch, "lr": rate}
        row |= {"train_loss": total / steps, "val_loss": inner_loss}
        if not inner or inner_loss < least:
            least, best, kept = inner_loss, epoch, copy.deepcopy(network.state_dict())
        history.append(row)
        logger.info("%s epoch %d: %.4f, inner %.4f", stage or "training", epoch, total / steps, inner_loss)
        if inner and epoch >= training.min_epochs and epoch - best >= training.patience:
            break
    if history and not (best if inner else math.isfinite(float(history[-1]["train_loss"]))):
        raise ModelError(f"{stage or 'training'} diverged: its loss is not finite", todo="lower training.lr")
    network.load_state_dict(kept)
    network.eval().to("cpu")
    for row in history:
        row["best"] = int(row["epoch"] == best)
    return Fitted(history, best)


def evaluate(
    network: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], batches: Sequence[Batch], device: str
) -> float:
    """Mean loss over batches; NaN of none."""
    network.eval()
    with torch.no_grad():
        values = [float(loss(network(x.to(device)), y.to(device))) for x, y in batches]
    return sum(values) / len(values) if values else math.nan
