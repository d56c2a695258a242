"""Late fusion: gated bilinear against an explicit Kronecker product, and what is forwarded to the base."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from models.multimodal.tables import BOTH, RNA, patients
from torch import nn

from histostudy.errors import ModelError
from histostudy.models.model import MILModel
from histostudy.models.multimodal.fusion import GatedBilinear, LateFusion
from histostudy.models.registry import Aggregator, Moment, build_aggregator


def test_gated_bilinear_equals_an_explicit_kronecker_product() -> None:
    torch.manual_seed(0)
    fuse = GatedBilinear(8, scale=4).double().eval()
    one, two = torch.randn(3, 8, dtype=torch.float64), torch.randn(3, 8, dtype=torch.float64)
    result = fuse(one, two)
    for i in range(3):
        narrow = []
        for k, own in enumerate((one[i], two[i])):
            h = (fuse.inner[k].weight @ own + fuse.inner[k].bias).relu()
            z = torch.stack([one[i] @ form @ two[i] for form in fuse.gate[k].weight]) + fuse.gate[k].bias
            u = (fuse.outer[k][0].weight @ (torch.sigmoid(z) * h) + fuse.outer[k][0].bias).relu()
            narrow.append(torch.cat([u, u.new_ones(1)]))
        products = torch.kron(narrow[0], narrow[1])
        assert products.shape == (9,)
        hidden = (fuse.products[0].weight @ products + fuse.products[0].bias).relu()
        joined = (fuse.join[0].weight @ torch.cat([hidden, *narrow]) + fuse.join[0].bias).relu()
        assert torch.allclose(result[i], joined, atol=1e-12)


class Watched(Aggregator):
    """A base that notes what it is told."""

    @dataclass(frozen=True)
    class Options:
        pass

    def __init__(self) -> None:
        super().__init__(5, self.Options())
        self.dim_out = 5
        self.told: list = []

    def forward(self, batch):
        pooled = torch.stack([batch.features[batch.segments == i].mean(0) for i in range(len(batch))])
        return pooled, batch.features.new_full((len(batch.features),), 0.25)

    def start(self, targets):
        self.told.append(("start", targets["y"].tolist()))

    def set_sources(self, models, mean, scale):
        self.told.append(("set_sources", len(models), float(mean.sum()), float(scale.sum())))

    def prepare(self, draw, seed):
        self.told.append(("prepare", draw(3).shape, seed))

    def penalty(self, targets, loss):
        return targets["y"].sum()


def test_the_base_is_told_what_a_model_is_told_and_keeps_its_penalty_and_attention() -> None:
    base = Watched()
    model = LateFusion(base, (RNA,), width=8).double()
    assert model.multimodal
    assert not model.linear
    assert model.uses_tiles
    model.start({"y": torch.tensor([1, 0])})
    model.set_sources([], torch.zeros(5), torch.ones(5))
    model.prepare(lambda most: torch.zeros(most, 5), 7)
    assert base.told == [("start", [1, 0]), ("set_sources", 0, 0.0, 5.0), ("prepare", (3, 5), 7)]
    model.moment = Moment(0.5, 3.0)
    assert base.moment == model.moment == Moment(0.5, 3.0)
    assert model.penalty({"y": torch.tensor([1.0, 2.0])}, None) == 3
    vectors, attention = model(patients([2, 4]))
    assert vectors.shape == (2, 8)
    assert attention.tolist() == [0.25] * 6


def test_a_linear_model_fused_with_tables_is_no_longer_solved_as_one() -> None:
    base = build_aggregator("mean", 5)
    assert base.linear
    model = MILModel(5, "mean", {}, {"kind": "classification", "classes": ["a", "b"]}, BOTH)
    assert isinstance(model.aggregator, LateFusion)
    assert not model.aggregator.linear
    assert model.head.linear.weight.any()


def test_wrong_fusions_are_one_line() -> None:
    base = Watched()
    with pytest.raises(ModelError, match="unknown fusion 'sum'; known: concat, bilinear"):
        LateFusion(base, (RNA,), "sum")
    base.scores = True
    with pytest.raises(ModelError, match="Watched predicts by itself and cannot be fused"):
        LateFusion(base, (RNA,))


@pytest.mark.parametrize("how", ["concat", "bilinear"])
def test_the_product_of_a_table_and_a_bag_is_learned(how: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(LateFusion(build_aggregator("mean", 5), (RNA,), how, width=16, dropout=0.0))
    head = nn.Linear(16, 1)
    batch = patients([3] * 300)
    batch = batch.with_features(batch.features.float())
    bag = batch.features.view(300, 3, 5).mean(1)[:, 0] * 3**0.5
    y = (bag * batch.modalities["rna"].values[:, 0].float()).sign()
    optimiser = torch.optim.Adam([*model.parameters(), *head.parameters()], 5e-3)
    for _ in range(120):
        loss = nn.functional.soft_margin_loss(head(model(batch)[0])[:, 0], y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert ((head(model(batch)[0])[:, 0].sign() == y).float().mean()) > 0.9
