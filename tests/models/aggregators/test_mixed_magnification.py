"""Regions on lattices, masking, and what masked embedding modelling can and cannot predict."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from histostudy.models.aggregators.mixed_magnification import (
    MixedMagnification,
    MixedMagnificationOptions,
    draw_masked,
    lattice_step,
)
from histostudy.models.batch import BagBatch, segment_sum
from histostudy.models.io import load_model, save_model
from histostudy.models.model import MILModel

SMALL = {"hidden": 16, "feedforward": 32, "heads": 2, "attention": 8, "dropout": 0.0}
DIM = 16


def build(dim: int = 5, **options: object) -> MixedMagnification:
    torch.manual_seed(0)
    return MixedMagnification(dim, MixedMagnificationOptions(**(SMALL | {"pretrain_epochs": 1} | options))).eval()


def lattice(columns: int, rows: int, step: float, start: tuple[float, float] = (0.0, 0.0)) -> Tensor:
    """Row-major upper left corners, rounded to whole pixels."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return (torch.stack([x.flatten(), y.flatten()], 1) * step + torch.tensor(start)).round().long()


def packed(lengths: tuple[int, ...], coords: list[Tensor] | None = None, scales: list[float] | None = None) -> BagBatch:
    rng = torch.Generator().manual_seed(2)
    batch = BagBatch.pack([torch.randn(n, 5, generator=rng) for n in lengths], coords)
    return batch if scales is None else replace(batch, scales=torch.tensor(scales))


