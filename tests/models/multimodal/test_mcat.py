"""MCAT: co-attention against a slow loop, and risk that a gene group looks up in its own kind of tile."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
import torch
from models.multimodal.tables import BOTH, patients

from histostudy.errors import ModelError
from histostudy.models.batch import BagBatch, Modality, ModalityValues
from histostudy.models.multimodal.fusion import LateFusion
from histostudy.models.multimodal.mcat import CoAttention
from histostudy.models.registry import Aggregator, build_aggregator
from histostudy.models.survival import cox_loss

SMALL = {"hidden": 32, "heads": 4, "feedforward": 64, "layers": 1, "dropout": 0.1}


def test_coattention_equals_a_loop() -> None:
    torch.manual_seed(0)
    layer = CoAttention(6).double()
    tiles, tokens = torch.randn(2, 5, 6, dtype=torch.float64), torch.randn(2, 3, 6, dtype=torch.float64)
    mask = torch.arange(5) < torch.tensor([[5], [2]])
    gathered, attention = layer(tiles, mask, tokens)
    p = {name: value.detach().numpy() for name, value in layer.named_parameters()}
    for b, n in enumerate((5, 2)):
        for g in range(3):
            query = p["query.weight"] @ tokens[b, g].numpy()
            scores = [query @ (p["key.weight"] @ tiles[b, i].numpy()) / np.sqrt(6) for i in range(n)]
            weights = np.exp(scores) / np.exp(scores).sum()
            pooled = sum(weights[i] * (p["value.weight"] @ tiles[b, i].numpy()) for i in range(n))
            wanted = p["out.weight"] @ pooled + p["out.bias"]
            assert np.allclose(gathered[b, g].detach().numpy(), wanted, atol=1e-12)
            assert np.allclose(attention[b, g, :n].detach().numpy(), weights, atol=1e-12)
        assert not attention[b, :, n:].any()


def test_the_attention_of_a_tile_is_the_mean_over_groups() -> None:
    torch.manual_seed(0)
    model = build_aggregator("mcat", 5, {"hidden": 8, "heads": 2}, modalities=BOTH).double().eval()
    batch = patients([3, 6])
    tiles, mask = batch.with_features(model.embed(batch.features)).padded()
    rows = model.coattention(tiles, mask, model.tokens(batch))[1]
    assert rows.shape == (2, 5, 6)
    assert torch.allclose(rows.sum(2), torch.ones(2, 5, dtype=torch.float64))
    assert torch.allclose(model(batch)[1][:3], rows[0].mean(0)[:3])


def test_wrong_options_are_one_line() -> None:
    with pytest.raises(ModelError, match="hidden is a multiple of heads"):
        build_aggregator("mcat", 5, {"hidden": 10}, modalities=BOTH)


# Six kinds of tile, each with a grade of its own in every patient; one of six gene groups is high, and the risk is
# the grade of that kind of tile. Neither the tiles alone nor the genes alone tell the grade that counts.
KINDS, DIM, TILES = 6, 16, 18
RNA = Modality("rna", tuple(map(str, range(2 * KINDS))), tuple((2 * g, 2 * g + 1) for g in range(KINDS)))


class Cohort(NamedTuple):
    tiles: torch.Tensor
    kinds: torch.Tensor
    active: torch.Tensor
    genes: torch.Tensor
    time: torch.Tensor
    event: torch.Tensor

    def batch(self, rows: torch.Tensor) -> BagBatch:
        packed = BagBatch.pack(list(self.tiles[rows]))
        packed.modalities = {"rna": ModalityValues(self.genes[rows], torch.ones(len(rows), dtype=torch.bool))}
        return packed


def cohort(n: int, seed: int, null: bool = False) -> Cohort:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    row = torch.arange(n)
    active = torch.randint(KINDS, (n,), generator=generator)
    genes = 0.3 * normal(n, KINDS, 2)
    genes[row, active] += 2
    grade = torch.randint(2, (n, KINDS), generator=generator) * 2.0 - 1
    kinds = torch.randint(KINDS, (n, TILES), generator=generator)
    tiles = 2 * torch.eye(DIM)[kinds] + 0.3 * normal(n, TILES, DIM)
    tiles[:, :, -1] += 2 * grade.gather(1, kinds)
    risk = 2.5 * grade[row, active]
    if null:
        risk = risk[torch.randperm(n, generator=generator)]
    time = torch.empty(n).exponential_(1, generator=generator) / risk.exp()
    censored = torch.empty(n).exponential_(0.3, generator=generator)
    values = (genes - genes.mean(0)).flatten(1) / genes.flatten(1).std(0)
    return Cohort(tiles, kinds, active, values, torch.minimum(time, censored), (time <= censored).float())


def fit(aggregator: Aggregator, train: Cohort, epochs: int = 20) -> torch.nn.Linear:
    head = torch.nn.Linear(aggregator.dim_out, 1)
    optimiser = torch.optim.Adam([*aggregator.parameters(), *head.parameters()], 5e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(train.time)).split(40):
            risk = head(aggregator(train.batch(rows))[0])[:, 0]
            optimiser.zero_grad()
            cox_loss(risk, train.time[rows], train.event[rows]).backward()
            optimiser.step()
    aggregator.eval()
    return head


def build(name: str) -> Aggregator:
    torch.manual_seed(0)
    if name in {"concat", "bilinear"}:
        base = build_aggregator("abmil", DIM, {"hidden": 32, "attention": 16, "dropout": 0.1})
        return LateFusion(base, (RNA,), name, width=32, dropout=0.1)
    options = {"hidden": 32, "width": 32, "output": 32, "dropout": 0.1} if name == "survpath" else SMALL
    return build_aggregator(name, DIM, options, modalities=(RNA,))


@cache
def trained(name: str, null: bool = False) -> tuple[Aggregator, torch.nn.Linear]:
    aggregator = build(name)
    return aggregator, fit(aggregator, cohort(600, seed=1, null=null), epochs=5 if null else 20)


@cache
def concordance(name: str, null: bool = False) -> float:
    """Harrell's c on 400 new patients of a model trained on 600."""
    from sksurv.metrics import concordance_index_censored

    aggregator, head = trained(name, null)
    test = cohort(400, seed=2, null=null)
    with torch.no_grad():
        risk = head(aggregator(test.batch(torch.arange(400)))[0])[:, 0]
    return float(concordance_index_censored(test.event.numpy() > 0, test.time.numpy(), risk.numpy())[0])


