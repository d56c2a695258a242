"""Encoders of tables against the same maths group by group, and patients who lack a table."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models.multimodal.tables import BOTH, RNA, patients, with_values
from torch.nn.functional import elu

from histostudy.errors import ModelError
from histostudy.models.batch import Modality
from histostudy.models.multimodal.encoders import (
    GroupedLinear,
    GroupEncoder,
    GroupTokens,
    SNNBlock,
    TableEncoder,
    TableVectors,
)


def own_weights(layer: GroupedLinear, groups: tuple[tuple[int, ...], ...], g: int) -> torch.Tensor:
    start = sum(len(group) for group in groups[:g])
    return layer.weight[start : start + len(groups[g])]


@given(st.lists(st.lists(st.integers(0, 19), min_size=1, max_size=20), min_size=1, max_size=12), st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_the_grouped_encoder_equals_a_loop_over_groups(groups: list[list[int]], seed: int) -> None:
    torch.manual_seed(seed)
    groups = [tuple(group) for group in groups]
    table = Modality("rna", tuple(map(str, range(20))), tuple(groups))
    encoder = GroupEncoder(table, 4, blocks=3).double().eval()
    torch.nn.init.normal_(encoder.first.bias)
    values = torch.randn(3, 20, dtype=torch.float64)
    batch = patients([1, 1, 1])
    batch.modalities = {"rna": type(batch.modalities["rna"])(values, torch.ones(3, dtype=torch.bool))}
    tokens = encoder(batch)
    for g, group in enumerate(groups):
        h = elu(values[:, list(group)] @ own_weights(encoder.first, groups, g) + encoder.first.bias[g])
        for weight, bias in zip(encoder.weights, encoder.biases, strict=True):
            h = elu(h @ weight[g] + bias[g])
        assert torch.allclose(tokens[:, g], h, atol=1e-12)


def test_every_weight_of_every_group_gets_its_own_gradient_and_padding_none() -> None:
    layer = GroupedLinear(((0,), (0, 1, 2, 3, 4), (5, 6)), 7, 3).double()
    values = torch.randn(4, 7, dtype=torch.float64)
    layer(values).sum().backward()
    wanted = torch.cat([values[:, list(g)].sum(0) for g in ((0,), (0, 1, 2, 3, 4), (5, 6))])
    assert torch.allclose(layer.weight.grad, wanted[:, None].expand(-1, 3), atol=1e-12)


def test_weights_start_with_variance_one_over_fan_in() -> None:
    torch.manual_seed(0)
    for fan_in in (10, 100, 1000):
        linear = SNNBlock(fan_in, 400)[0]
        assert linear.weight.var().item() * fan_in == pytest.approx(1, abs=0.1)
        assert linear.weight.mean().item() * fan_in**0.5 == pytest.approx(0, abs=0.05)
        assert not linear.bias.any()
    groups = (tuple(range(3)), tuple(range(300)), tuple(range(60)))
    layer = GroupedLinear(groups, 300, 500)
    for g, group in enumerate(groups):
        assert own_weights(layer, groups, g).var().item() * len(group) == pytest.approx(1, abs=0.1)
    later = GroupEncoder(Modality("rna", tuple("abc"), ((0,), (1, 2))), 100, blocks=2).weights[0]
    assert later.var().item() * 100 == pytest.approx(1, abs=0.1)


def test_activations_keep_their_scale_through_blocks() -> None:
    torch.manual_seed(0)
    deep = torch.nn.Sequential(*(SNNBlock(256, 256) for _ in range(8))).eval()
    assert 0.05 < deep(torch.randn(200, 256)).std() < 1.5


@pytest.mark.parametrize("kind", [GroupTokens, TableVectors])
def test_a_missing_table_is_a_learned_vector_whatever_its_values(kind: type) -> None:
    torch.manual_seed(0)
    encoder = kind(BOTH, 6).double().eval()
    batch = patients([2, 3, 1], missing=(1,))
    out = encoder(batch)
    assert not torch.equal(out[0], out[1])
    noise = batch.modalities["rna"].values.clone()
    noise[1] = torch.nan
    again = with_values(batch, "rna", noise)
    assert torch.equal(encoder(again), out)
    encoder(again).square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters())
    learned = encoder.encoders[0].missing
    assert torch.allclose(learned.grad, 2 * learned.detach())  # the patient's vector is the learned one itself
    assert not encoder.encoders[1].missing.grad.any()


def test_all_patients_of_a_batch_may_lack_a_table() -> None:
    batch = patients([2, 3], missing=(0, 1))
    tokens = GroupEncoder(RNA, 6).double().train()(batch)
    assert torch.equal(tokens[0], tokens[1])
    assert torch.isfinite(tokens).all()


def test_shapes() -> None:
    batch = patients([2, 3])
    tokens = GroupTokens(BOTH, 6).double()
    assert tokens(batch).shape == (2, 5, 6)
    assert tokens.count == 5
    vectors = TableVectors(BOTH, 6).double()
    assert vectors(batch).shape == (2, 12)
    assert vectors.dim_out == 12


def test_wrong_tables_are_one_line() -> None:
    columns = ("a", "b")
    with pytest.raises(ModelError, match="modality rna has no group"):
        GroupEncoder(Modality("rna", columns, ()), 4)
    with pytest.raises(ModelError, match="group 1 of modality rna has no column"):
        GroupEncoder(Modality("rna", columns, ((0,), ())), 4)
    with pytest.raises(ModelError, match="names a column that is not there; the columns are 0 to 1"):
        GroupEncoder(Modality("rna", columns, ((0, 2),)), 4)
    with pytest.raises(ModelError, match="modality rna has no column"):
        TableEncoder(Modality("rna", (), ()), 4)
    with pytest.raises(ModelError, match="modality rna has 9 columns, the model expects 2"):
        TableEncoder(Modality("rna", columns, ()), 4)(patients([1]))
    with pytest.raises(ModelError, match="come without modality mutations"):
        TableEncoder(Modality("mutations", columns, ()), 4)(patients([1]))
