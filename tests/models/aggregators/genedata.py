"""Synthetic gene expression: every gene has a level, some follow a latent feature of the patient's mean tile."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from histostudy.models.batch import BagBatch
from histostudy.models.model import MILModel


@dataclass
class Genes:
    """Bags and log-expression of patients, and which genes are linked to the bags."""

    bags: list[Tensor]
    y: Tensor
    linked: np.ndarray


def planted_genes(seed: int, patients: int = 200, genes: int = 40, share: float = 0.2, dim: int = 12) -> Genes:
    """Gene levels N(0, 3); `share` of the genes follows the shift of all of a patient's tiles in one direction."""
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=patients)
    way = rng.normal(size=dim)
    way /= np.linalg.norm(way)
    bags = [rng.normal(size=(rng.integers(6, 24), dim)) + u * way for u in latent]
    linked = np.arange(genes) < share * genes
    slope = np.where(linked, rng.choice([-1.0, 1.0], genes), 0.0)
    y = rng.normal(0, 3, genes) + latent[:, None] * slope + rng.normal(0, 0.5, (patients, genes))
    return Genes([torch.from_numpy(b).float() for b in bags], torch.from_numpy(y).float(), linked)


def correlations(data: Genes, model: MILModel, tested: range) -> np.ndarray:
    """Pearson r of each gene over the tested patients."""
    model.eval()
    with torch.no_grad():
        raw = model(BagBatch.pack([data.bags[i] for i in tested]))[0].numpy()
    truth = data.y.numpy()[list(tested)]
    return np.array([np.corrcoef(raw[:, g], truth[:, g])[0, 1] for g in range(truth.shape[1])])


def train(
    data: Genes, aggregator: str, options: dict, trained: range, epochs: int = 30, lr: float = 3e-3, seed: int = 0
) -> MILModel:
    """A small loop of Adam, as the package's own but without an inner part."""
    torch.manual_seed(seed)
    head = {"kind": "regression", "columns": [f"g{k}" for k in range(data.y.shape[1])]}
    model = MILModel(data.bags[0].shape[1], aggregator, options, head)
    y = data.y[list(trained)]
    model.head.start({"y": y})
    tiles = torch.cat([data.bags[i] for i in trained])
    model.standardise_by(tiles.mean(0), tiles.std(0))
    adam = torch.optim.Adam(model.parameters(), lr=lr, weight_decay=1e-3)
    for _ in range(epochs):
        model.train()
        for some in torch.randperm(len(trained)).split(25):
            batch = BagBatch.pack([data.bags[trained[i]] for i in some.tolist()])
            loss = model.head.loss(model(batch)[0], {"y": y[some]})
            adam.zero_grad()
            loss.backward()
            adam.step()
    return model.eval()
