"""WeakSTIL against a loop, on the scale of the head, and on planted tiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from histostudy.errors import ModelError
from histostudy.models.batch import BagBatch
from histostudy.models.io import load_model, save_model
from histostudy.models.model import MILModel

HEAD = {"kind": "regression", "columns": ["y"]}


def build(options: dict | None = None, targets: list[float] | None = None, dim: int = 6) -> MILModel:
    torch.manual_seed(0)
    model = MILModel(dim, "weakstil", options or {}, HEAD)
    y = {"y": torch.tensor(targets or [0.1, 0.2, 0.6])[:, None]}
    model.head.start(y)
    model.aggregator.start(y)
    return model.eval()


def bags(lengths: tuple[int, ...] = (1, 2, 7), dim: int = 6) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    return [torch.randn(n, dim, generator=rng) for n in lengths]


@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_a_slide_is_the_weighted_mean_of_its_tiles(pooling: str) -> None:
    model = build({"pooling": pooling, "range": [0, 100]}, [5.0, 20.0, 60.0]).double()
    network = model.aggregator
    torch.nn.init.normal_(network.score.weight)
    some = [bag.double() for bag in bags()]
    batch = BagBatch.pack(some)
    vectors, attention = network(batch)
    scores = network.tile_scores(batch)
    assert ((scores > 0) & (scores < 100)).all() and scores.std() > 1
    first = 0
    for k, bag in enumerate(some):
        weights, total = [], 0.0
        for x in bag:
            h = torch.relu(network.embed[0].weight @ x + network.embed[0].bias)
            r = 100 / (1 + torch.exp(-(network.score.weight[0] @ h + network.score.bias[0])))
            e = (
                torch.exp(network.attention(h[None])[0, 0])
                if network.attention is not None
                else torch.ones(()).double()
            )
            weights.append((e, r))
        norm = sum(e for e, _ in weights)
        for i, (e, r) in enumerate(weights):
            assert scores[first + i].item() == pytest.approx(r.item(), abs=1e-9)
            assert attention[first + i].item() == pytest.approx((e / norm).item(), abs=1e-12)
            total += (e / norm * r).item()
        predicted = model.head.predict(model.head(vectors[k : k + 1]).detach())["y"][0]
        assert predicted == pytest.approx(total, abs=1e-5)  # the moments are float32
        first += len(bag)
    tokens = batch.with_features(network.embed(batch.features))
    parts = network.contributions(tokens, network.pool(tokens))
    assert torch.allclose(torch.stack([p.sum(0) for p in parts.split([len(b) for b in some])]), vectors)


def test_every_tile_starts_at_the_mean_of_the_training_part() -> None:
    model = build(targets=[0.1, 0.2, 0.6])
    batch = BagBatch.pack(bags())
    assert model.aggregator.tile_scores(batch).tolist() == pytest.approx([0.3] * 10)
    assert model.head.predict(model(batch)[0].detach())["y"] == pytest.approx([0.3] * 3, abs=1e-6)


def test_the_order_of_tiles_and_batch_mates_do_not_matter() -> None:
    model = build({"pooling": "attention"})
    torch.nn.init.normal_(model.aggregator.score.weight)
    some = bags((3, 5))
    together = model(BagBatch.pack(some))[0]
    alone = model(BagBatch.pack([some[1][[4, 2, 0, 1, 3]]]))[0]
    assert torch.allclose(together[1], alone[0], atol=1e-6)


@pytest.mark.parametrize(
    "targets",
    [{"y": torch.tensor([0, 1])}, {"y": torch.zeros(3, 2)}, {"time": torch.ones(2), "event": torch.ones(2)}],
)
def test_other_tasks_are_refused(targets: dict) -> None:
    with pytest.raises(ModelError, match="one number a patient.*kind regression"):
        build().aggregator.start(targets)


def test_targets_outside_the_range_are_refused() -> None:
    with pytest.raises(ModelError, match="run from 5 to 60, tiles from 0 to 1.*option `range`"):
        build(targets=[5.0, 20.0, 60.0])
    with pytest.raises(ModelError, match="no patient of the training part has the target"):
        build(targets=[float("nan")])
    with pytest.raises(ModelError, match="range is a list of two numbers"):
        build({"range": [1, 0]})


def test_an_unknown_target_adds_nothing_to_the_moments_and_a_constant_one_does_no_harm() -> None:
    model = build(targets=[0.2, 0.4, float("nan")])
    assert model.aggregator.centre.tolist() == pytest.approx(model.head.centre.tolist())
    assert model.aggregator.spread.tolist() == pytest.approx(model.head.spread.tolist())
    flat = build(targets=[1.0, 1.0])  # at the end of the range
    assert torch.isfinite(flat(BagBatch.pack(bags()))[0]).all() and flat.aggregator.score.bias.abs() < 5


def test_the_moments_are_saved(tmp_path: Path) -> None:
    model = build({"range": [0, 100]}, [5.0, 20.0, 60.0])
    torch.nn.init.normal_(model.aggregator.score.weight)
    save_model(tmp_path / "w.safetensors", model, {})
    again, _ = load_model(tmp_path / "w.safetensors")
    batch = BagBatch.pack(bags())
    assert torch.equal(model(batch)[0], again(batch)[0])
    assert torch.equal(model.aggregator.tile_scores(batch), again.aggregator.tile_scores(batch))


def slides(count: int, seed: int, null: bool = False) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Slides of 20 tiles whose number is the mean of sigmoid(w.x - 1) plus noise, in percent; and the tiles' truth."""
    rng = torch.Generator().manual_seed(seed)
    axis = torch.zeros(6)
    axis[:2] = 1.5
    some = [torch.randn(20, 6, generator=rng) + torch.randn(6, generator=rng) for _ in range(count)]
    truth = torch.cat([100 * torch.sigmoid(bag @ axis - 1) for bag in some])
    y = truth.view(count, 20).mean(1) + torch.randn(count, generator=rng)
    y = y[torch.randperm(count, generator=rng)] if null else y
    return some, y.clamp(0, 100)[:, None], truth


@pytest.mark.parametrize("null", [False, True])
def test_tiles_are_found_from_slides(null: bool) -> None:
    train, y, _ = slides(60, 1, null)
    test, truth, tiles = slides(60, 2, null)
    model = build({"range": [0, 100], "hidden": 16}, y[:, 0].tolist())
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    model.train()
    for _ in range(60):
        optimiser.zero_grad()
        model.head.loss(model(BagBatch.pack(train))[0], {"y": y}).backward()
        optimiser.step()
    model.eval()
    batch = BagBatch.pack(test)
    predicted = model.head.predict(model(batch)[0].detach())["y"]
    r2 = 1 - ((predicted - truth[:, 0].numpy()) ** 2).mean() / truth.numpy().var()
    of_tiles = np.corrcoef(model.aggregator.tile_scores(batch).detach(), tiles)[0, 1]
    if null:
        assert r2 < 0.1
    else:
        assert r2 > 0.8 and of_tiles > 0.7
