"""SEQUOIA: its mixing against a slow loop, its clusters by the bag alone, planted genes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from models.aggregators.genedata import correlations, planted_genes, train

from histostudy.errors import ModelError
from histostudy.models import clusters
from histostudy.models.aggregators.sequoia import SummaryMixing
from histostudy.models.batch import BagBatch
from histostudy.models.io import load_model, save_model
from histostudy.models.model import MILModel
from histostudy.models.registry import build_aggregator

SMALL = {"clusters": 6, "width": 16, "depth": 2, "heads": 2, "head_width": 8}


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def test_mixing_equals_a_slow_loop_over_heads_and_tokens() -> None:
    torch.manual_seed(0)
    mixing = SummaryMixing(5, 3, 4).double()
    torch.nn.init.normal_(mixing.bias)
    batch = BagBatch.pack([torch.randn(n, 5).double() for n in (1, 4, 7)])
    with torch.no_grad():
        ours = mixing(batch).numpy()
    weights = {name: value.detach().numpy() for name, value in mixing.named_parameters()}
    expected = []
    for start, stop in zip(batch.offsets[:-1], batch.offsets[1:], strict=True):
        x = batch.features[start:stop].numpy()
        heads = []
        for h in range(3):
            rows = slice(4 * h, 4 * h + 4)
            local = gelu(x @ weights["local.weight"][rows].T + weights["local.bias"][rows])
            summary = gelu(x @ weights["summary.weight"][rows].T + weights["summary.bias"][rows]).mean(0)
            both = np.concatenate([local, np.tile(summary, (len(x), 1))], 1)
            heads.append(gelu(both @ weights["combine"][h] + weights["bias"][rows]))
        expected.append(np.concatenate(heads, 1) @ weights["project.weight"].T + weights["project.bias"])
    assert ours == pytest.approx(np.concatenate(expected), abs=1e-10)


@pytest.mark.parametrize("position", [False, True])
def test_neither_order_nor_company_changes_a_vector(position: bool) -> None:
    torch.manual_seed(0)
    model = build_aggregator("sequoia", 5, SMALL | {"position": position}).eval()
    bags = [torch.randn(n, 5) for n in (1, 4, 60, 25)]
    with torch.no_grad():
        together, attention = model(BagBatch.pack(bags))
        alone = torch.cat([model(BagBatch.pack([bag[torch.randperm(len(bag))]]))[0] for bag in bags])
    assert alone.numpy() == pytest.approx(together.numpy(), abs=1e-5)
    assert attention is None


def test_clusters_are_found_once_a_bag(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    real = clusters._lloyd
    monkeypatch.setattr(clusters, "_lloyd", lambda *args: found.append(1) or real(*args))
    model = build_aggregator("sequoia", 5, SMALL)
    bags = [torch.randn(n, 5) for n in (3, 30, 40)]
    for _ in range(4):
        model(BagBatch.pack(bags))
        model(BagBatch.pack(bags[::-1]))
    assert len(found) == 2  # the bag of three is its own tokens
    bags[1][15, 2] += 1e-3
    model(BagBatch.pack(bags))
    assert len(found) == 3


def test_tiles_of_one_cluster_weigh_no_more_for_their_number() -> None:
    """Copies of a tile change the mean of the tiles but not the tokens."""
    torch.manual_seed(0)
    model = build_aggregator("sequoia", 5, SMALL).eval()
    bag = torch.randn(6, 5) * 10
    many = torch.cat([bag, bag[:1].expand(50, -1)])
    with torch.no_grad():
        one, two = model(BagBatch.pack([bag]))[0], model(BagBatch.pack([many]))[0]
    assert two.numpy() == pytest.approx(one.numpy(), abs=1e-4)


def test_every_weight_learns_and_a_saved_model_predicts_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    head = {"kind": "regression", "columns": ["a", "b"]}
    model = MILModel(5, "sequoia", SMALL | {"position": True, "width": None, "heads": 1}, head)
    batch = BagBatch.pack([torch.randn(n, 5) for n in (3, 30)])
    model(batch)[0].square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    save_model(tmp_path / "w.safetensors", model.eval())
    again, _ = load_model(tmp_path / "w.safetensors")
    with torch.no_grad():
        assert torch.equal(again(batch)[0], model(batch)[0])


def test_linked_genes_are_found_and_no_others() -> None:
    data = planted_genes(0)
    options = SMALL | {"clusters": 10}
    r = correlations(data, train(data, "sequoia", options, range(140), epochs=12), range(140, 200))
    assert r[data.linked].min() > 0.5
    assert abs(r[~data.linked].mean()) < 0.1


def test_unlinked_genes_stay_at_chance() -> None:
    data = planted_genes(2, share=0.0)
    options = SMALL | {"clusters": 10}
    r = correlations(data, train(data, "sequoia", options, range(140), epochs=8), range(140, 200))
    assert abs(r.mean()) < 0.1


@pytest.mark.parametrize("options", [{"clusters": 0}, {"width": 0}, {"position": 1}, {"dropout": 1}])
def test_wrong_options(options: dict) -> None:
    with pytest.raises(ModelError, match="wrong option"):
        build_aggregator("sequoia", 4, options)
