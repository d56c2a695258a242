"""Both paths of the network: what each can see, what each costs, and options that cannot be."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from histostudy.errors import ConfigError, ModelError
from histostudy.models.tilenets import TILENETS, build_tilenet, multiply_adds
from histostudy.models.tilenets.dct import dct2, low_pass
from histostudy.models.tilenets.dct_histotransformer import DCTAttention, DCTHistoTransformerOptions

SMALL = {"widths": [16, 16], "stem": 1, "heads": 2}


@pytest.mark.parametrize(
    "options", [{}, {"fusion": "add", "squeeze": True}, {"paths": "dct"}, {"paths": "conv"}, {"keep": 1}]
)
@pytest.mark.parametrize("size", [(2, 3), (17, 30), (32, 32)])
def test_any_tile_size_gives_logits_that_batch_mates_do_not_change(options: dict, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    net = build_tilenet("dct_histotransformer", 3, options).eval()
    tiles = torch.randn(4, 3, *size)
    with torch.no_grad():
        together, alone = net(tiles), net(tiles[2:3])
    assert together.shape == (4, 3) and torch.isfinite(together).all()
    assert torch.allclose(together[2:3], alone, atol=1e-5)
    assert torch.allclose(net(tiles.flip(0)).flip(0), together, atol=1e-5)


def test_every_parameter_is_trained() -> None:
    torch.manual_seed(0)
    net = build_tilenet("dct_histotransformer", 2, SMALL | {"squeeze": True})
    cross_entropy(net(torch.randn(4, 3, 16, 16)), torch.tensor([0, 1, 0, 1])).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


def test_attention_sees_low_frequencies_alone_and_halves_the_map() -> None:
    torch.manual_seed(0)
    path = DCTAttention(8, 2, 0.25).double()
    maps = torch.randn(2, 8, 16, 20).double()
    found = path(maps)
    assert found.shape == (2, 8, 8, 10)
    assert torch.allclose(path(low_pass(maps, (4, 5))), found, atol=1e-10)
    assert dct2(found)[..., 4:, :].abs().max() < 1e-12 and dct2(found)[..., 5:].abs().max() < 1e-12
    torch.nn.init.zeros_(path.out.weight)
    torch.nn.init.zeros_(path.out.bias)
    flat = torch.full((1, 8, 16, 20), 3.0).double()
    assert torch.allclose(path(flat), flat[..., :8, :10])  # without attention, the map at half the side


def test_attention_against_a_loop() -> None:
    torch.manual_seed(0)
    path = DCTAttention(4, 2, 0.5).double()
    maps = torch.randn(1, 4, 4, 6).double()
    tokens = dct2(maps)[0, :, :2, :3].reshape(4, 6).T
    rows = []
    for v in range(2):
        for u in range(3):
            place = [f(math.pi * w * s) for s in (v / 4, u / 6) for f in (math.sin, math.cos) for w in (1, 2, 4, 8)]
            rows.append(path.place.weight @ torch.tensor(place).double())
    q, k, v = path.qkv(path.norm(tokens) + torch.stack(rows)).chunk(3, 1)
    mixed = torch.cat([((q[:, h] @ k[:, h].T) / 2**0.5).softmax(1) @ v[:, h] for h in (slice(0, 2), slice(2, 4))], 1)
    wanted = (tokens + path.out(mixed)).T.reshape(4, 2, 3) * math.sqrt(6 / 24)
    assert torch.allclose(dct2(path(maps))[0, :, :2, :3], wanted, atol=1e-6)  # float32 sines


def textures(count: int, seed: int, high: bool, null: bool = False, size: int = 24) -> tuple[Tensor, Tensor]:
    """Gratings of random sign and of one low or high frequency under noise; the class is their direction."""
    rng = torch.Generator().manual_seed(seed)
    y = torch.randint(2, (count,), generator=rng)
    low_end, high_end = (19, 21) if high else (1, 3)
    frequency = torch.randint(low_end, high_end, (count, 1), generator=rng)
    sign = torch.randint(2, (count, 1), generator=rng) * 2 - 1
    wave = sign * torch.cos(math.pi * (2 * torch.arange(size) + 1) * frequency / (2 * size))
    drawn = torch.where((y == 0)[:, None, None], wave[:, :, None], wave[:, None, :])
    tiles = 2 * drawn[:, None] + torch.randn(count, 3, size, size, generator=rng)
    return tiles, y[torch.randperm(count, generator=rng)] if null else y


def accuracy(paths: str, high: bool, null: bool = False) -> float:
    torch.manual_seed(0)
    net = build_tilenet("dct_histotransformer", 2, SMALL | {"paths": paths})
    tiles, y = textures(192, 1, high, null)
    optimiser = torch.optim.AdamW(net.parameters(), lr=5e-3)
    net.train()
    for _ in range(10 if paths == "dct" else 4):
        for some in torch.randperm(len(y)).split(32):
            optimiser.zero_grad()
            cross_entropy(net(tiles[some]), y[some]).backward()
            optimiser.step()
    tiles, y = textures(200, 2, high, null)
    with torch.no_grad():
        return float((net.eval()(tiles).argmax(1) == y).float().mean())


def test_attention_alone_learns_what_is_coarse_and_not_what_is_fine() -> None:
    assert accuracy("dct", high=False) > 0.9
    assert accuracy("dct", high=True) < 0.65


def test_convolutions_alone_learn_what_is_fine() -> None:
    assert accuracy("conv", high=True) > 0.9


def test_both_paths_learn_both_and_no_more() -> None:
    assert accuracy("both", high=False) > 0.9
    assert accuracy("both", high=True) > 0.9
    assert accuracy("both", high=True, null=True) < 0.65


def test_the_cost_is_counted() -> None:
    net = build_tilenet("dct_histotransformer", 2, {"widths": [8], "stem": 2, "heads": 1, "paths": "conv", "expand": 2})
    # stem, enter, widen on 8 x 8; 3x3 of each channel, narrow, join on 4 x 4; last
    expected = 64 * (12 * 8 + 8 * 8 + 8 * 16) + 16 * (9 * 16 + 16 * 8 + 8 * 8) + 8 * 2
    assert net.training and multiply_adds(net, 16, 16) == expected and net.training
    costs = {k: multiply_adds(build_tilenet("dct_histotransformer", 2, {"paths": "dct", "keep": k}), 64, 64)
             for k in (0.25, 0.5, 1)}  # fmt: skip
    assert costs[0.25] < costs[0.5] < costs[1]


def test_names_and_options_that_are_not() -> None:
    with pytest.raises(ConfigError, match="unknown tile network 'dct'"):
        build_tilenet("dct", 2)
    with pytest.raises(ModelError, match="unknown option 'width'.*known: widths, stem"):
        build_tilenet("dct_histotransformer", 2, {"width": 3})
    with pytest.raises(ModelError, match="a tile of 1 x 5 pixels.*at least 2"):
        build_tilenet("dct_histotransformer", 2)(torch.zeros(1, 3, 1, 5))


EVERY = [(name, field) for name in TILENETS for field in fields(TILENETS[name].Options)]


@pytest.mark.parametrize(("name", "field"), EVERY, ids=lambda value: getattr(value, "name", value))
def test_a_value_that_cannot_be_is_one_line(name: str, field) -> None:
    bad = ["big", "1e-1", "", -1, -0.5, math.nan, -math.inf, [-1], ["1"], {}, {"a": 1}, None]
    bad += [0, 1] if field.type == "bool" else [True, False]
    for value in bad:
        with pytest.raises(ModelError, match=rf"wrong option: .*{field.name}"):
            build_tilenet(name, 2, {field.name: value})
    given = {f.name: getattr(TILENETS[name].Options(), f.name) for f in fields(TILENETS[name].Options)}
    assert build_tilenet(name, 2, given).options == DCTHistoTransformerOptions()
