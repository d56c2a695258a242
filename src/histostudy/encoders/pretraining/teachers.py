"""What a student learns from: another encoder's vectors and tokens, or the prototypes of one made here."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from histostudy.encoders.pretraining.losses import Head, Targets
from histostudy.encoders.pretraining.students import build_student
from histostudy.errors import EncoderError
from histostudy.files import read_json, sha256

if TYPE_CHECKING:
    from histostudy.encoders.base import Encoder

#: Heads and centres of an encoder made here, beside its weights.
HEADS_FILE = "heads.safetensors"

Vectors = Callable[[np.ndarray], np.ndarray]


class Teacher:
    """Vectors of tiles by a function, such as `Encoder.encode`; no patch tokens.

    Parameters
    ----------
    vectors : callable
        Takes uint8 (B, H, W, 3), returns float32 (B, D).
    facts : dict
        What it is (name, SHA-256 of its weights): goes into the card and the identity of the training.
    """

    def __init__(self, vectors: Vectors, facts: dict[str, Any]) -> None:
        self._vectors, self.facts = vectors, facts

    @torch.no_grad()
    def tokens(self, crops: Tensor) -> tuple[Tensor, Tensor | None]:
        """Class token (B, D) and, where it has some, patch tokens (B, P, D) of uint8 (B, H, W, 3) crops."""
        vectors = self._vectors(crops.cpu().numpy())
        return torch.from_numpy(np.ascontiguousarray(vectors, np.float32)).to(crops.device), None


class TokenTeacher(Teacher):
    """A timm or transformers encoder, asked for its patch tokens too.

    Parameters
    ----------
    encoder : histostudy.encoders.vision.VisionEncoder
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__(encoder.encode, encoder.identity)
        self.encoder = encoder

    @torch.no_grad()
    def tokens(self, crops: Tensor) -> tuple[Tensor, Tensor | None]:
        """Its vector (B, D) by its own variant, and patch tokens (B, P, T) of whatever width it has inside."""
        vectors, _ = super().tokens(crops)
        there = self.encoder.device
        with torch.autocast(there.type, dtype=torch.bfloat16, enabled=there.type == "cuda"):
            inside = self.encoder.module.forward_features(self.encoder._prepare(crops.to(there)))
        if inside.ndim == 4:
            inside = inside.flatten(2).transpose(1, 2)
        else:
            inside = inside[:, int(getattr(self.encoder.module, "num_prefix_tokens", 0)) :]
        return vectors, inside.float().to(crops.device)


class HeadTeacher(nn.Module):
    """An encoder made here by DINO or iBOT, with its own heads, frozen.

    Parameters
    ----------
    folder : Path
        Holds `config.json`, `weights.safetensors` and `heads.safetensors`.

    Raises
    ------
    EncoderError
        If it does not.
    """

    def __init__(self, folder: Path) -> None:
        from safetensors.torch import load_file

        super().__init__()
        if not has_heads(folder):
            raise EncoderError(
                f"no {HEADS_FILE} in it", where=folder, todo="take match: features, or an encoder made by dino or ibot"
            )
        config = read_json(folder / "config.json")
        size = int(config["pretrained_cfg"]["input_size"][-1])
        self.student = build_student(config["network"], size, config["options"])
        self.student.load_weights(load_file(folder / "weights.safetensors"))
        heads = load_file(folder / HEADS_FILE)
        self.head, self.targets = _head(heads, "class", config)
        self.patch_head: Head | None = None
        self.patch_targets: Targets | None = None
        if "patch.prototypes" in heads:
            self.patch_head, self.patch_targets = _head(heads, "patch", config)
        self.requires_grad_(False).eval()
        self.mean = tuple(config["pretrained_cfg"]["mean"])
        self.std = tuple(config["pretrained_cfg"]["std"])
        self.facts = {
            "encoder": str(config.get("name", "pretrained")),
            "weights_sha256": sha256(folder / "weights.safetensors"),
            "heads_sha256": sha256(folder / HEADS_FILE),
        }

    def logits(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Prototype logits of the class token (B, K) and the patches (B, P, K) of normalised images."""
        token, patches = self.student.forward_tokens(images)
        return self.head(token), None if self.patch_head is None else self.patch_head(patches)


def _head(tensors: dict[str, Tensor], prefix: str, config: dict[str, Any]) -> tuple[Head, Targets]:
    own = {k.removeprefix(f"{prefix}."): v for k, v in tensors.items() if k.startswith(f"{prefix}.")}
    centre = own.pop("centre")
    hidden, dim = own["mlp.0.weight"].shape
    head = Head(dim, hidden, own["prototypes"].shape[1], len(own["prototypes"]))
    head.load_state_dict(own)
    targets = Targets(len(centre), config["settings"]["targets"], momentum=1.0)  # a frozen teacher's centre stays
    targets.centre.copy_(centre)
    return head, targets


def has_heads(folder: Path | None) -> bool:
    """Whether a folder holds an encoder made here with its heads."""
    return folder is not None and Path(folder).is_dir() and (Path(folder) / HEADS_FILE).is_file()


def teacher_of(encoder: Encoder) -> Teacher:
    """A loaded encoder as a teacher: with patch tokens where it is timm's and has some."""
    from histostudy.encoders.vision import VisionEncoder

    if isinstance(encoder, VisionEncoder) and hasattr(encoder.module, "forward_features"):
        return TokenTeacher(encoder)
    return Teacher(encoder.encode, encoder.identity)


def to_grid(tokens: Tensor, patches: int) -> Tensor:
    """Patch tokens (B, P, D) of a square grid, on one of `patches` places; bilinear."""
    if tokens.shape[1] == patches:
        return tokens
    old, new = math.isqrt(tokens.shape[1]), math.isqrt(patches)
    if old * old != tokens.shape[1] or new * new != patches:
        raise EncoderError(
            f"the grids of patches, {tokens.shape[1]} and {patches}, are not square", todo="set pretrain.patches: 0"
        )
    grid = tokens.transpose(1, 2).unflatten(2, (old, old))
    resized = F.interpolate(grid, (new, new), mode="bilinear", antialias=True, align_corners=False)
    return resized.flatten(2).transpose(1, 2)
