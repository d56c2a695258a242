"""The Triton kernel: interpreted it is right, without a GPU it is left alone."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest
import torch


def test_without_a_gpu_the_kernel_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    triton = pytest.importorskip("histostudy.models.scan_triton")
    triton.usable.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert not triton.usable(torch.device("cpu"))
        assert not triton.usable(torch.device("cpu"))
    assert triton.triton is None or sum("PyTorch scans" in message for message in caplog.messages) == 1
    h = torch.ones(1, 3, 2)
    assert not triton.steps(torch.ones(1, 3, 2), h, False)
    assert torch.equal(h, torch.ones(1, 3, 2))


#: Run where Triton interprets its kernels in NumPy, which must be said before it is imported.
INTERPRETED = """
import torch
from histostudy.models.scan import plain_steps
from histostudy.models.scan_triton import launch, usable
assert usable(torch.device("cpu"))
for shape in ((1, 1, 5), (2, 9, 130), (4, 3, 300)):
    a, start = torch.rand(shape), torch.rand(shape)
    for factors, reverse in ((a, False), (a, True), (a[:, 1:], True)):
        ours, theirs = start.clone(), start.clone()
        launch(factors, ours, reverse)
        plain_steps(factors, theirs, reverse)
        assert torch.allclose(ours, theirs, atol=1e-6), (shape, reverse)
"""


def test_the_kernel_interpreted_gives_what_pytorch_does() -> None:
    pytest.importorskip("triton")
    subprocess.run(
        [sys.executable, "-c", INTERPRETED], check=True, env={**os.environ, "TRITON_INTERPRET": "1"}, timeout=120
    )
