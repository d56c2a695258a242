"""PIBD: selection, proxies, missing tables, what is learned and what is kept apart."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from sksurv.metrics import concordance_index_censored
from torch import Tensor

from histostudy.errors import ModelError
from histostudy.models.batch import BagBatch, Modality, ModalityValues
from histostudy.models.io import load_model, save_model
from histostudy.models.model import MILModel
from histostudy.models.multimodal.pibd import PIBD, gather, top_mask
from histostudy.models.registry import build_aggregator
from histostudy.models.survival import time_bins

DIM, GENES = 6, 12
RNA = Modality("rna", tuple(f"g{i}" for i in range(GENES)), tuple(tuple(range(i, i + 3)) for i in range(0, GENES, 3)))
DNA = Modality("dna", ("m0", "m1"), ((0, 1),))
SMALL = {"hidden": 16, "heads": 2, "samples": 5}


def build(modalities: tuple[Modality, ...] = (RNA,), **options: object) -> PIBD:
    torch.manual_seed(0)
    model = build_aggregator("pibd", DIM, SMALL | options, modalities=modalities)
    assert isinstance(model, PIBD)
    return model


def batch_of(sizes: tuple[int, ...], seed: int = 0, present: tuple[bool, ...] | None = None) -> BagBatch:
    generator = torch.Generator().manual_seed(seed)
    batch = BagBatch.pack([torch.randn(n, DIM, generator=generator) for n in sizes])
    there = torch.tensor(present if present is not None else (True,) * len(sizes))
    rna = torch.randn(len(sizes), GENES, generator=generator) * there[:, None]
    dna = torch.randn(len(sizes), 2, generator=generator)
    batch.modalities = {"rna": ModalityValues(rna, there), "dna": ModalityValues(dna, torch.ones_like(there))}
    return batch


def survival(n: int, seed: int = 0) -> dict[str, Tensor]:
    rng = np.random.default_rng(seed)
    return {
        "time": torch.tensor(rng.exponential(500, n), dtype=torch.float32),
        "event": torch.tensor(rng.random(n) < 0.6).float(),
    }


def test_a_top_mask_has_exactly_k_and_gathers_them_in_order() -> None:
    scores = torch.randn(3, 9, 4).round()  # with ties
    mask = torch.arange(9) < torch.tensor([9, 5, 1])[:, None]
    count = torch.tensor([4, 3, 1])
    chosen = top_mask(scores, mask, count)
    assert torch.equal(chosen.sum(1), count[:, None].expand(3, 4))
    assert not (chosen & ~mask[..., None]).any()
    for b in range(3):
        for p in range(4):
            own = scores[b, mask[b], p]
            assert torch.equal(scores[b, chosen[b, :, p], p].sort().values, own.sort().values[-int(count[b]) :])
    kept, seen = gather(scores, chosen[..., 0], 4)
    assert torch.equal(kept[0], scores[0, chosen[0, :, 0]])
    assert torch.equal(seen.sum(1), count)
    assert (kept[~seen] == 0).all()


def test_proxies_take_their_meaning_from_the_training_part() -> None:
    model, targets = build(), survival(80)
    model.start(targets)
    expected = time_bins(targets["time"], targets["event"], 4)
    np.testing.assert_allclose(model.edges.numpy(), expected.astype("float32"))
    label = model._label({"time": torch.tensor([0.0, 1e6, 1e6]), "event": torch.tensor([1.0, 1.0, 0.0])})
    assert label.tolist() == [0, 3, 7]
    model.start({"time": torch.full((9,), 5.0), "event": torch.ones(9)})  # coinciding quantiles: fewer intervals
    assert model.active.tolist() == [True, True, False, False] * 2
    model.start({"y": torch.tensor([0, 1, 2])})
    assert model.active.tolist() == [True] * 3 + [False] * 5
    with pytest.raises(ModelError, match="8 proxies for 11 classes; set `bins` to 6"):
        model.start({"y": torch.arange(11)})
    with pytest.raises(ModelError, match="numbers have none"):
        model.start({"y": torch.randn(4, 1)})


def test_without_a_start_training_stops_with_one_line() -> None:
    model = build().train()
    model(batch_of((3, 4)))
    with pytest.raises(ModelError, match="was not told"):
        model.penalty(survival(2), None)


def test_evaluation_draws_nothing_and_knows_no_neighbours_or_order() -> None:
    model = build((RNA, DNA)).eval()
    batch = batch_of((1, 12, 30, 7), present=(True, False, True, True))
    state = torch.get_rng_state()
    with torch.no_grad():
        vectors, attention = model(batch)
        assert torch.equal(torch.get_rng_state(), state)
        assert model.penalty(survival(4), None) is None
        for i, tiles in enumerate(batch.features.split(batch.lengths.tolist())):
            alone = BagBatch.pack([tiles.flip(0)])
            alone.modalities = {
                name: ModalityValues(table.values[i : i + 1], table.present[i : i + 1])
                for name, table in batch.modalities.items()
            }
            one, own = model(alone)
            torch.testing.assert_close(one[0], vectors[i], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(own.flip(0), attention[batch.segments == i], atol=1e-5, rtol=1e-4)
            assert own.sum().item() == pytest.approx(1, abs=1e-5)
            assert (own > 0).sum() == -(-len(tiles) // 2)


def test_a_missing_table_is_not_read_and_adds_no_loss() -> None:
    model = build().train()
    model.start(survival(40))
    one, two = (batch_of((4, 6, 5), present=(True, False, True)) for _ in range(2))
    values = two.modalities["rna"].values.clone()
    values[1] = torch.nan
    two.modalities = {**two.modalities, "rna": ModalityValues(values, two.modalities["rna"].present)}
    found = []
    for batch in (one, two):
        torch.manual_seed(1)
        vectors, _ = model(batch)
        found.append((vectors, model.penalty(survival(3), None)))
    torch.testing.assert_close(found[0], found[1])
    nobody = batch_of((4, 6), present=(False, False))
    vectors, _ = model(nobody)
    loss = vectors.sum() + model.penalty(survival(2), None)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert model.own[0].mean[0].weight.grad is None  # no pair of modalities to learn from


@pytest.mark.parametrize("targets", [survival(6), {"y": torch.tensor([0, 1, 2, 0, 1, 2])}])
def test_every_part_is_trained(targets: Mapping[str, Tensor]) -> None:
    model = build((RNA, DNA)).train()
    model.start(targets)
    batch = batch_of((4, 9, 3, 5, 2, 8))
    vectors, _ = model(batch)
    penalty = model.penalty(targets, None)
    assert penalty is not None
    (vectors.square().mean() + penalty).backward()
    still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert [n for n in still if "missing" not in n] == []
    assert model.penalty(targets, None) is None  # once a forward


def test_proxies_attract_their_own_patients() -> None:
    """The proxy loss alone, by hand."""
    model = build()
    model.start(survival(40))
    affinity = torch.tensor([[0.9, 0, 0, 0, 0, 0, 0, 0.2], [0.1] * 8])
    loss = model._proxy_loss(affinity, torch.tensor([0, 3]), torch.tensor([True, True]))
    assert loss.item() == pytest.approx(((0.2 / 7 - 0.9) + 0) / 2, abs=1e-6)
    assert model._proxy_loss(affinity, torch.tensor([0, 3]), torch.tensor([False, True])).item() == pytest.approx(
        0, abs=1e-6
    )


def test_half_precision_does_no_harm() -> None:
    model = build((RNA, DNA)).train()
    model.start(survival(40))
    batch = batch_of((4, 9, 3))
    with torch.autocast("cpu", torch.bfloat16):
        vectors, attention = model(batch)
    penalty = model.penalty(survival(3), None)
    assert penalty is not None
    (vectors.float().square().mean() + penalty).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    torch.testing.assert_close(attention.float().sum().item(), 3.0, atol=1e-2, rtol=0)


def test_a_saved_model_predicts_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MILModel(DIM, "pibd", SMALL, {"kind": "survival_cox", "days": [100]}, (RNA,))
    model.aggregator.start(survival(50))
    save_model(tmp_path / "w.safetensors", model.eval())
    again, _ = load_model(tmp_path / "w.safetensors")
    with torch.no_grad():
        assert torch.equal(model(batch_of((3, 9)))[0], again(batch_of((3, 9)))[0])
    assert torch.equal(model.aggregator.edges, again.aggregator.edges)


# --- two modalities that share a factor s and have p1, p2 of their own -----------------------------------------


def cohort(n: int, seed: int, strength: float) -> tuple[BagBatch, dict[str, Tensor], np.ndarray]:
    """Half of the tiles carry s and p1, the genes carry s and p2; risk is s + p1."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(n, 3))  # s, p1, p2
    tiles = rng.normal(size=(n, 16, DIM)) * 0.7
    tiles[:, :8, :3] += factors[:, None, :1]
    tiles[:, :8, 3:] += factors[:, None, 1:2]
    genes = rng.normal(size=(n, GENES)) * 0.7
    genes[:, ::2] += factors[:, :1]
    genes[:, 1::2] += factors[:, 2:]
    time = rng.exponential(np.exp(-strength * (factors[:, 0] + factors[:, 1])))
    end = rng.exponential(3, n)
    batch = BagBatch(torch.tensor(tiles.reshape(-1, DIM)).float(), torch.arange(0, 16 * n + 1, 16))
    batch.modalities = {"rna": ModalityValues(torch.tensor(genes).float(), torch.ones(n, dtype=torch.bool))}
    targets = {"time": torch.tensor(np.minimum(time, end)).float(), "event": torch.tensor(time <= end).float()}
    return batch, targets, factors


