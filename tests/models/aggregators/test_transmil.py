"""TransMIL: a slow loop, order, places on the slide, and neighbours that only places show."""

from __future__ import annotations

import pytest
import torch
from models.aggregators import mixing
from models.aggregators.mixing import auroc, neighbouring, random_bags, trained, witnessed
from torch import Tensor

from histostudy.errors import ModelError
from histostudy.models.aggregators.transmil import TransMIL
from histostudy.models.batch import BagBatch
from histostudy.models.nystrom import NystromAttention
from histostudy.models.registry import build_aggregator

SMALL = {"hidden": 16, "heads": 2, "kernel": 5, "landmarks": 6}


def build(**options: object) -> TransMIL:
    torch.manual_seed(0)
    model = build_aggregator("transmil", 6, {**SMALL, **options})
    assert isinstance(model, TransMIL)
    return model


@pytest.fixture(params=["square", "coords"])
def grid(request: pytest.FixtureRequest) -> str:
    return request.param


def test_who_else_is_in_the_batch_does_not_matter(grid: str) -> None:
    mixing.check_company_changes_nothing(build(grid=grid, maps="heads"), coords=grid == "coords")
    mixing.check_gradients_stay_in_their_bag(build(grid=grid), coords=grid == "coords")


def test_tiny_bags_half_precision_and_no_chance_in_evaluation() -> None:
    mixing.check_tiny_bags(build())
    mixing.check_half_precision(build())
    mixing.check_evaluation_draws_nothing(build())


def test_the_order_of_tiles_matters_on_the_square_and_not_on_the_lattice() -> None:
    assert min(mixing.moved_by_permutation(build())) > 1e-4
    assert min(mixing.moved_by_permutation(build(grid="coords"))) > 1e-4  # no coordinates: on the square even so
    assert max(mixing.moved_by_permutation(build(grid="coords"), coords=True)) < 1e-9


def layer(attention: NystromAttention, norm: torch.nn.Module, x: Tensor) -> Tensor:
    return x + attention(norm(x)[None])[0]


def convolved(model: TransMIL, tiles: Tensor, cells: list[tuple[int, int]]) -> Tensor:
    """Kernel by kernel, tile by tile: only tiles that are there are seen."""
    out = tiles.clone()
    for conv in model.position.layers:
        reach = conv.kernel_size[0] // 2
        out = out + conv.bias
        for i, (a, b) in enumerate(cells):
            for j, (c, d) in enumerate(cells):
                if abs(c - a) <= reach and abs(d - b) <= reach:
                    out[i] += conv.weight[:, 0, c - a + reach, d - b + reach] * tiles[j]
    return out


@pytest.mark.parametrize("count", [1, 3, 7, 16])
def test_it_equals_a_slow_loop(count: int, grid: str) -> None:
    model = build(grid=grid).double().eval()
    (bag,) = random_bags(count)
    places = [(i // 5, i % 5) for i in range(count)]
    coords = torch.tensor([[c, r] for r, c in places]) * 300
    with torch.no_grad():
        vectors, maps = model(BagBatch.pack([bag], [coords]))
        tiles, own = model.embed(bag), list(range(count))
        if grid == "square":
            side = next(s for s in range(99) if s * s >= count)
            own = [i % count for i in range(side * side)]
            tiles, places = tiles[own], [(i // side, i % side) for i in range(side * side)]
        x = layer(model.mixing, model.norms[0], torch.cat([model.token[None], tiles]))
        x = torch.cat([x[:1], convolved(model, x[1:], places)])
        row = model.reading.first(model.norms[1](x)[None])[1][0]
        expected = model.norms[2](layer(model.reading, model.norms[1], x)[0])
    torch.testing.assert_close(vectors[0], expected, atol=1e-9, rtol=1e-9)
    attention = torch.zeros(count, dtype=torch.float64)
    for place, tile in enumerate(own):
        attention[tile] += row[:, place + 1].clamp(min=0).mean()
    torch.testing.assert_close(maps, attention / attention.sum(), atol=1e-9, rtol=1e-9)


def test_tiles_of_two_slides_at_one_place_are_their_mean_there() -> None:
    model = build(grid="coords").double().eval()
    (bag,) = random_bags(4)
    cells = torch.tensor([[0, 0], [0, 1], [0, 1], [1, 0]])
    with torch.no_grad():
        moved = model._cells(model.embed(bag)[None], cells)[0] - model.embed(bag)
        tiles = model.embed(bag)
        tiles = torch.stack([tiles[0], (tiles[1] + tiles[2]) / 2, tiles[3]])
        expected = convolved(model, tiles, [(0, 0), (0, 1), (1, 0)]) - tiles
    torch.testing.assert_close(moved[[0, 1, 3]], expected)
    torch.testing.assert_close(moved[1], moved[2])


def test_maps_of_heads_and_their_mean() -> None:
    batch = BagBatch.pack([bag.float() for bag in random_bags(9, 30)])
    one, two = build().eval(), build(maps="heads").eval()
    with torch.no_grad():
        tokens = batch.with_features(one.embed(batch.features))
        assert one.pool(tokens).maps.shape == (39, 1)
        assert two.pool(tokens).maps.shape == (39, 2)
        assert torch.equal(one.pool(tokens).vectors, two.pool(tokens).vectors)


def test_options_that_cannot_be() -> None:
    with pytest.raises(ModelError, match="hidden is a multiple of heads"):
        build(heads=3)
    with pytest.raises(ModelError, match="kernel is an odd number"):
        build(kernel=4)


def test_it_learns_which_bags_hold_witnesses_which_the_mean_hardly_sees() -> None:
    train, test = witnessed(0, 144), witnessed(1, 120)
    found = auroc(trained("transmil", {"hidden": 32, "heads": 4}, *train, epochs=14, lr=3e-3), *test)
    assert found > 0.85
    assert found > auroc(trained("mean", {}, *train, epochs=20), *test) + 0.05


def test_on_the_lattice_it_sees_which_tiles_are_neighbours_and_abmil_does_not() -> None:
    train, test = neighbouring(0, 128), neighbouring(1, 120)
    options = {"hidden": 32, "heads": 4, "grid": "coords", "dropout": 0.0}
    seen = auroc(trained("transmil", options, *train, epochs=10, lr=3e-3), *test)
    blind = auroc(trained("abmil", {"hidden": 32, "dropout": 0.0}, *train, epochs=10, lr=3e-3), *test)
    assert seen > 0.7  # .77 to .85 over four seeds; chance has a standard deviation of .05
    assert abs(blind - 0.5) < 0.15