@pytest.mark.parametrize("name", ["mcat", "survpath"])
def test_looking_up_the_tiles_of_the_active_group_beats_late_fusion(name: str) -> None:
    assert concordance(name) > 0.7
    assert concordance(name) > concordance("concat") + 0.1
    assert concordance(name) > concordance("bilinear") + 0.05


def test_the_active_group_looks_at_its_own_kind_of_tile() -> None:
    model, test, row = trained("mcat")[0], cohort(200, seed=2), torch.arange(200)
    batch = test.batch(row)
    with torch.no_grad():
        tiles, mask = batch.with_features(model.embed(batch.features)).padded()
        attention = model.coattention(tiles, mask, model.tokens(batch))[1][row, test.active]
    own = test.kinds == test.active[:, None]
    assert own.float().mean() == pytest.approx(1 / 6, abs=0.02)
    assert (attention * own).sum(1).mean() > 0.6


def test_a_transport_plan_without_gradient_does_not_learn_where_to_look() -> None:
    """MOTCat's limit, which the paper does not show: its plan follows likeness alone, and here none is given."""
    assert 0.52 < concordance("motcat") < concordance("mcat") - 0.05


@pytest.mark.parametrize("name", ["mcat", "survpath"])
def test_shuffled_outcomes_stay_at_chance(name: str) -> None:
    assert concordance(name, null=True) == pytest.approx(0.5, abs=0.06)
