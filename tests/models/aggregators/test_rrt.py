"""RRT: regions, EPEG and CR-MSA against slow loops; padding that reaches nobody."""

from __future__ import annotations

import pytest
import torch
from models.aggregators import mixing
from models.aggregators.mixing import auroc, random_bags, trained, witnessed
from torch import Tensor

from histostudy.models.aggregators.rrt import RRT, CrossRegion, MaskedAttention
from histostudy.models.batch import BagBatch
from histostudy.models.registry import build_aggregator

SMALL = {"hidden": 16, "heads": 2, "epeg": 3, "least_side": 2, "attention": 8}


def build(**options: object) -> RRT:
    torch.manual_seed(0)
    model = build_aggregator("rrt", 6, {**SMALL, **options})
    assert isinstance(model, RRT)
    return model


def slow_attention(layer: MaskedAttention, x: Tensor, axis: str) -> Tensor:
    """Attention of one region of real tiles (n, width), logit by logit."""
    n, width = x.shape
    d = width // layer.heads
    q, k, v = layer.project(x).split(width, 1)
    out = torch.zeros(n, width, dtype=torch.float64)
    for h in range(layer.heads):
        part = slice(h * d, (h + 1) * d)
        logits = torch.tensor([[float(q[i, part] @ k[j, part]) / d**0.5 for j in range(n)] for i in range(n)])
        logits = logits.double()
        added = logits.clone()
        if layer.position is not None:
            kernel = layer.position.weight[h, 0].flatten()
            for i in range(n):
                for j in range(n):
                    for t, weight in enumerate(kernel):
                        a, b = (i + t - len(kernel) // 2, j) if axis == "queries" else (i, j + t - len(kernel) // 2)
                        if 0 <= a < n and 0 <= b < n:
                            added[i, j] += weight * logits[a, b]
        out[:, part] = added.softmax(1) @ v[:, part]
    return layer.out(out)


def slow_cross(layer: CrossRegion, regions: list[Tensor]) -> list[Tensor]:
    """CR-MSA of regions (P_r, width) of real tiles."""
    logits = [x @ layer.logits.weight.T for x in regions]
    back = [torch.zeros_like(x) for x in regions]
    for j in range(layer.logits.out_features):
        tokens = torch.stack(
            [(score[:, j].softmax(0)[:, None] * x).sum(0) for score, x in zip(logits, regions, strict=True)]
        )
        mixed = slow_attention(layer.attention, tokens, "queries")
        for r, score in enumerate(logits):
            scaled = (score[:, j] - score[:, j].min()) / (score[:, j].max() - score[:, j].min() + 1e-8)
            back[r] += (scaled * score.softmax(1)[:, j])[:, None] * mixed[r]
    return back


def regions_of(count: int, most: int, least: int) -> list[list[int]]:
    """Places of the tiles of each region, by rows and columns."""
    side = next(s for s in range(999) if s * s >= count)
    across = min(most, max(1, side // least))
    size = -(-side // across)
    width = size * across
    found: dict[tuple[int, int], list[int]] = {}
    for i in range(count):
        found.setdefault((i // width // size, i % width // size), []).append(i)
    return [found[key] for key in sorted(found)]


@pytest.mark.parametrize("axis", ["queries", "keys"])
@pytest.mark.parametrize(("count", "shortcut"), [(1, False), (3, True), (8, False), (23, True), (40, False)])
def test_it_equals_a_slow_loop(count: int, axis: str, shortcut: bool) -> None:
    model = build(epeg_axis=axis, regions=3, shortcut=shortcut).double().eval()
    (bag,) = random_bags(count)
    with torch.no_grad():
        vectors, maps = model(BagBatch.pack([bag]))
        x = h = model.embed(bag)
        regions = regions_of(count, 3, 2)
        normed, moved = model.norms[0](x), x.clone()
        for region in regions:
            moved[region] += slow_attention(model.within, normed[region], axis)
        normed, x = model.norms[1](moved), moved.clone()
        for region, back in zip(regions, slow_cross(model.across, [normed[r] for r in regions]), strict=True):
            x[region] += back
        x = model.norms[2](x + h if shortcut else x)
        weights = model.attention(x).softmax(0)
    torch.testing.assert_close(maps, weights[:, 0], atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(vectors[0], (weights * x).sum(0), atol=1e-8, rtol=1e-8)


def test_regions_cover_the_square_once() -> None:
    model = build(regions=8, least_side=1)
    for side, shape in ((1, (1, 1)), (8, (64, 1)), (9, (64, 4)), (16, (64, 4)), (142, (64, 324)), (400, (256, 625))):
        layout = model.layout(side)
        assert layout.shape == shape
        assert torch.equal(layout.flatten().sort().values, torch.arange(layout.numel()))
        assert layout.numel() >= side * side
    assert build(regions=8, least_side=4).layout(6).shape == (1, 36)


def test_who_else_is_in_the_batch_does_not_matter() -> None:
    mixing.check_company_changes_nothing(build())
    mixing.check_company_changes_nothing(build(regions=2, epeg_axis="keys", shortcut=True))
    mixing.check_gradients_stay_in_their_bag(build())


def test_tiny_bags_half_precision_and_no_chance_in_evaluation() -> None:
    mixing.check_tiny_bags(build())
    mixing.check_half_precision(build())
    mixing.check_evaluation_draws_nothing(build())


def test_the_order_of_tiles_matters() -> None:
    assert min(mixing.moved_by_permutation(build())) > 1e-5


def test_what_is_not_real_is_not_seen() -> None:
    layer = MaskedAttention(8, 2, 5).double().eval()
    x = torch.randn(1, 6, 8, dtype=torch.float64)
    real = torch.tensor([[True, True, True, True, False, False]])
    junk = torch.where(real[..., None], x, 1e3)
    with torch.no_grad():
        whole = layer(x, real)[:, :4]
        torch.testing.assert_close(layer(junk, real)[:, :4], whole)
        torch.testing.assert_close(layer(x[:, :4], real[:, :4]), whole)


def test_it_learns_which_bags_hold_witnesses_which_the_mean_hardly_sees() -> None:
    train, test = witnessed(0, 192), witnessed(1, 120)
    found = auroc(trained("rrt", {"hidden": 32, "heads": 4}, *train, epochs=20), *test)
    assert found > 0.85
    assert found > auroc(trained("mean", {}, *train, epochs=20), *test) + 0.05
