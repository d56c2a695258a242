"""Bags of which some tiles bear witness to the class, and a short training for any head."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from histostudy.models.batch import BagBatch
from histostudy.models.model import MILModel
from histostudy.models.registry import Moment

#: Heads by kind, with outcomes for `n` patients.
HEADS: dict[str, dict[str, Any]] = {
    "classification": {"kind": "classification", "classes": ["a", "b", "c"]},
    "survival_nll": {"kind": "survival_nll", "bins": 4, "days": [10]},
    "survival_cox": {"kind": "survival_cox", "days": [10]},
    "regression": {"kind": "regression", "columns": ["one", "two"]},
}


def outcomes(kind: str, n: int, seed: int = 0) -> dict[str, Tensor]:
    """Targets of `n` patients for a head of `HEADS`."""
    g = torch.Generator().manual_seed(seed)
    if kind == "classification":
        return {"y": torch.arange(n) % 3}
    if kind == "regression":
        return {"y": torch.randn(n, 2, generator=g)}
    return {"time": 1 + 100 * torch.rand(n, generator=g), "event": (torch.arange(n) % 3 > 0).float()}


def witnessed(
    seed: int, bags: int, *, share: float = 0.15, dim: int = 16, shift: float = 2.0
) -> tuple[list[Tensor], Tensor]:
    """Bags of 20 to 40 tiles; half are positive, with a share of witnesses moved along three dimensions.

    A vector of each bag's own lies on the other dimensions, for a model to learn by heart.
    """
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(bags) % 2
    found = []
    for label in y:
        n = int(torch.randint(20, 41, (1,), generator=g))
        tiles = torch.randn(n, dim, generator=g)
        tiles[:, 3:] += 0.5 * torch.randn(dim - 3, generator=g)
        if label:
            tiles[: max(2, round(share * n)), :3] += shift
        found.append(tiles[torch.randperm(n, generator=g)])
    return found, y


def head_loss(model: MILModel, targets: Mapping[str, Tensor]) -> Callable[..., Tensor]:
    """The loss of vectors, as the loop gives it to a penalty."""

    def loss(vectors: Tensor, patients: Tensor | None = None) -> Tensor:
        theirs = targets if patients is None else {name: value[patients] for name, value in targets.items()}
        return model.head.loss(model.head(vectors), theirs)

    return loss


def step_loss(model: MILModel, bags: list[Tensor], targets: Mapping[str, Tensor]) -> Tensor:
    """Loss and penalty of a batch in training."""
    vectors, _ = model.aggregator(model.standardised(BagBatch.pack(bags)))
    loss = head_loss(model, targets)
    own = model.aggregator.penalty(targets, loss)
    return loss(vectors) if own is None else loss(vectors) + own


def trained(
    name: str, options: dict[str, Any], bags: list[Tensor], targets: Mapping[str, Tensor], head: dict[str, Any],
    *, epochs: int = 20, lr: float = 2e-3, seed: int = 0,
) -> MILModel:  # fmt: skip
    """Train on batches of 16 with a falling rate."""
    torch.manual_seed(seed)
    tiles = torch.cat(bags)
    model = MILModel(tiles.shape[1], name, options, head)
    model.standardise_by(tiles.mean(0), tiles.std(0))
    model.head.start(targets)
    model.aggregator.start(targets)
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-4)
    model.train()
    for epoch in range(epochs):
        model.aggregator.moment = Moment(epoch / epochs, epoch)
        for group in optimiser.param_groups:
            group["lr"] = lr * 0.5 * (1 + np.cos(np.pi * epoch / epochs))
        for chosen in torch.randperm(len(bags)).split(16):
            theirs = {key: value[chosen] for key, value in targets.items()}
            loss = step_loss(model, [bags[i] for i in chosen], theirs)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model.eval()


@torch.no_grad()
def auroc(model: MILModel, bags: list[Tensor], y: Tensor) -> float:
    """Area under the ROC curve of the last class."""
    from sklearn.metrics import roc_auc_score

    raw = torch.cat([model(BagBatch.pack(bags[i : i + 32]))[0] for i in range(0, len(bags), 32)])
    return float(roc_auc_score(y.numpy(), (raw[:, -1] - raw[:, 0]).numpy()))