def three_scales(step: float = 447.6, start: tuple[float, float] = (0.0, 0.0), side: int = 3) -> tuple:
    """Coordinates, scales and the number of the true region of side x side regions of 21 tiles."""
    parts, scales, truth = [], [], []
    for power, mpp in enumerate((2.0, 1.0, 0.5)):
        n = 2**power
        parts.append(lattice(side * n, side * n, step / n, start))
        scales += [mpp] * (side * n) ** 2
        y, x = torch.meshgrid(torch.arange(side * n), torch.arange(side * n), indexing="ij")
        truth.append((y // n * side + x // n).flatten())
    return torch.cat(parts), torch.tensor(scales), torch.cat(truth)


def same_partition(one: Tensor, two: Tensor) -> bool:
    return bool(((one[:, None] == one) == (two[:, None] == two)).all())


@pytest.mark.parametrize("start", [(0.0, 0.0), (130.0, 61.0), (895.2, 447.6)])
@pytest.mark.parametrize("step", [448.0, 447.6, 1791.3])
def test_regions_of_three_scales_are_exact_on_a_lattice(step: float, start: tuple[float, float]) -> None:
    coords, scales, truth = three_scales(step, start, side=12)
    rng = torch.Generator().manual_seed(0)
    for kept in (torch.arange(len(truth)), torch.randperm(len(truth), generator=rng)[:700]):
        batch = packed((len(kept),), [coords[kept]], scales[kept].tolist())
        regions = build().regions(batch)
        assert same_partition(regions.row, truth[kept])
        assert regions.lengths.tolist() == torch.bincount(regions.row).tolist() and regions.lengths.max() <= 21
        coarse = scales[kept] == 2
        assert torch.allclose(regions.position[coarse], torch.tensor(0.5).double(), atol=0.02)
        fine = regions.position[scales[kept] == 0.5] * 4 - 0.5
        assert (fine - fine.round()).abs().max() < 0.05
        # each token has a place of its own
        assert len(torch.stack([regions.row, regions.column], 1).unique(dim=0)) == len(kept)


@pytest.mark.parametrize("tiles", [1, 2, 4])
def test_regions_of_one_scale_are_squares_of_tiles_of_the_lattice(tiles: int) -> None:
    coords = lattice(20, 8, 223.7)
    y, x = torch.meshgrid(torch.arange(8), torch.arange(20), indexing="ij")
    truth = (y // tiles * 100 + x // tiles).flatten()
    for kept in (truth >= 0, (truth % 3 > 0) & (x.flatten() > 2)):  # a dropped corner moves no region
        regions = build(region_tiles=tiles).regions(packed((int(kept.sum()),), [coords[kept]]))
        assert same_partition(regions.row, truth[kept])


def test_a_region_may_be_given_in_pixels_and_bags_share_none() -> None:
    coords = lattice(4, 4, 100.0)
    batch = packed((16, 16), [coords, coords])
    regions = build(region_px0=200).regions(batch)
    assert len(regions.lengths) == 8 and regions.lengths.tolist() == [4] * 8
    assert regions.bag.tolist() == [0] * 4 + [1] * 4
    assert torch.equal(regions.bag[regions.row], batch.segments)


def test_the_step_is_told_by_neighbours_of_any_scale() -> None:
    coords = torch.tensor([[0.0, 0.0], [1200.0, 0.0], [0.0, 0.0], [100.0, 0.0]], dtype=torch.float64)
    assert lattice_step(coords, torch.tensor([2.0, 2.0, 0.5, 0.5])) == 400
    assert lattice_step(coords[:1], torch.ones(1)) is None


def test_without_coordinates_regions_are_runs_of_the_file() -> None:
    regions = build(region_tokens=4).regions(packed((6, 3)))
    assert regions.row.tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 2]
    assert regions.position[:, 0].tolist() == pytest.approx(
        [0.125, 0.375, 0.625, 0.875, 0.125, 0.375, 0.125, 0.375, 0.625]
    )


@pytest.mark.parametrize("region", ["tokens", "class"])
def test_neither_the_order_of_tiles_nor_batch_mates_matter(region: str) -> None:
    model = build(region=region).double()
    coords, scales, _ = three_scales()
    rng = torch.Generator().manual_seed(1)
    order = torch.randperm(len(coords), generator=rng)
    alone = packed((len(coords),), [coords], scales.tolist())
    alone = replace(alone, features=alone.features.double())
    shuffled = replace(alone, features=alone.features[order], coords=coords[order], scales=scales[order])
    mate = torch.randn(40, 5, generator=rng).double()
    both = replace(
        BagBatch.pack([mate, alone.features], [lattice(8, 5, 100.0), coords]),
        scales=torch.cat([torch.ones(40), scales]),
    )
    vectors, attention = model(alone)
    assert torch.allclose(model(shuffled)[0], vectors, atol=1e-12)
    assert torch.allclose(model(shuffled)[1], attention[order], atol=1e-12)
    assert torch.allclose(model(both)[0][1], vectors[0], atol=1e-12)
    assert torch.allclose(segment_sum(model(both)[1], both), torch.ones(2).double())
    assert not torch.allclose(model(replace(alone, coords=coords[order]))[0], vectors, atol=1e-4)  # places matter
    assert not torch.allclose(model(replace(alone, scales=scales[order]))[0], vectors, atol=1e-4)
    vectors.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_a_region_is_encoded_as_if_it_were_alone() -> None:
    model = build().double()
    batch = packed((24,), [lattice(6, 4, 100.0)])
    batch = replace(batch, features=batch.features.double())
    regions = model.regions(batch)
    embedded = batch.with_features(model.embed(batch.features))
    encoded, _ = model.encode(embedded, regions)
    assert regions.lengths.tolist() == [16, 8]
    one = regions.row == 1
    again, _ = model.encode(embedded.select(one), model.regions(batch.select(one)))
    assert torch.allclose(encoded[one], again, atol=1e-12)
    means = torch.stack([encoded[regions.row == r].mean(0) for r in (0, 1)])
    weights = model.attention(means).softmax(0)
    vectors, attention = model(batch)
    assert torch.allclose(vectors[0], (weights * means).sum(0))
    assert torch.allclose(attention, (weights[:, 0] / regions.lengths)[regions.row])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("coords", [True, False])
@pytest.mark.parametrize("region", ["tokens", "class"])
def test_tiny_bags(training: bool, coords: bool, region: str) -> None:
    model = build(region=region, dropout=0.1).train(training)
    lengths = (1, 2, 3)
    batch = packed(lengths, [lattice(n, 1, 50.0) for n in lengths] if coords else None)
    vectors, attention = model(batch)
    assert torch.isfinite(vectors).all() and torch.allclose(segment_sum(attention, batch), torch.ones(3))


def test_what_is_masked_of_a_region() -> None:
    regions = build(region_tokens=10).regions(packed((37, 1, 2)))
    masked = draw_masked(regions, 0.25, torch.Generator().manual_seed(0))
    counts = torch.zeros(len(regions.lengths)).index_add(0, regions.row, masked.float())
    assert regions.lengths.tolist() == [10, 10, 10, 7, 1, 2]
    assert counts.tolist() == [2, 2, 2, 2, 0, 1]
    assert draw_masked(regions, 0.99, torch.Generator().manual_seed(0)).float().sum() == 9 + 9 + 9 + 6 + 0 + 1
    often = sum(draw_masked(regions, 0.25, torch.Generator().manual_seed(s)).float() for s in range(300))
    assert often[:30].min() > 30 and often[:30].max() < 95  # 60 expected


def test_the_loss_is_of_masked_tokens_alone() -> None:
    model = build().double()
    coords, scales, _ = three_scales(side=2)
    batch = packed((len(coords),), [coords], scales.tolist())
    batch = replace(batch, features=batch.features.double())
    regions = model.regions(batch)
    masked = draw_masked(regions, 0.25, torch.Generator().manual_seed(0))
    said = model.predict_masked(batch, regions, masked).detach()
    total = 0.0
    for k, token in enumerate(masked.nonzero()[:, 0].tolist()):
        x = batch.features[token]
        wanted = (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt()
        total += float(((said[k] - wanted) ** 2).mean())
    assert model.masked_loss(batch, regions, masked).item() == pytest.approx(total / int(masked.sum()), abs=1e-12)
    # the prediction of a masked token cannot see it, but sees the others
    other = torch.where(masked[:, None], torch.randn_like(batch.features), batch.features)
    assert torch.equal(model.predict_masked(batch.with_features(other), regions, masked), said)
    moved = torch.where(masked[:, None], batch.features, batch.features + 1)
    assert not torch.allclose(model.predict_masked(batch.with_features(moved), regions, masked), said)


def toy(count: int, seed: int, shuffled: bool = False) -> Tensor:
    """Regions of 21 tiles of three scales, each child its parent plus 0.7 noise, 8 latent numbers: (count, 21, DIM)."""
    rng, fixed = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(99)
    project = [torch.randn(8, DIM, generator=fixed) / 8**0.5 for _ in range(3)]
    top = torch.randn(count, 1, 8, generator=rng)
    middle = top.repeat_interleave(4, 1) + 0.7 * torch.randn(count, 4, 8, generator=rng)
    place = torch.arange(16)
    parent = place // 8 * 2 + place % 4 // 2
    low = middle[:, parent] + 0.7 * torch.randn(count, 16, 8, generator=rng)
    tokens = torch.cat([values @ p for values, p in zip((top, middle, low), project, strict=True)], 1)
    if shuffled:  # each place keeps its scale, but comes from another region
        tokens = torch.stack([tokens[torch.randperm(count, generator=rng), k] for k in range(21)], 1)
    return tokens


LOCAL = torch.cat([lattice(1, 1, 896.0), lattice(2, 2, 448.0), lattice(4, 4, 224.0)])


def toy_batch(tokens: Tensor, each: int = 4) -> BagBatch:
    """Bags of `each` regions in a row."""
    bags = len(tokens) // each
    coords = (LOCAL + torch.arange(each)[:, None, None] * torch.tensor([896, 0])).flatten(0, 1)
    batch = BagBatch.pack(list(tokens.reshape(bags, each * 21, DIM)), [coords] * bags)
    scales = torch.tensor([2.0] + [1.0] * 4 + [0.5] * 16).repeat(len(tokens))
    return replace(batch, scales=scales)


def passes(tokens: Tensor) -> Callable[[], Iterator[BagBatch]]:
    return lambda: (toy_batch(part) for part in tokens.split(64))


def masked_r2(model: MixedMagnification, batch: BagBatch, token: int) -> float:
    """R2 of the features of one masked token of each region, against the mean over regions."""
    masked = torch.arange(len(batch.features)) % 21 == token
    wanted = layer_norm(batch.features, (DIM,))[masked]
    with torch.no_grad():
        said = model.predict_masked(batch, model.regions(batch), masked)
    return float(1 - (said - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum())


@pytest.mark.parametrize("shuffled", [False, True])
def test_masked_tiles_are_predicted_from_their_region(shuffled: bool) -> None:
    model = build(DIM, hidden=32, feedforward=64, heads=4, pretrain_epochs=15, pretrain_lr=5e-3)
    model.pretrain(passes(toy(1280, 1, shuffled)), 0)
    model.eval()
    test = toy_batch(toy(64, 2, shuffled))
    coarse, middle, fine = (masked_r2(model, test, token) for token in (0, 1, 20))
    if shuffled:
        assert max(coarse, middle, fine) <= 0.1
    else:
        assert fine >= 0.6 and middle >= 0.7 and coarse >= 0.3
        mixed = toy_batch(toy(64, 2, shuffled=True))
        assert max(masked_r2(model, mixed, token) for token in (0, 1, 20)) <= 0.1


def test_pretraining_is_deterministic_and_leaves_what_it_alone_uses_untrained() -> None:
    states = []
    for _ in range(2):
        model = build(DIM, pretrain_epochs=2)
        before = sum(p.numel() for p in model.parameters() if p.requires_grad)
        first = {name: value.clone() for name, value in model.state_dict().items()}
        model.pretrain(passes(toy(64, 1)), 3)
        states.append(model.state_dict())
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == before
        assert not any(p.requires_grad for p in [model.mask_token, *model.decoder.parameters()])
        changed = {
            name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, first[name])
        }
        assert changed == {"embed", "position", "magnification", "encoder", "mask_token", "decoder"}
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    none = build(DIM, pretrain_epochs=0)
    none.pretrain(passes(toy(64, 1)), 3)
    assert not hasattr(none, "decoder")


def test_a_pretrained_model_is_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    head = {"kind": "classification", "classes": ["a", "b"]}
    model = MILModel(DIM, "mixed_magnification", SMALL | {"pretrain_epochs": 1}, head)
    model.aggregator.pretrain(passes(toy(64, 1)), 0)
    model.eval()
    save_model(tmp_path / "w.safetensors", model, {})
    again, _ = load_model(tmp_path / "w.safetensors")
    batch = toy_batch(toy(8, 3))
    with torch.no_grad():
        assert torch.equal(model(batch)[0], again(batch)[0])


@pytest.mark.parametrize("null", [False, True])
def test_it_learns_what_a_region_shares(null: bool) -> None:
    """A class that is the sum over regions of a latent number that no single fine tile shows well."""
    from sklearn.metrics import roc_auc_score

    def drawn(bags: int, seed: int) -> tuple[BagBatch, Tensor]:
        tokens = toy(4 * bags, seed)
        top = torch.randn(4 * bags, 1, 8, generator=torch.Generator().manual_seed(seed))  # the toy's first draw
        y = (top[:, 0, 0].view(bags, 4).sum(1) > 0).long()
        rng = torch.Generator().manual_seed(seed + 1)
        y = y[torch.randperm(bags, generator=rng)] if null else y
        return toy_batch(tokens + torch.randn(tokens.shape, generator=rng)), y

    (train, y), (test, truth) = drawn(60, 1), drawn(150, 2)
    model = build(DIM, hidden=32, pretrain_epochs=0, dropout=0.1)
    head = torch.nn.Linear(32, 2)
    optimiser = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=2e-3)
    model.train()
    for _ in range(30):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(head(model(train)[0]), y).backward()
        optimiser.step()
    model.eval()
    with torch.no_grad():
        auc = roc_auc_score(truth, head(model(test)[0]).softmax(1)[:, 1])
    assert abs(auc - 0.5) < 0.15 if null else auc > 0.75
