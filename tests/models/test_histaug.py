"""The generator on a toy encoder whose changes are known, and its parts against slow loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from histostudy.errors import ModelError
from histostudy.features.pairs import Pairs
from histostudy.models.histaug import (
    Block,
    Cosines,
    Generator,
    GeneratorSettings,
    check_generator,
    held_out,
    sinusoids,
    train_generator,
)

#: Three blocks of width 16 with four heads; fewer steps at a higher rate than in the notes, for the test's sake.
TOY = GeneratorSettings(width=16, steps=350, lr=4e-3)
TOY_CODES = (0, 0, 2)


def toy_pairs(n: int, seed: int, features_seed: int = 0) -> Pairs:
    """A frozen random encoder (24 -> 128 tanh -> 64) and three changes of its inputs: gain, offset, mask."""
    fixed = np.random.default_rng(features_seed)
    first, second = fixed.normal(size=(24, 128)) / 24**0.5, fixed.normal(size=(128, 64)) / 128**0.5
    colour, mask = fixed.normal(size=24), fixed.random(24) < 0.25
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 24))
    values = np.stack([rng.uniform(-0.5, 0.5, n), rng.uniform(-0.5, 0.5, n), rng.random(n) < 0.75], 1)
    positions = rng.permuted(np.tile(np.arange(3), (n, 1)), axis=1)
    y = x.copy()
    for i in range(n):
        for k in np.argsort(positions[i]):
            if k == 0:
                y[i] = y[i] * (1 + values[i, 0])
            elif k == 1:
                y[i] = y[i] + values[i, 1] * colour
            elif values[i, 2]:
                y[i] = np.where(mask, 0, y[i])

    def encode(z: np.ndarray) -> np.ndarray:
        return (np.tanh(z @ first) @ second).astype(np.float32)

    patients = np.array([f"p{i % 20:02d}" for i in range(n)])
    return Pairs(encode(x), encode(y), values.astype(np.float32), positions, patients, TOY_CODES, 0.5)


@pytest.fixture(scope="module")
def toy() -> tuple[Generator, Cosines]:
    return train_generator(toy_pairs(8000, 1), TOY, 0)


def test_the_toys_thresholds(toy: tuple[Generator, Cosines]) -> None:
    generator, held = toy
    for cosines in (held, check_generator(generator, toy_pairs(1000, 2), 0)):
        assert cosines.generated - cosines.original >= 0.08, cosines
        assert abs(cosines.wrong - cosines.original) <= 0.02, cosines
        assert cosines.identity >= 0.98, cosines


def test_the_order_of_changes_is_seen(toy: tuple[Generator, Cosines]) -> None:
    generator, _ = toy
    features = torch.from_numpy(toy_pairs(200, 3).features)
    told = torch.tensor([[0.5, 0.5, 1.0]]).expand(200, 3)
    one, other = (generator(features, told, torch.tensor([order]).expand(200, 3)) for order in ([0, 1, 2], [2, 1, 0]))
    assert (one - other).abs().mean() > 0.02


def test_a_bags_changes_are_those_of_each_tile(toy: tuple[Generator, Cosines]) -> None:
    generator, _ = toy
    pairs = toy_pairs(50, 4)
    features, groups = torch.from_numpy(pairs.features), torch.arange(50) % 3
    values, positions = torch.from_numpy(pairs.values[:3]), torch.from_numpy(pairs.positions[:3])
    shared = generator(features, values, positions, groups)
    torch.testing.assert_close(shared, generator(features, values[groups], positions[groups]))
    assert not shared.requires_grad


def test_training_repeats_and_leaves_the_global_state() -> None:
    pairs, quick = toy_pairs(200, 1), GeneratorSettings(width=8, blocks=1, steps=5)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    (one, cosines), (other, again) = train_generator(pairs, quick, 7), train_generator(pairs, quick, 7)
    assert torch.rand(1) == expected
    assert cosines == again
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[name], rtol=0, atol=0)


def test_a_block_is_that_of_a_slow_loop() -> None:
    torch.manual_seed(0)
    block = Block(8, 2, 4).double()
    x, z = torch.randn(3, 4, 8).double(), torch.randn(3, 5, 8).double()
    expected = x.clone()
    for n in range(3):
        q, kv = block.query(block.norm_x(x[n])), block.key_value(block.norm_z(z[n]))
        k, v = kv[:, :8], kv[:, 8:]
        mixed = torch.zeros(4, 8).double()
        for head in range(2):
            part = slice(4 * head, 4 * head + 4)
            for i in range(4):
                query = block.query_norm(q[i, part])
                scores = [(query @ block.key_norm(k[j, part])).item() / math.sqrt(4) for j in range(5)]
                weights = np.exp(scores) / np.exp(scores).sum()
                for j in range(5):
                    mixed[i, part] += weights[j] * v[j, part]
        middle = x[n] + block.out(mixed)
        expected[n] = middle + block.mlp(block.norm(middle))
    torch.testing.assert_close(block(x, z, None), expected)


def test_chunks_do_not_mix_before_the_last_layer() -> None:
    torch.manual_seed(0)
    generator = Generator(22, TOY_CODES, 0.5, TOY)
    assert generator.padding == 2
    told, when = torch.zeros(1, 3), torch.tensor([[0, 1, 2]])
    seen: list[torch.Tensor] = []
    generator.norm.register_forward_hook(lambda module, inputs, output: seen.append(output))
    one = torch.randn(1, 22)
    other = one.clone()
    other[0, :3] += 1  # the first chunk
    assert generator(one, told, when).shape == (1, 22)
    generator(other, told, when)
    moved = (seen[0] - seen[1]).abs().amax(2)[0]
    assert moved[0] > 0.01 and (moved[1:] == 0).all()


def test_positions_are_fixed_sinusoids() -> None:
    table = sinusoids(5, 6)
    for i in range(5):
        for j in range(3):
            angle = i * 10000 ** (-j / 3)
            assert table[i, j] == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[i, 3 + j] == pytest.approx(math.cos(angle), abs=1e-6)


def test_the_values_are_seen_alike_at_every_intensity() -> None:
    torch.manual_seed(0)
    strong = Generator(16, (0, 3), 0.5, TOY)
    weak = Generator(16, (0, 3), 0.05, TOY)
    weak.load_state_dict(strong.state_dict())
    features, when = torch.randn(2, 16), torch.tensor([[0, 1], [1, 0]])
    told = torch.tensor([[0.3, 2], [-0.5, 1]])
    torch.testing.assert_close(strong(features, told, when), weak(features, told * torch.tensor([0.1, 1]), when))
    silent = Generator(16, (0, 3), 0.0, TOY)
    assert silent(features, told * torch.tensor([0, 1]), when).isfinite().all()


def test_patients_are_held_out_whole() -> None:
    pairs = toy_pairs(100, 1)
    learnt, held = held_out(pairs, 0.2, 0)
    assert len(set(held.patients)) == 4 and not set(held.patients) & set(learnt.patients)
    assert len(learnt) + len(held) == 100
    assert len(held_out(pairs, 0.0, 0)[1]) == 0
    lone = pairs.take(pairs.patients == "p03")
    assert len(held_out(lone, 0.2, 0)[0]) == len(lone)
    _, cosines = train_generator(lone, GeneratorSettings(width=8, blocks=1, steps=1), 0)
    assert math.isnan(cosines.generated)


def test_a_constant_column_stays_finite_and_a_mad_rate_is_named() -> None:
    pairs = toy_pairs(60, 1)
    pairs.features[:, 3] = pairs.augmented[:, 3] = 2.0
    generator, cosines = train_generator(pairs, GeneratorSettings(width=8, blocks=1, steps=3), 0)
    assert generator.scale[3] == 1 and math.isfinite(cosines.generated)
    pairs.augmented[:, 5] = 3e38
    with pytest.raises(ModelError, match="not finite; lower its lr"):
        train_generator(pairs, GeneratorSettings(width=8, blocks=1, steps=3), 0)


@pytest.mark.parametrize(
    "wrong",
    [{"chunks": 0}, {"width": 33}, {"heads": 3}, {"steps": 1.5}, {"lr": 0}, {"lr": "1e-3"}, {"weight_decay": -1},
     {"held_out": 1}, {"blocks": True}, {"width": 9, "heads": 3}],
)  # fmt: skip
def test_settings_that_cannot_be(wrong: dict) -> None:
    with pytest.raises(ModelError, match="wrong option"):
        GeneratorSettings(**wrong)
