"""What every aggregator that reads bags as sequences must do, for the tests of each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from histostudy.models.attention import AttentionAggregator
from histostudy.models.batch import BagBatch
from histostudy.models.registry import build_aggregator

SMALL = {"hidden": 16, "state": 8, "attention": 16, "dropout": 0.0}


def built(name: str, dim: int = 5, **options: Any) -> AttentionAggregator:
    torch.manual_seed(0)
    found = build_aggregator(name, dim, SMALL | {"hidden": 6, "state": 3} | options).double()
    assert isinstance(found, AttentionAggregator)
    return found


def bags_of(*sizes: int, dim: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(n, dim, generator=generator, dtype=torch.float64) for n in sizes]


def coords_of(*sizes: int, side: int = 8) -> list[Tensor]:
    """Tiles of a lattice, each on a place of its own, in row-major order."""
    generator = torch.Generator().manual_seed(2)
    places = [torch.randperm(side * side, generator=generator)[:n].sort().values for n in sizes]
    return [448 * torch.stack([p % side, p // side], 1) + 1000 for p in places]


def check_company(model: AttentionAggregator, bags: list[Tensor], coords: list[Tensor] | None = None) -> None:
    """Packed bags and their gradients equal one bag at a time; attention sums to 1; far values of others do nothing."""
    weight = torch.linspace(-1, 1, model.dim_out, dtype=torch.float64)
    inputs = [*(bag.requires_grad_() for bag in bags), *model.parameters()]
    z, attention = model(BagBatch.pack(bags, coords))
    assert attention is not None
    sums = torch.stack([part.sum() for part in attention.split([len(bag) for bag in bags])])
    assert torch.allclose(sums, torch.ones_like(sums))
    packs = [BagBatch.pack([bag], None if coords is None else [coords[i]]) for i, bag in enumerate(bags)]
    singles = [model(pack) for pack in packs]
    assert (z - torch.cat([vector for vector, _ in singles])).abs().max() < 1e-10
    assert (attention - torch.cat([part for _, part in singles])).abs().max() < 1e-10
    together = torch.autograd.grad((z @ weight).square().sum(), inputs, allow_unused=True)
    alone = torch.autograd.grad(sum((s @ weight).square().sum() for s, _ in singles), inputs, allow_unused=True)
    for one, other in zip(together, alone, strict=True):
        assert (one is None and other is None) or (one - other).abs().max() < 1e-9
    with torch.no_grad():
        wild = [bags[0], *(1e6 * torch.ones_like(bag) for bag in bags[1:])]
        assert (model(BagBatch.pack(wild, coords))[0][0] - z[0]).abs().max() < 1e-10


def check_tiny(model: AttentionAggregator) -> None:
    """Bags of one, two and three tiles give numbers in both modes, the same twice in evaluation."""
    for training in (True, False):
        model.train(training)
        bags = bags_of(1, 2, 3)
        for bag in bags:
            vectors, _ = model(BagBatch.pack([bag]))
            vectors.sum().backward()
            assert torch.isfinite(vectors).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    batch = BagBatch.pack(bags)
    assert torch.equal(model(batch)[0], model(batch)[0])


def check_half(model: AttentionAggregator, coords: list[Tensor] | None = None) -> None:
    """Autocast gives nearly the same, and maps in float32."""
    batch = BagBatch.pack([bag.float() for bag in bags_of(40, 9)], coords)
    model = model.float().eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        half, maps = model(batch)
    assert maps is not None
    assert maps.dtype == torch.float32
    with torch.no_grad():
        assert torch.allclose(half.float(), model(batch)[0], atol=0.1)


def changed_by_order(model: AttentionAggregator, batch: BagBatch) -> float:
    """Largest change of a bag's vector when its tiles, with their coordinates, come in another order."""
    order = torch.randperm(len(batch.features), generator=torch.Generator().manual_seed(3))
    moved = BagBatch(batch.features[order], batch.offsets, None if batch.coords is None else batch.coords[order])
    with torch.no_grad():
        return float((model(batch)[0] - model(moved)[0]).abs().max())
