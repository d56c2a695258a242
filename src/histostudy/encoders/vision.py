"""Neural encoders: a timm or transformers network from a folder or file of weights.

A hub model is downloaded to a folder first and then loaded exactly as a local checkpoint is, so there is one
path, and tests can walk all of it with small random weights.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from histostudy.codeversion import code_version
from histostudy.encoders.base import IMAGENET, Encoder, EncoderFacts, check_batch
from histostudy.encoders.checkpoint import Weights, read_state
from histostudy.encoders.runtime import Runtime, lay_out
from histostudy.errors import EncoderError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

logger = logging.getLogger(__name__)

#: Keys of a checkpoint that belong to a classifier the features do not use.
HEADS = ("head.", "fc.", "classifier.", "dino_head.", "ibot_head.", "pooler.")


@dataclass(frozen=True)
class Transform:
    """How a tile becomes the network's input: resized to `input_px` (bicubic, antialiased), then normalised."""

    input_px: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def describe(self) -> dict[str, Any]:
        """Return the transform for the identity of the features."""
        return {
            "input_px": self.input_px,
            "resize": "bicubic-antialias",
            "mean": list(self.mean),
            "std": list(self.std),
        }


def transform_of(facts: EncoderFacts, weights: Weights) -> Transform:
    """Input size and normalisation: those of the facts, else of the weights' configuration, else ImageNet's."""
    config, processor = weights.config, weights.processor
    timm_config = config.get("pretrained_cfg", config)
    size = facts.input_px
    if size is None:
        found = processor.get("crop_size") or processor.get("size") or timm_config.get("input_size")
        if isinstance(found, Mapping):
            found = found.get("height") or found.get("shortest_edge")
        if isinstance(found, list | tuple):
            found = found[-1]
        size = int(found or config.get("image_size") or 224)
    mean = facts.mean or processor.get("image_mean") or timm_config.get("mean")
    std = facts.std or processor.get("image_std") or timm_config.get("std")
    if mean is None or std is None:
        logger.warning("%s: its weights state no normalisation; ImageNet's is used", facts.name)
        mean, std = IMAGENET
    return Transform(size, tuple(float(v) for v in mean), tuple(float(v) for v in std))


def identity_of(
    facts: EncoderFacts, weights: Weights, device: str = "cpu", runtime: Runtime | None = None
) -> dict[str, Any]:
    """Identity of the vectors, without loading the network."""
    runtime = runtime or Runtime.on(device)
    return {
        "encoder": facts.name,
        "hub_id": facts.hub_id,
        "revision": weights.revision,
        "weights_sha256": weights.sha256,
        "variant": facts.variant,
        "transform": transform_of(facts, weights).describe(),
        # what exports and runs ONNX imports this module
        "code": code_version("histostudy.encoders.onnx" if runtime.engine == "onnx" else "histostudy.encoders.vision"),
        **runtime.identity(),
    }


