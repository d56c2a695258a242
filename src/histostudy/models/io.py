"""Weights on disk: safetensors, with the model's configuration as JSON in the metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histostudy.errors import ModelError
from histostudy.files import atomic

if TYPE_CHECKING:
    from torch import Tensor

    from histostudy.models.ensemble import Network
    from histostudy.models.model import MILModel

KEY = "histostudy"


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write named tensors and a JSON-like configuration, atomically."""
    from safetensors.torch import save

    data = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    with atomic(path) as temporary:
        temporary.write_bytes(save(data, {KEY: json.dumps(config, sort_keys=True)}))


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote.

    Raises
    ------
    ModelError
        If the file is missing, broken or not ours.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "pt") as stream:
            metadata = stream.metadata() or {}
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except (SafetensorError, FileNotFoundError) as error:
        raise ModelError(f"cannot read weights ({error})", where=path, todo="train the model again") from None
    if KEY not in metadata:
        raise ModelError("weights of another program", where=path, todo="give weights that `train` wrote")
    return tensors, json.loads(metadata[KEY])


def save_model(path: str | Path, model: MILModel, extra: Mapping[str, Any] | None = None) -> None:
    """Write a model's weights, buffers and configuration; `extra` is kept in the configuration."""
    save_tensors(path, model.state_dict(), {**model.config, "extra": dict(extra or {})})


def load_model(path: str | Path) -> tuple[Network, dict[str, Any]]:
    """Rebuild a model, in evaluation mode on the CPU.

    Returns
    -------
    model : MILModel or Ensemble
        With its weights.
    config : dict
        What it was built from.

    Raises
    ------
    ModelError
        If the file cannot be read, or holds a control without tiles.
    """
    from histostudy.models.ensemble import Ensemble
    from histostudy.models.model import MILModel

    tensors, config = load_tensors(path)
    if "aggregator" not in config:
        raise ModelError("a control that sees no tiles", where=path, todo="name a model with an aggregator")
    model: Network = (Ensemble if "members" in config else MILModel).from_config(config)
    for name, buffer in list(model.named_buffers()):
        stored = tensors[name]
        if stored.shape != buffer.shape:  # the Cox baseline is as long as the training part has event times
            owner, _, own = name.rpartition(".")
            setattr(model.get_submodule(owner), own, stored)
    model.load_state_dict(tensors)
    return model.eval(), config
