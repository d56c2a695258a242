"""The network of tables alone."""

from __future__ import annotations

import pytest
import torch
from models.multimodal.tables import BOTH, patients

from histostudy.errors import ModelError
from histostudy.models.batch import BagBatch, Modality
from histostudy.models.model import MILModel
from histostudy.models.registry import aggregator_kind, build_aggregator


def test_it_needs_no_tiles() -> None:
    assert not aggregator_kind("snn").uses_tiles
    model = build_aggregator("snn", 0, {"width": 6, "blocks": 3}, modalities=BOTH).double().eval()
    batch = patients([2, 3, 1])
    without = BagBatch(batch.features.new_zeros(3, 0), torch.arange(4), modalities=batch.modalities)
    vectors, attention = model(without)
    assert vectors.shape == (3, model.dim_out) == (3, 12)
    assert attention is None
    assert torch.equal(vectors, model(batch)[0])


def test_it_learns_a_planted_gene_and_nothing_from_shuffled_outcomes() -> None:
    torch.manual_seed(0)
    train, test = patients([1] * 400, seed=1), patients([1] * 400, seed=2)

    def accuracy(shuffled: bool) -> float:
        model = build_aggregator("snn", 0, {"width": 32, "blocks": 2}, modalities=BOTH).double()
        head = torch.nn.Linear(64, 1).double()
        y = (train.modalities["rna"].values[:, 4] > 0).double()
        y = y[torch.randperm(400)] if shuffled else y
        optimiser = torch.optim.Adam([*model.parameters(), *head.parameters()], 3e-3)
        for _ in range(60):
            loss = torch.nn.functional.binary_cross_entropy_with_logits(head(model(train)[0])[:, 0], y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        guess = head(model.eval()(test)[0])[:, 0] > 0
        return float((guess == (test.modalities["rna"].values[:, 4] > 0)).double().mean())

    assert accuracy(shuffled=False) > 0.85
    assert abs(accuracy(shuffled=True) - 0.5) < 0.15


def test_wrong_options_are_one_line() -> None:
    with pytest.raises(ModelError, match="blocks is a whole number"):
        build_aggregator("snn", 0, {"blocks": 0}, modalities=BOTH)
    with pytest.raises(ModelError, match="snn needs a modality"):
        build_aggregator("snn", 0)


def test_the_head_is_drawn_as_the_network_is() -> None:
    torch.manual_seed(0)
    modality = Modality("rna", tuple(f"g{k}" for k in range(40)), (tuple(range(40)),))
    head = {"kind": "regression", "columns": [f"y{k}" for k in range(200)]}
    weight = MILModel(0, "snn", {"width": 64}, head, [modality]).head.linear.weight
    assert float(weight.detach().std()) == pytest.approx(64**-0.5, rel=0.03)
