"""Bags whose class is an order: do two markers lie within a few tiles of each other, or far apart? And training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from histostudy.models.batch import BagBatch
from histostudy.models.model import MILModel

Bags = tuple[BagBatch, Tensor]


def near_or_far(seed: int, bags: int, *, plane: int = 0, effect: bool = True) -> Bags:
    """Noise with two marker tiles, the second close behind the first (class 1) or far (0) in file order.

    In a square `plane` wide the second lies below the first instead, to its right (class 1) or left (0). Every bag
    holds the same tiles up to noise, so that their places are all there is to see. Without `effect`, classes are drawn.
    """
    g = torch.Generator().manual_seed(seed)
    count = plane**2 or 16
    rows, columns = torch.arange(count) // (plane or 1), torch.arange(count) % (plane or 1)
    y = torch.arange(bags) % 2
    tiles = 0.3 * torch.randn(bags, count, 3, generator=g)
    for bag, near in zip(tiles, y.bool().tolist(), strict=True):
        while True:
            one, two = torch.randint(count, (2,), generator=g).sort().values.tolist()
            right = int(columns[two] - columns[one])
            if (
                (int(rows[two]) > int(rows[one]) and (right > 0 if near else right < 0))
                if plane
                else (two - one == 1 if near else two - one > 5)
            ):
                break
        bag[one, 0] += 2
        bag[two, 1] += 2
    if not effect:
        y = torch.randint(2, (bags,), generator=g)
    return BagBatch.pack(list(tiles), [100 * torch.stack([columns, rows], 1)] * bags if plane else None), y


def auc(name: str, options: dict[str, Any], train: Bags, test: Bags, *, steps: int = 60, lr: float = 5e-3) -> float:
    """Area under the curve on `test` after so many steps on all of `train`."""
    from sklearn.metrics import roc_auc_score

    torch.manual_seed(0)
    model = MILModel(3, name, options, {"kind": "classification", "classes": ["far", "near"]})
    model.standardise_by(train[0].features.mean(0), train[0].features.std(0))
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr)
    for _ in range(steps):
        loss = torch.nn.functional.cross_entropy(model(train[0])[0], train[1])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        raw = model.eval()(test[0])[0]
    return float(roc_auc_score(test[1], raw[:, 1] - raw[:, 0]))
