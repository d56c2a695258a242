"""The checkpoint a training is resumed from: one file, written whole, only for the training that wrote it."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from histostudy.files import atomic

logger = logging.getLogger(__name__)

#: Tensors that are not the training's: a frozen teacher's.
LEFT_OUT = "teacher."


def digest_of_weights(module: nn.Module) -> str:
    """SHA-256 of all tensors of a network, to the last bit."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_state(
    path: Path, identity: str, method: nn.Module, optimiser: torch.optim.Optimizer, told: dict[str, Any]
) -> None:
    """Write weights, moving averages, centres, the optimiser's moments, and `told` (JSON-like)."""
    from safetensors.torch import save_file

    tensors = {f"method.{k}": v for k, v in method.state_dict().items() if not k.startswith(LEFT_OUT)}
    for number, values in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{number}.{key}": value for key, value in values.items()}
    kept = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    with atomic(path) as temporary:
        # one note: several would be written in an order of their own each time
        save_file(kept, temporary, {"note": json.dumps({"identity": identity, "told": told})})


def load_state(path: Path, identity: str, method: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Any] | None:
    """Load what `save_state` wrote, in place; None where there is nothing, or another training's."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            note: dict[str, Any] = json.loads((file.metadata() or {}).get("note", "{}"))
            if note.get("identity") != identity:
                logger.info("%s is of another training; this one starts anew", path)
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    except SafetensorError:
        logger.warning("%s is damaged; the training starts anew", path)
        return None
    own = {k.removeprefix("method."): v for k, v in tensors.items() if k.startswith("method.")}
    frozen = {k: v for k, v in method.state_dict().items() if k.startswith(LEFT_OUT)}
    method.load_state_dict(own | frozen)
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimiser."):
            _, number, key = name.split(".", 2)
            moments.setdefault(int(number), {})[key] = value
    optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})
    told: dict[str, Any] = note["told"]
    return told
