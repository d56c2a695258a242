"""What protects earlier tasks is that an adapter is zero on their inputs, not that adapters are orthogonal."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from histostudy.training.continual.owlora import AdaptedLinear

DIM, RANK, TASKS, OUT = 32, 8, 4, 4


def test_an_adapter_is_zero_on_what_is_protected() -> None:
    torch.manual_seed(0)
    layer = AdaptedLinear(DIM, OUT, RANK)
    old = torch.randn(100, 6) @ torch.randn(6, DIM)
    layer.protect(old, 1.0)
    assert layer.basis.shape == (DIM, 6)
    torch.testing.assert_close(layer.basis.T @ layer.basis, torch.eye(6), atol=1e-6, rtol=0)
    layer.begin(torch.Generator().manual_seed(0))
    before = layer(old)
    optimiser = torch.optim.AdamW([p for p in layer.parameters() if p.requires_grad], lr=1e-2)
    new = torch.randn(64, DIM)
    for _ in range(100):
        optimiser.zero_grad()
        (layer(new) - new[:, :OUT].sin()).square().mean().backward()
        optimiser.step()
        layer.project()
        assert float((layer.a @ layer.basis).detach().norm()) <= 1e-6
    assert float(layer.b.detach().abs().max()) > 0.01  # it did learn
    assert float((layer(old) - before).abs().max()) <= 1e-5
    learned = layer(new).detach()
    layer.merge()
    torch.testing.assert_close(layer(new), learned, atol=1e-5, rtol=0)
    assert not any(p.requires_grad for p in layer.parameters())


def test_the_protected_space_holds_the_energy_that_is_asked_for_and_no_more() -> None:
    torch.manual_seed(0)
    layer = AdaptedLinear(DIM, OUT, RANK)
    lengths = torch.tensor([10.0, 5.0, 1.0, 0.5, 0.1])
    x = torch.linalg.qr(torch.randn(50, 5))[0] * lengths @ torch.linalg.qr(torch.randn(DIM, 5))[0].T
    layer.protect(x, 0.99)
    share = (lengths**2).cumsum(0) / (lengths**2).sum()
    assert layer.basis.shape[1] == int((share < 0.99).sum()) + 1
    held = layer.basis.shape[1]
    layer.protect(x, 0.99)  # the same again adds nothing
    assert layer.basis.shape[1] == held
    layer.protect(x, 1.0)
    assert layer.basis.shape[1] == 5


def test_a_layer_that_is_full_says_so_and_its_adapter_is_nothing(caplog: pytest.LogCaptureFixture) -> None:
    layer = AdaptedLinear(4, 3, 2)
    layer.protect(torch.randn(20, 4, generator=torch.Generator().manual_seed(0)), 1.0)
    assert layer.used == 1 and "no direction left" in caplog.text
    layer.begin(torch.Generator().manual_seed(0))
    assert float(layer.a.abs().max()) <= 1e-6


def _r2(layer: AdaptedLinear, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float(1 - (layer(x) - y).square().sum() / (y - y.mean(0)).square().sum())


def _toy(seed: int, way: str) -> tuple[float, float, float]:
    """Four linear regressions, each of inputs in its own 6 dimensions: final R2, forgetting, max |cos(A_i, A_j)|."""
    generator = torch.Generator().manual_seed(seed)
    layer = AdaptedLinear(DIM, OUT, RANK)
    layer.base.requires_grad_(False)
    torch.nn.init.zeros_(layer.base.weight)
    torch.nn.init.zeros_(layer.base.bias)
    data, rows, first = [], [], []
    for _ in range(TASKS):
        plane = torch.linalg.qr(torch.randn(DIM, 6, generator=generator))[0]
        x = torch.randn(200, 6, generator=generator) @ plane.T + 0.05 * torch.randn(200, DIM, generator=generator)
        data.append((x, x @ torch.randn(DIM, OUT, generator=generator)))
    for x, y in data:
        layer.begin(generator)
        optimiser = torch.optim.Adam([layer.a, layer.b], lr=2e-2)
        for _ in range(400):
            optimiser.zero_grad()
            (layer(x) - y).square().mean().backward()
            optimiser.step()
            layer.project()
        first.append(_r2(layer, x, y))
        a = layer.merge()
        rows.append(a / a.norm(dim=1, keepdim=True))
        if way == "inputs":
            layer.protect(x, 0.99)
        elif way == "rows":
            layer.protect(a, 1.0)
    last = [_r2(layer, x, y) for x, y in data]
    cosines = [float((rows[i] @ rows[j].T).abs().max()) for i in range(TASKS) for j in range(i)]
    lost = float(np.mean([a - b for a, b in zip(first[:-1], last[:-1], strict=True)]))
    return float(np.mean(last)), lost, max(cosines)


def test_inputs_protect_and_rows_do_not() -> None:
    ways = {way: np.mean([_toy(seed, way) for seed in range(3)], 0) for way in ("inputs", "rows", "nothing")}
    # R2 at the end, forgetting and cosine: inputs 0.95, 0.04, 0.47; rows -1.3, 3.0, 0; nothing 0.04, 1.3, 0.56.
    # What is left at inputs is the noise outside the planes, a hundredth of the energy, which is not protected.
    assert ways["inputs"][0] > 0.9 and abs(ways["inputs"][1]) < 0.1
    assert ways["rows"][2] < 1e-5 and ways["rows"][1] > 1  # as orthogonal as can be, and it does not help
    assert ways["nothing"][1] > 0.5
