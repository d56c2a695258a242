"""Two processes that share a batch take the step that one takes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from textures import Drawn, textures

from histostudy.encoders.pretraining import parallel
from histostudy.encoders.pretraining.loop import _Run
from histostudy.pretrain_keys import Pretrain

KEYS: dict[str, Any] = {
    "network": "vit_tiny", "options": {"width": 16, "depth": 1, "heads": 2, "patch": 8}, "epochs": 1, "batch_size": 8,
    "prototypes": 12, "head_hidden": 16, "bottleneck": 8, "lr": 1e-3, "monitor_tiles": 8, "koleo": 0.1,
    "views": {"local": 1, "local_size": 16}, "clip": 1e9, "freeze_prototypes": 0,
}  # fmt: skip


def _gradients(method: str, targets: str, out: Path) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    settings = Pretrain(method=method, targets=targets, **KEYS)
    run = _Run(settings, Drawn(textures(16)[0]), out, 0, "cpu", None, None, None, None)
    for step, batch in run._ahead(range(1)):
        run._take(step, batch)
    found = {name: p.grad.clone() for name, p in run.method.named_parameters() if p.grad is not None}
    return found | {name: b for name, b in run.method.named_buffers() if name.endswith("centre")}


CASES = (("dino", "centre"), ("ibot", "sinkhorn"))


def _both(out: Path) -> dict[str, torch.Tensor]:
    return {f"{m} {t} {name}": v for m, t in CASES for name, v in _gradients(m, t, out).items()}


def test_two_processes_have_the_gradient_of_one(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    shared["PYTHONPATH"] = str(Path(__file__).parents[2])
    command = [sys.executable, __file__, str(tmp_path)]
    running = [subprocess.Popen(command, env=os.environ | shared | {"RANK": str(rank)}) for rank in range(2)]
    one = _both(tmp_path)
    assert [process.wait(timeout=300) for process in running] == [0, 0]
    two = torch.load(tmp_path / "two.pt")
    assert one.keys() == two.keys() and len(one) > 40
    for name, want in one.items():
        torch.testing.assert_close(two[name], want, atol=1e-5, rtol=1e-4, msg=lambda m, name=name: f"{name}: {m}")
    assert max(float(g.abs().max()) for g in one.values()) > 1e-3


if __name__ == "__main__":
    torch.set_num_threads(1)
    with parallel.processes("cpu"):
        found = _both(Path(sys.argv[1]))
        if parallel.rank() == 0:
            torch.save(found, Path(sys.argv[1]) / "two.pt")