class VisionEncoder(Encoder):
    """A network and its transform.

    Parameters
    ----------
    facts : EncoderFacts
        Of the encoder.
    weights : Weights
        Found by `histostudy.encoders.checkpoint.find_weights`.
    device : str
        ``cpu`` or ``cuda[:i]``; on CUDA the network runs under bfloat16 autocast, on the CPU in float32.
    runtime : Runtime, optional
        Another way to run, on its own device.
    batch_size : int
        Tiles a call, for a network that is compiled: smaller batches are filled up, so that it is compiled once.

    Raises
    ------
    EncoderError
        If the weights do not fit the architecture, or the width is not the one the facts promise.
    """

    def __init__(
        self,
        facts: EncoderFacts,
        weights: Weights,
        device: str = "cpu",
        runtime: Runtime | None = None,
        batch_size: int = 64,
    ) -> None:
        import torch

        torch.manual_seed(0)
        self.name = facts.name
        self.runtime = runtime or Runtime.on(device)
        self.device = torch.device(self.runtime.device)
        self._fill = 0
        self.transform = transform_of(facts, weights)
        build = _BUILD[facts.source]
        module, self._vectors = build(facts, weights, self.transform.input_px)
        self.module = lay_out(module.eval().requires_grad_(False).to(self.device))
        self._mean = torch.tensor(self.transform.mean, device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(self.transform.std, device=self.device).view(1, 3, 1, 1)
        size = self.transform.input_px
        self.dim = self.encode(np.zeros((1, size, size, 3), np.uint8)).shape[1]
        if facts.dim is not None and self.dim != facts.dim:
            raise EncoderError(
                f"encoder {facts.name} gives vectors of {self.dim}, not {facts.dim}",
                where=weights.files[0],
                todo="these weights are another model's, or need another name",
            )
        self.identity = identity_of(facts, weights, runtime=self.runtime)
        if self.runtime.compiled:
            self._compile(batch_size)

    def encode(self, batch: np.ndarray) -> np.ndarray:
        """Vectors of a batch of uint8 (B, H, W, 3) tiles, as float32 (B, dim)."""
        import torch

        check_batch(batch)
        missing = max(0, self._fill - len(batch))
        filled = np.concatenate([batch, np.zeros((missing, *batch.shape[1:]), np.uint8)]) if missing else batch
        with torch.inference_mode(), self.runtime.arithmetic():
            pixels = torch.from_numpy(np.ascontiguousarray(filled)).to(self.device)
            vectors = self.vectors(pixels)
        return vectors[: len(batch)].float().cpu().numpy()

    def vectors(self, pixels: Tensor) -> Tensor:
        """Vectors (B, dim) of uint8 (B, H, W, 3) tiles on the device, with gradients where they are asked for."""
        return self._vectors(self._prepare(pixels))

    def normalised_vectors(self, image: Tensor) -> Tensor:
        """Vectors (B, dim) of RGB images (B, 3, input_px, input_px) in 0 to 1."""
        return self._vectors((image - self._mean) / self._std)

    def _prepare(self, pixels: torch.Tensor) -> torch.Tensor:
        return (scaled(pixels, self.transform.input_px) - self._mean) / self._std

    def _compile(self, batch_size: int) -> None:
        """Compile the network for one size of batch, now: a machine that cannot is told before it reads a slide."""
        import torch

        self._vectors = torch.compile(self._vectors, dynamic=False)
        self._fill, size = batch_size, self.transform.input_px
        try:
            self.encode(np.zeros((batch_size, size, size, 3), np.uint8))
        except RuntimeError as bad:  # what dynamo and inductor raise, for want of a compiler above all
            reason = " ".join(str(bad).split())[:160]
            raise EncoderError(
                f"{self.name} cannot be compiled here ({reason})", todo="install a C++ compiler, or compile: false"
            ) from bad


def scaled(pixels: Tensor, size: int) -> Tensor:
    """Tiles, uint8 (B, H, W, 3), as RGB images (B, 3, size, size) in 0 to 1, float32."""
    import torch

    image = pixels.permute(0, 3, 1, 2).float().div_(255)
    if image.shape[2:] != (size, size):
        image = torch.nn.functional.interpolate(
            image, size=(size, size), mode="bicubic", antialias=True, align_corners=False
        ).clamp_(0, 1)
    return image


def _choose(tokens: Tensor, prefix: int, variant: str, name: str) -> Tensor:
    """Vector from (B, tokens, D): tokens before `prefix` are the class token and registers, the rest patches."""
    import torch

    if "cls" in variant and prefix == 0:
        raise EncoderError(f"encoder {name} has no class token", todo="use variant mean or pool")
    patches = tokens[:, prefix:].mean(dim=1)
    if variant == "mean":
        return patches
    if variant == "cls":
        return tokens[:, 0]
    return torch.cat([tokens[:, 0], patches], dim=1)


def _timm(facts: EncoderFacts, weights: Weights, size: int) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    import timm
    from torch import nn

    config = weights.config
    architecture = config.get("architecture") or facts.architecture
    if architecture is None:
        raise EncoderError(
            f"nothing says which architecture {facts.name} is",
            where=weights.files[0],
            todo="give a folder with timm's config.json, or encoder: timm:<architecture>",
        )
    options = {**config.get("model_args", {}), **facts.options}
    options = {k: _layer(v) for k, v in options.items()} | {"num_classes": 0}
    try:
        model: Any = timm.create_model(architecture, pretrained=False, **options)
    except (RuntimeError, TypeError, ValueError) as bad:
        raise EncoderError(f"timm cannot build {architecture}: {bad}", todo="see timm.list_models()") from bad
    state = {k: v for k, v in read_state(weights).items() if not k.startswith(HEADS) or k in model.state_dict()}
    _load(model, state, weights, facts.name)

    if facts.variant.startswith("layer"):
        for stage in range(int(facts.variant[5:]) + 1, 5):
            setattr(model, f"layer{stage}", nn.Identity())
        return model, lambda image: model.forward_features(image).mean(dim=(2, 3))
    if facts.variant == "pool":

        def pooled(image: Tensor) -> Tensor:
            out = model(image)
            return out[:, 0] if out.ndim == 3 else out  # a ViT saved with global_pool='' returns all tokens

        return model, pooled

    def vectors(image: Tensor) -> Tensor:
        tokens = model.forward_features(image)
        if tokens.ndim == 4:  # a convolutional network: (B, C, H, W)
            tokens = tokens.flatten(2).transpose(1, 2)
        return _choose(tokens, prefix, facts.variant, facts.name)

    prefix: int = getattr(model, "num_prefix_tokens", 0)
    if "cls" in facts.variant and prefix and getattr(model, "cls_token", None) is None:
        raise EncoderError(  # the token before the patches is a register
            f"encoder {facts.name} has no class token", todo="use variant mean or pool"
        )
    return model, vectors


def _layer(value: Any) -> Any:
    """Class named by a string such as ``torch.nn.SiLU``; only of torch.nn and timm.layers."""
    if not isinstance(value, str) or not value.startswith(("torch.nn.", "timm.layers.")):
        return value
    module, _, name = value.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _load(model: nn.Module, state: dict[str, Tensor], weights: Weights, name: str) -> None:
    want = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    have = {k: tuple(v.shape) for k, v in state.items()}
    missing = sorted(set(want) - set(have))
    extra = sorted(set(have) - set(want))
    shapes = sorted(k for k in set(want) & set(have) if want[k] != have[k])
    if missing or extra or shapes:
        told = [
            f"{len(keys)} {what} ({keys[0]}{', ...' if len(keys) > 1 else ''})"
            for keys, what in ((missing, "missing"), (extra, "unknown"), (shapes, "of another shape"))
            if keys
        ]
        raise EncoderError(
            f"weights do not fit {name}: {', '.join(told)}",
            where=weights.files[0],
            todo="these weights are another model's; check features.encoder and features.checkpoint",
        )
    model.load_state_dict(state)


def _transformers(facts: EncoderFacts, weights: Weights, size: int) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    import torch
    from transformers import AutoConfig, AutoModel

    folder = weights.folder
    if not weights.config:
        raise EncoderError(
            f"no config.json beside {weights.files[0].name}",
            where=folder,
            todo="give the folder that save_pretrained wrote",
        )
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        model, report = AutoModel.from_pretrained(
            folder,
            config=getattr(config, "vision_config", config),
            dtype=torch.float32,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except (ValueError, OSError, ImportError, RuntimeError) as bad:
        reason = " ".join(str(bad).split())[:160]
        raise EncoderError(
            f"transformers cannot load {facts.name} ({reason})",
            where=folder,
            todo="code of the repository is never run: give checkpoint: a folder of a class that transformers has",
        ) from bad
    lost = sorted(k for k in report["missing_keys"] if "pooler" not in k and "mask_token" not in k)
    if lost:
        raise EncoderError(
            f"weights do not fit {facts.name}: {len(lost)} missing ({lost[0]})",
            where=folder,
            todo="these weights are another model's; check features.encoder and features.checkpoint",
        )
    pooler = not any("pooler" in k for k in report["missing_keys"])  # without weights it would be random
    prefix = 1 + int(getattr(model.config, "num_register_tokens", 0) or 0)
    if not any("cls_token" in k or "class_embedding" in k for k in model.state_dict()):
        prefix = 0

    def vectors(image: Tensor) -> Tensor:
        options = {} if size == _trained_size(model.config) else {"interpolate_pos_encoding": True}
        try:
            out = model(pixel_values=image, **options)
        except TypeError:  # position codes that are computed (Dinov2, DINOv3) take no such option
            out = model(pixel_values=image)
        if facts.variant == "pool" and pooler and getattr(out, "pooler_output", None) is not None:
            return out.pooler_output.flatten(1)
        tokens = out.last_hidden_state
        if tokens.ndim == 4:
            return tokens.mean(dim=(2, 3))
        variant = facts.variant if facts.variant != "pool" else ("cls" if prefix else "mean")
        return _choose(tokens, prefix, variant, facts.name)

    return model, vectors


def _trained_size(config: Any) -> int:
    size = getattr(config, "image_size", 0)
    return int(size[0] if isinstance(size, list | tuple) else size or 0)


def _conch(facts: EncoderFacts, weights: Weights, size: int) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    from histostudy.encoders.conch import ConchImage

    model: Any = ConchImage(size)
    state = read_state(weights)
    visual = {k.removeprefix("visual."): v for k, v in state.items() if k.startswith("visual.")} or state
    wanted = model.state_dict()
    visual = {
        k: v for k, v in visual.items() if k in wanted or not k.startswith(("attn_pool_c", "ln_c", "proj", "head"))
    }
    _load(model, visual, weights, facts.name)
    return model, model


def _student(facts: EncoderFacts, weights: Weights, size: int) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """An encoder that was pretrained here."""
    import torch

    from histostudy.encoders.pretraining.students import build_student

    config = weights.config
    student = build_student(config["network"], size, config["options"])
    try:
        student.load_weights(read_state(weights))
    except RuntimeError as bad:
        raise EncoderError(
            f"weights do not fit {config['network']} ({' '.join(str(bad).split())[:160]})",
            where=weights.files[0],
            todo="weights and config.json are of two encoders: make it again",
        ) from bad

    def vectors(image: Tensor) -> Tensor:
        token, patches = student.forward_tokens(image)
        if facts.variant == "cls":
            return token
        mean = patches.mean(dim=1)
        return mean if facts.variant == "mean" else torch.cat([token, mean], dim=1)

    return student, vectors


def _ours(facts: EncoderFacts, weights: Weights, size: int) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    from histostudy.encoders.small import build_network

    net: Any = build_network(facts, weights)
    return net, net


_BUILD = {
    "timm": _timm, "transformers": _transformers, "conch": _conch, "student": _student, "mobilenet": _ours,
    "shipped": _ours,
}  # fmt: skip
