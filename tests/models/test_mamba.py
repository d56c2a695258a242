"""Mamba's mixer: its start, its convolution, the orders in which bags are read."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from histostudy.models.batch import BagBatch
from histostudy.models.mamba import Branch, Mixer, Path, inverse, strided, turned
from histostudy.models.model import MILModel
from histostudy.models.selective_scan import selective_scan

lengths = st.lists(st.integers(1, 60), min_size=1, max_size=4)


def batch_of(sizes: list[int], dim: int = 1) -> BagBatch:
    generator = torch.Generator().manual_seed(0)
    return BagBatch.pack([torch.randn(n, dim, generator=generator, dtype=torch.float64) for n in sizes])


@given(lengths, st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_strides_are_those_of_a_slow_loop_and_are_undone_exactly(sizes: list[int], rate: int) -> None:
    batch = batch_of(sizes)
    expected, start = [], 0
    for size in sizes:
        expected += [start + i for first in range(rate) for i in range(first, size, rate)]
        start += size
    order = strided(batch, rate)
    assert order.tolist() == expected
    assert torch.equal(order[inverse(order)], torch.arange(len(order)))
    assert torch.equal(batch.features[order][inverse(order)], batch.features)


def test_without_a_rest_strides_are_the_published_transpose() -> None:
    assert strided(batch_of([12]), 4).tolist() == torch.arange(12).view(3, 4).T.flatten().tolist()


@given(lengths)
@settings(max_examples=20, deadline=None)
def test_turning_reads_each_bag_from_its_end(sizes: list[int]) -> None:
    batch = batch_of(sizes)
    read = batch.features[turned(batch)].split(sizes)
    assert all(torch.equal(ours, bag.flip(0)) for ours, bag in zip(read, batch.features.split(sizes), strict=True))


@pytest.mark.parametrize("size", [1, 2, 3, 9])
def test_the_convolution_is_causal_and_ends_with_the_bag(size: int) -> None:
    branch, batch = Branch(3, 2, 4, 1).double(), batch_of([2, size, 5], 3)
    expected = batch.features.new_zeros(len(batch.features), 3)
    for t in range(len(expected)):
        expected[t] = branch.bias.detach()
        for back in range(min(4, int(batch.place[t]) + 1)):
            expected[t] += branch.kernel[back].detach() * batch.features[t - back]
    assert torch.allclose(branch.convolved(batch.features, batch.place), expected, atol=1e-12)


def slow_mixer(mixer: Mixer, tokens: Tensor) -> Tensor:
    """One bag, one branch along it, token by token (Gu and Dao, algorithm 2)."""
    branch: Branch = mixer.branches[0]  # type: ignore[assignment]
    x, z = (tokens @ mixer.enter.weight.T).chunk(2, 1)
    state, out = torch.zeros(x.shape[1], branch.split[1], dtype=x.dtype), []
    for t in range(len(x)):
        seen = branch.bias + sum(branch.kernel[k] * x[t - k] for k in range(min(t + 1, len(branch.kernel))))
        seen = seen * torch.sigmoid(seen)
        step, b, c = (branch.project.weight @ seen).split(branch.split)
        dt = (1 + (branch.step.weight @ step + branch.step.bias).exp()).log()
        state = (dt[:, None] * -branch.log_decay.exp()).exp() * state + dt[:, None] * b * seen[:, None]
        out.append((state @ c + branch.passing * seen) * z[t] * torch.sigmoid(z[t]))
    return torch.stack(out) @ mixer.leave.weight.T


def test_the_mixer_is_the_papers_algorithm_token_by_token() -> None:
    torch.manual_seed(0)
    mixer, batch = Mixer(6, 2, 3, 4).double(), batch_of([7, 1, 12], 6)
    path = Path(None, batch.place, lambda *values: selective_scan(*values, offsets=batch.offsets))
    slow = torch.cat([slow_mixer(mixer, bag) for bag in batch.features.split([7, 1, 12])])
    assert (mixer(batch.features, [path]) - slow).abs().max() < 1e-10


@pytest.mark.parametrize("name", ["mambamil", "mamba2d", "lbmamba"])
def test_the_start_of_the_steps_is_kept_in_the_whole_model(name: str) -> None:
    """Drawn anew, as in the published MambaMIL, every step would start at softplus(0) = 0.69."""
    torch.manual_seed(0)
    model = MILModel(5, name, {"hidden": 256}, {"kind": "classification", "classes": ["a", "b"]})
    branches = [module for module in model.modules() if isinstance(module, Branch)]
    assert branches
    for branch in branches:
        first = torch.nn.functional.softplus(branch.step.bias.detach())
        assert 0.99e-3 <= first.min() < 2e-3
        assert 0.05 < first.max() <= 0.101
        # the mean of a log-uniform draw
        assert first.mean().item() == pytest.approx(0.099 / math.log(100), rel=0.2)
        assert branch.step.weight.abs().max() <= branch.split[0] ** -0.5
        assert torch.allclose(branch.log_decay.exp(), torch.arange(1.0, 17).expand(512, 16))
        assert (branch.passing == 1).all()
        assert all(p._no_weight_decay for p in (branch.step.bias, branch.log_decay, branch.passing))
