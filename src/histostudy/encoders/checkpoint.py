"""Find an encoder's weights, on disk or on the hub, and take their fingerprint without loading them."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histostudy.encoders.base import EncoderFacts
from histostudy.errors import EncoderError
from histostudy.files import sha256

logger = logging.getLogger(__name__)

#: Names of weights in a folder, in the order of preference.
PATTERNS = ("model.safetensors", "*.safetensors", "pytorch_model.bin", "*.bin", "*.pth", "*.pt")
SUFFIXES = frozenset({".safetensors", ".bin", ".pth", ".pt"})


@dataclass(frozen=True)
class Weights:
    """Weights found on this machine.

    Attributes
    ----------
    files : tuple of Path
        The file, or the shards of it.
    config : dict
        The `config.json` beside them; empty where there is none.
    processor : dict
        The `preprocessor_config.json` beside them; empty where there is none.
    sha256 : str
        Of the file's bytes; of the shards' hashes in order of name where there are several.
    revision : str or None
        Commit of the hub repository; None for a local checkpoint.
    """

    files: tuple[Path, ...]
    config: dict[str, Any]
    processor: dict[str, Any]
    sha256: str
    revision: str | None

    @property
    def folder(self) -> Path:
        """Folder that holds the files."""
        return self.files[0].parent


def find_weights(facts: EncoderFacts, checkpoint: Path | None) -> Weights:
    """Weights of an encoder: `checkpoint` where given, else from the hub (or its cache).

    Parameters
    ----------
    facts : EncoderFacts
        Of the encoder.
    checkpoint : Path or None
        A `.safetensors`, `.bin`, `.pth` or `.pt` file, or a folder as `save_pretrained` writes it.

    Raises
    ------
    EncoderError
        If there are none: says what to do next.
    """
    if checkpoint is not None:
        return _local(Path(checkpoint), facts, None)
    if facts.hub_id is None:
        raise EncoderError(f"encoder {facts.name} has no public weights", todo="give features.checkpoint: a local copy")
    return _hub(facts)


def _local(path: Path, facts: EncoderFacts, revision: str | None) -> Weights:
    if not path.exists():
        raise EncoderError(f"no checkpoint {path}", todo="correct features.checkpoint")
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise EncoderError(
                f"checkpoint {path} is not a weights file",
                todo=f"give one of {', '.join(sorted(SUFFIXES))} or a folder",
            )
        files: tuple[Path, ...] = (path,)
        folder = path.parent
    else:
        folder = path
        files = next((tuple(sorted(folder.glob(p))) for p in PATTERNS if any(folder.glob(p))), ())
        if not files:
            raise EncoderError(
                f"no weights in {folder}",
                where=facts.name,
                todo="it should hold model.safetensors or pytorch_model.bin",
            )
    hashes = [sha256(f) for f in files]
    digest = hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
    return Weights(files, _json(folder / "config.json"), _json(folder / "preprocessor_config.json"), digest, revision)


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as bad:
        raise EncoderError(f"not JSON ({bad})", where=path, todo="download it again") from bad
    return value if isinstance(value, dict) else {}


def _hub(facts: EncoderFacts) -> Weights:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    hub_id = str(facts.hub_id)
    page = f"https://huggingface.co/{hub_id}"
    local = "or give features.checkpoint: a local copy"
    what = f"encoder {facts.name}: "
    try:
        folder = snapshot_download(
            hub_id,
            revision=facts.revision,
            allow_patterns=["config.json", "preprocessor_config.json", "*.safetensors*", "pytorch_model*.bin*"],
        )
    except GatedRepoError as bad:
        raise EncoderError(
            f"{what}{hub_id} is gated and this machine has no access",
            todo=f"accept the licence at {page}, then `hf auth login` (huggingface-cli login), {local}",
        ) from bad
    except RevisionNotFoundError as bad:
        raise EncoderError(f"{what}{hub_id} has no revision {facts.revision!r}", todo=f"see {page}/commits") from bad
    except RepositoryNotFoundError as bad:
        raise EncoderError(
            f"{what}no model {hub_id} on the hub, or it is private",
            todo=f"check the id, or `hf auth login` (huggingface-cli login), {local}",
        ) from bad
    except (LocalEntryNotFoundError, HfHubHTTPError, ConnectionError) as bad:
        gate = f"accept the licence at {page}, `hf auth login` (huggingface-cli login) and " if facts.gated else ""
        raise EncoderError(
            f"{what}{hub_id} is not in this machine's cache and the hub cannot be reached",
            todo=f"{gate}run once with the network, {local}",
        ) from bad
    return _local(Path(folder), facts, Path(folder).name)


def read_state(weights: Weights) -> dict[str, Any]:
    """Tensors of a weights file, by name; pickled files are read with `weights_only`.

    Raises
    ------
    EncoderError
        If a file holds anything but tensors, or is broken.
    """
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    state: dict[str, Any] = {}
    for file in weights.files:
        try:
            if file.suffix == ".safetensors":
                part: Any = load_file(file)
            else:
                part = torch.load(file, map_location="cpu", weights_only=True)
        except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as bad:
            reason = str(bad).splitlines()[0][:120] if str(bad) else type(bad).__name__
            raise EncoderError(
                f"not a file of tensors ({reason})", where=file, todo="download it again, or save it as .safetensors"
            ) from bad
        for key in ("state_dict", "model", "teacher"):
            if isinstance(part, dict) and isinstance(part.get(key), dict):
                part = part[key]
        if not isinstance(part, dict) or not all(isinstance(v, torch.Tensor) for v in part.values()):
            raise EncoderError("holds more than tensors", where=file, todo="save the state_dict alone")
        state.update(part)
    for prefix in ("module.", "model.", "backbone.", "encoder."):
        if state and all(k.startswith(prefix) for k in state):
            state = {k.removeprefix(prefix): v for k, v in state.items()}
    return state