def part_of(batch: BagBatch, chosen: Tensor) -> BagBatch:
    tiles = batch.features.reshape(len(batch), 16, DIM)[chosen]
    part = BagBatch(tiles.flatten(0, 1), torch.arange(0, 16 * len(chosen) + 1, 16))
    rna = batch.modalities["rna"]
    part.modalities = {"rna": ModalityValues(rna.values[chosen], rna.present[chosen])}
    return part


def train(strength: float, epochs: int, seed: int = 1, **options: object) -> MILModel:
    batch, targets, _ = cohort(240, seed, strength)
    torch.manual_seed(0)
    head = {"kind": "survival_nll", "days": [1], "bins": 4}
    model = MILModel(DIM, "pibd", {"hidden": 32, "heads": 2, "samples": 10, **options}, head, (RNA,))
    model.head.start(targets)
    model.aggregator.start(targets)
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    model.train()
    for _ in range(epochs):
        for chosen in torch.randperm(240).split(30):
            raw, _ = model(part_of(batch, chosen))
            own = {name: value[chosen] for name, value in targets.items()}
            penalty = model.aggregator.penalty(own, None)
            assert penalty is not None
            optimiser.zero_grad()
            (model.head.loss(raw, own) + penalty).backward()
            optimiser.step()
    return model.eval()


def c_of(model: MILModel, strength: float) -> float:
    batch, targets, _ = cohort(400, 2, strength)
    with torch.no_grad():
        risk = model.head.predict(model(batch)[0])["risk"]
    return concordance_index_censored(targets["event"].numpy() > 0, targets["time"].numpy(), risk)[0]


def test_a_planted_risk_is_found_and_none_where_there_is_none() -> None:
    assert c_of(train(1.0, 15), 1.0) > 0.72
    assert abs(c_of(train(0.0, 15), 0.0) - 0.5) < 0.07


@torch.no_grad()
def shared_information(model: MILModel) -> float:
    """The estimator's bound of I(tiles; genes) on fresh patients."""
    vectors, _, _ = model.aggregator.vectors(cohort(300, 5, 1.0)[0])
    one, two = (torch.nn.functional.layer_norm(v, v.shape[1:]) for v in vectors)
    return model.aggregator.own[0].bound(one, two).item()


def test_the_penalty_drives_the_bound_to_nothing() -> None:
    """The bound, not all dependence: distance correlation fell in some trainings only, so nothing here asks for it."""
    assert shared_information(train(1.0, 25, information=0.0)) > 1.5
    assert abs(shared_information(train(1.0, 25, information=1.0))) < 0.4
