"""HIT: two levels that a gradient does not cross."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from histostudy.errors import ModelError
from histostudy.training.continual.hit import HIT, ConvPool, HITOptions, cssl
from histostudy.training.continual.regions import RegionBatch


def _batch(counts: list[int], size: int = 16, dim: int = 6, seed: int = 0) -> RegionBatch:
    generator = torch.Generator().manual_seed(seed)
    total = sum(counts)
    mask = torch.rand(total, size, generator=generator) < 0.7
    mask[:, 0] = True
    tiles = torch.randn(total, size, dim, generator=generator) * mask[:, :, None]
    return RegionBatch(tiles, mask, torch.tensor([0, *counts]).cumsum(0))


def _network(size: int = 16, dim: int = 6) -> HIT:
    torch.manual_seed(0)
    return HIT(dim, 4, size, HITOptions(hidden=16))


def test_the_classifiers_loss_does_not_reach_the_level_of_tiles() -> None:
    network, batch = _network(), _batch([5, 3])
    logits, similar = network(batch)
    patch = network.patch_level()
    assert len(patch) == sum(p.numel() > 0 for n, p in network.named_parameters()
                             if n.startswith("fc1") or ".inner." in n or ".pool." in n)  # fmt: skip
    loss = F.cross_entropy(logits, torch.tensor([0, 3]))
    crossed = torch.autograd.grad(loss, patch, retain_graph=True, allow_unused=True)
    assert all(g is None or float(g.abs().max()) == 0 for g in crossed)
    region = [p for p in network.parameters() if all(p is not q for q in patch)]
    reached = torch.autograd.grad(loss, region, retain_graph=True)
    assert all(float(g.abs().max()) > 0 for g in reached)
    own = torch.autograd.grad(similar, patch, allow_unused=True)
    assert all(g is not None for g in own)
    assert float(own[0].abs().max()) > 0 and patch[0] is network.fc1.weight


def test_the_cross_scale_loss_is_zero_where_both_scales_agree() -> None:
    v = torch.randn(7, 5, dtype=torch.float64)
    assert float(cssl(v, v)) == 0
    assert float(cssl(v, 3 * v + 2)) < 1e-20  # both are standardised
    assert float(cssl(v, v.flip(0))) > 0.1


def test_the_cross_scale_loss_is_that_of_a_slow_loop() -> None:
    v, u = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    a, b = ((x - x.mean()) / x.std(correction=0) for x in (v, u))
    slow = sum((float(a[i] @ a[j]) - float(b[i] @ b[j])) ** 2 for i in range(4) for j in range(4)) / 16
    assert float(cssl(v, u)) == pytest.approx(slow, rel=1e-12)
    assert torch.isfinite(cssl(v[:1], torch.zeros(1, 3, dtype=torch.float64)))


def test_pooling_a_full_grid_is_the_published_one() -> None:
    pool = ConvPool(6, 8)
    tiles = torch.randn(2, 64, 6)
    out = pool(tiles, torch.ones(2, 64, dtype=torch.bool))
    grid = pool.conv(tiles.view(2, 8, 8, 6).permute(0, 3, 1, 2))
    assert grid.shape[2:] == (5, 5)
    torch.testing.assert_close(out, pool.norm(grid.permute(0, 2, 3, 1)).mean((1, 2)))


def test_places_without_a_tile_do_not_matter() -> None:
    network, batch = _network().eval(), _batch([4, 2])
    dirty = replace(batch, tiles=torch.where(batch.mask[:, :, None], batch.tiles, 1e3))
    means = batch.means()
    for one, other in zip(network(batch), network(replace(dirty, tiles=dirty.tiles * batch.mask[:, :, None])),
                          strict=True):  # fmt: skip
        torch.testing.assert_close(one, other)
    tiles = F.relu(network.fc1(dirty.tiles))
    clean = F.relu(network.fc1(batch.tiles))
    block = network.blocks[0]
    one, other = (block.pool(block.inner(x, batch.mask), batch.mask) for x in (tiles, clean))  # type: ignore[union-attr, operator]
    torch.testing.assert_close(one, other)
    assert means.shape == (6, 6)


def test_a_slide_is_seen_alone_whoever_is_in_the_batch() -> None:
    network, batch = _network().eval(), _batch([5, 1, 9])
    logits, similar = network(batch)
    alone = []
    for i, (start, stop) in enumerate(((0, 5), (5, 6), (6, 15))):
        one = RegionBatch(batch.tiles[start:stop], batch.mask[start:stop], torch.tensor([0, stop - start]))
        mine, loss = network(one)
        torch.testing.assert_close(mine[0], logits[i])
        alone.append(loss)
    torch.testing.assert_close(torch.stack(alone).mean(), similar)


def test_the_order_of_regions_does_not_matter() -> None:
    network, batch = _network().eval(), _batch([6])
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    for one, other in zip(network(batch), network(replace(batch, tiles=batch.tiles[order], mask=batch.mask[order])),
                          strict=True):  # fmt: skip
        torch.testing.assert_close(one, other)


def test_tiny_regions_and_slides() -> None:
    for size in (1, 4, 9):
        network = HIT(3, 2, size, HITOptions(hidden=8))
        logits, similar = network(_batch([1, 2], size, 3))
        assert torch.isfinite(logits).all() and torch.isfinite(similar)


def test_wrong_options_are_refused() -> None:
    for wrong in ({"hidden": 0}, {"depth": 1.5}, {"heads": 3}, {"ratio": True}):
        with pytest.raises(ModelError, match="wrong option"):
            HITOptions(**{"hidden": 16, **wrong})  # type: ignore[arg-type]
