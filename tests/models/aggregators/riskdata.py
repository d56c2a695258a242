"""Survival of patients whose risk is the share of one planted type of tile, among junk; and a short training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from histostudy.models.batch import BagBatch
from histostudy.models.model import MILModel
from histostudy.models.registry import Moment
from histostudy.models.survival import cox_loss


@dataclass
class Cohort:
    """Bags, what was seen of each patient, and the true log-hazard."""

    bags: list[Tensor]
    time: Tensor
    event: Tensor
    risk: Tensor

    def concordance(self, risk: Tensor) -> float:
        """Harrell's c of a risk (n,)."""
        from sksurv.metrics import concordance_index_censored

        return float(concordance_index_censored(self.event.numpy() > 0, self.time.numpy(), risk.numpy())[0])


def planted_risk(
    seed: int, kinds: Tensor, shares: Tensor, *, patients: int = 250, slope: float = 6.0, junk: float = 0.0,
    junk_scale: float = 8.0, noise: float = 0.3, tiles: int = 50,
) -> Cohort:  # fmt: skip
    """Tiles are of K kinds (K, D); a patient u in (0, 1) has them by ``shares[0] (1 - u) + shares[1] u``.

    The log-hazard is `slope` u; a share `junk` of the tiles is noise far from every kind.
    """
    g = torch.Generator().manual_seed(seed)
    u = torch.rand(patients, generator=g)
    bags = []
    for level in u:
        n = int(torch.randint(tiles * 3 // 4, tiles * 5 // 4, (1,), generator=g))
        kind = torch.multinomial(shares[0] * (1 - level) + shares[1] * level, n, replacement=True, generator=g)
        bag = kinds[kind] + noise * torch.randn(n, kinds.shape[1], generator=g)
        aside = torch.rand(n, generator=g) < junk
        bag[aside] = junk_scale * torch.randn(int(aside.sum()), kinds.shape[1], generator=g)
        bags.append(bag)
    risk = slope * (u - 0.5)
    death = -torch.rand(patients, generator=g).log() / risk.exp()
    censored = -2 * death.median() * torch.rand(patients, generator=g).log()
    return Cohort(bags, torch.minimum(death, censored), (death <= censored).float(), risk)


def fitted(
    name: str, options: dict[str, Any], train: Cohort, *, epochs: int = 20, lr: float = 1e-3, seed: int = 0
) -> MILModel:
    """Train by Cox's loss on batches of 32 patients."""
    torch.manual_seed(seed)
    tiles = torch.cat(train.bags)
    model = MILModel(tiles.shape[1], name, options, {"kind": "survival_cox", "days": [1]})
    model.standardise_by(tiles.mean(0), tiles.std(0))
    drawn = torch.randperm(len(tiles), generator=torch.Generator().manual_seed(seed))
    model.aggregator.prepare(lambda most: (tiles[drawn[:most]] - model.mean) / model.scale, seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-4)
    for epoch in range(epochs):
        model.train()
        model.aggregator.moment = Moment(epoch / epochs, epoch)
        for chosen in torch.randperm(len(train.bags)).split(32):
            raw, _ = model(BagBatch.pack([train.bags[i] for i in chosen]))
            loss = cox_loss(raw[:, 0], train.time[chosen], train.event[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model.eval()


@torch.no_grad()
def harrell(model: MILModel, test: Cohort) -> float:
    """Harrell's c on a cohort."""
    return test.concordance(model(BagBatch.pack(test.bags))[0][:, 0])
