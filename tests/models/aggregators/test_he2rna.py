"""HE2RNA: top-k means against a slow loop; the first step is the training mean; planted genes are found."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models.aggregators.genedata import correlations, planted_genes, train

from histostudy.errors import ModelError
from histostudy.models.aggregators import he2rna
from histostudy.models.aggregators.he2rna import top_means, top_weights
from histostudy.models.batch import BagBatch, segment_mean
from histostudy.models.model import MILModel
from histostudy.models.registry import build_aggregator


def slow(scores: np.ndarray, offsets: np.ndarray, ks: list[int]) -> np.ndarray:
    rows = []
    for start, stop in zip(offsets[:-1], offsets[1:], strict=True):
        falling = -np.sort(-scores[start:stop], axis=0)
        rows.append(np.mean([falling[: min(k, stop - start)].mean(0) for k in ks], axis=0))
    return np.array(rows)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    ks=st.lists(st.integers(1, 15), min_size=1, max_size=4),
    seed=st.integers(0, 99),
)
def test_top_means_equal_a_slow_loop(lengths: list[int], ks: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    # scores far below zero: a padded zero would win if it were ever chosen
    scores = [torch.from_numpy(rng.normal(-50, 3, (n, 4))) for n in lengths]
    batch = BagBatch.pack(scores)
    means, chosen = top_means(batch.features, batch, ks)
    assert means.numpy() == pytest.approx(slow(batch.features.numpy(), batch.offsets.numpy(), ks), rel=1e-6)
    weights = top_weights(chosen, batch, ks)
    total = [float(weights[a:b].sum()) for a, b in zip(batch.offsets[:-1], batch.offsets[1:], strict=True)]
    assert total == pytest.approx([4.0] * len(lengths), rel=1e-5)


def test_all_tiles_is_mean_pooling_and_one_is_the_maximum() -> None:
    batch = BagBatch.pack([torch.randn(n, 3).double() for n in (2, 7, 40)])
    means, _ = top_means(batch.features, batch, [40])
    assert means.numpy() == pytest.approx(segment_mean(batch.features, batch).numpy())
    assert top_means(batch.features, batch, [1])[0][2].tolist() == batch.features[9:].max(0).values.tolist()


def model_of(options: dict, outputs: int = 6, seed: int = 0) -> MILModel:
    torch.manual_seed(seed)
    head = {"kind": "regression", "columns": [f"g{k}" for k in range(outputs)]}
    return MILModel(5, "he2rna", {"widths": [8, 8], **options}, head)


def woken(options: dict, outputs: int = 6) -> MILModel:
    """A model whose last layer is no longer zero."""
    model = model_of(options, outputs)
    torch.nn.init.normal_(model.aggregator.score.weight)
    return model.eval()


def test_step_zero_predicts_the_training_mean_of_each_gene() -> None:
    model = model_of({})
    y = torch.randn(20, 6) * 3 + torch.arange(6.0)
    model.head.start({"y": y})
    batch = BagBatch.pack([torch.randn(n, 5) for n in (3, 300)])
    for mode in (True, False):
        predicted = model.train(mode).head.predict(model(batch)[0].detach())
        for k in range(6):
            assert predicted[f"g{k}"] == pytest.approx(np.full(2, y[:, k].mean().item()), abs=1e-5)


def test_neither_order_nor_company_nor_portions_change_a_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    model = woken({})
    bags = [torch.randn(n, 5) for n in (3, 150, 30)]
    with torch.no_grad():
        together, attention = model(BagBatch.pack(bags))
        alone = torch.cat([model(BagBatch.pack([bag[torch.randperm(len(bag))]]))[0] for bag in bags])
        monkeypatch.setattr(he2rna, "SCORES_AT_A_TIME", 2 * 450)
        portions, attention_again = model(BagBatch.pack(bags))
    assert alone.numpy() == pytest.approx(together.numpy(), abs=1e-5)
    assert portions.numpy() == pytest.approx(together.numpy(), abs=1e-6)
    assert attention_again.numpy() == pytest.approx(attention.numpy(), abs=1e-6)
    assert attention.split([3, 150, 30])[1].sum().item() == pytest.approx(1, abs=1e-5)


def test_the_attention_is_the_weight_of_a_tile_in_the_prediction() -> None:
    model = woken({"ks": [1, 4]}, outputs=1)
    bag = torch.randn(9, 5)
    with torch.no_grad():
        predicted, attention = model(BagBatch.pack([bag]))
        tiles = torch.cat([model(BagBatch.pack([tile[None]]))[0] for tile in bag])
    assert float(attention @ tiles[:, 0]) == pytest.approx(predicted.item(), abs=1e-6)


def test_evaluation_draws_nothing_and_training_draws_k() -> None:
    model = woken({"dropout": 0.0})
    batch = BagBatch.pack([torch.randn(50, 5)])
    state = torch.get_rng_state()
    with torch.no_grad():
        assert torch.equal(model(batch)[0], model(batch)[0])
        assert torch.equal(torch.get_rng_state(), state)
        drawn = {round(model.train()(batch)[0][0, 0].item(), 5) for _ in range(60)}
        scores = model.aggregator.score(model.aggregator.embed(batch.features))
        single = {round(top_means(scores, batch, [k])[0][0, 0].item(), 5) for k in (1, 2, 5, 10, 20, 50, 100)}
    assert drawn == single
    assert len(drawn) == 6  # 50 and 100 are the same of 50 tiles


def test_linked_genes_are_found_and_no_others() -> None:
    data = planted_genes(0)
    r = correlations(data, train(data, "he2rna", {}, range(140), epochs=12), range(140, 200))
    assert r[data.linked].min() > 0.5
    assert abs(r[~data.linked].mean()) < 0.1


def test_unlinked_genes_stay_at_chance() -> None:
    data = planted_genes(3, share=0.0)
    r = correlations(data, train(data, "he2rna", {}, range(140), epochs=8), range(140, 200))
    assert abs(r.mean()) < 0.1


def test_a_gene_of_few_tiles_is_found_better_than_by_the_mean() -> None:
    """What the highest tiles are for: a gene made by three tiles of forty."""
    rng = np.random.default_rng(0)
    data = planted_genes(0, patients=160, genes=6, share=0.0)
    strength = rng.uniform(0, 3, 160)
    data.bags = [torch.from_numpy(rng.normal(size=(40, 12))).float() for _ in range(160)]
    for bag, level in zip(data.bags, strength, strict=True):
        bag[:3, 0] = 3.0 + level
    data.y[:, 0] = torch.from_numpy(strength)
    ours = correlations(data, train(data, "he2rna", {"dropout": 0.0}, range(110), epochs=40), range(110, 160))
    mean = correlations(data, train(data, "hist2rna", {}, range(110), epochs=15, lr=1e-3), range(110, 160))
    assert ours[0] > 0.8
    assert ours[0] > mean[0] + 0.1


def test_supertiles_merge_neighbours_and_ask_for_coordinates() -> None:
    model = woken({"supertiles": 2, "ks": [1]})
    near, far = torch.randint(0, 500, (6, 2)), torch.randint(9000, 9500, (3, 2))
    bag, coords = torch.randn(9, 5), torch.cat([near, far])
    with torch.no_grad():
        merged, attention = model(BagBatch.pack([bag], [coords]))
        plain = woken({"ks": [1]})(BagBatch.pack([torch.stack([bag[:6].mean(0), bag[6:].mean(0)])]))[0]
    assert merged.numpy() == pytest.approx(plain.numpy(), abs=1e-5)
    assert attention.sum().item() == pytest.approx(1, abs=1e-5)
    assert attention[:6].numpy() == pytest.approx(attention[0].item())
    with pytest.raises(ModelError, match="super-tiles need the tiles' coordinates"):
        model(BagBatch.pack([bag]))
    assert woken({})(BagBatch.pack([bag]))[0].shape == (1, 6)


@pytest.mark.parametrize("options", [{"ks": []}, {"ks": [0]}, {"widths": "12"}, {"supertiles": 0}, {"dropout": 1.0}])
def test_wrong_options(options: dict) -> None:
    with pytest.raises(ModelError, match="wrong option"):
        build_aggregator("he2rna", 4, options)
