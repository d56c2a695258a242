"""The U-Net of the segmenters: one encoder, one decoder for each thing that is asked of a pixel.

After SlideSegmenter (arXiv 2401.13511): blocks of two 3 x 3 convolutions, each normalised and rectified, max-pooling by
the given factors, nearest-neighbour upsampling with concatenated skips, no normalisation in the deepest block, where
an instance norm would see a handful of pixels. Two things are ours: `patch`, which folds squares of pixels into
channels before the first convolution and back after the last, and a narrower `decoder`; both are for speed on a CPU.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from histostudy.errors import ConfigError
from histostudy.files import atomic

NORMS = ("instance", "batch", "none")


class UNet(nn.Module):
    """U-Net with a decoder a head.

    Parameters
    ----------
    heads : mapping of str to int
        Name of each output and its number of channels, such as ``{"tissue": 1, "pen": 1, "offset": 2}``.
    in_channels : int
        Channels of the image.
    channels : sequence of int
        Width of the encoder, from the finest level to the deepest.
    factors : sequence of int
        Max-pooling between the levels; one fewer than `channels`.
    norm : {"instance", "batch", "none"}
        After every convolution but those of the deepest block.
    patch : int
        Side of the squares of pixels that are folded into channels at the start (1: none).
    decoder : sequence of int, optional
        Width of each decoder, from the finest level on; one a factor. By default half of the encoder's.

    Raises
    ------
    ConfigError
        If the parts do not fit together.
    """

    def __init__(
        self,
        heads: Mapping[str, int],
        in_channels: int = 3,
        channels: Sequence[int] = (16, 32, 64, 96, 128),
        factors: Sequence[int] = (2, 2, 2, 2),
        norm: str = "instance",
        patch: int = 1,
        decoder: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        decoder = tuple(max(1, n // 2) for n in channels[:-1]) if decoder is None else tuple(decoder)
        if not heads or min(heads.values()) < 1:
            raise ConfigError(f"a U-Net needs heads of at least one channel, not {dict(heads)}")
        if len(channels) != len(factors) + 1 or len(decoder) != len(factors):
            raise ConfigError(
                f"{len(factors)} factors need {len(factors) + 1} channels and {len(factors)} of the decoder, "
                f"not {len(channels)} and {len(decoder)}"
            )
        if min(*channels, *decoder, *factors, in_channels, patch) < 1:
            raise ConfigError("channels, factors and patch of a U-Net must be positive")
        if norm not in NORMS:
            raise ConfigError(f"unknown norm {norm!r}", todo=f"known: {', '.join(NORMS)}")
        self.config: dict[str, Any] = {
            "heads": dict(heads), "in_channels": in_channels, "channels": list(channels), "factors": list(factors),
            "norm": norm, "patch": patch, "decoder": list(decoder),
        }  # fmt: skip
        widths = [in_channels * patch**2, *channels]
        deepest = len(channels) - 1
        self.encoder = nn.ModuleList(
            _block(widths[k], widths[k + 1], "none" if k == deepest else norm) for k in range(len(channels))
        )
        self.decoders = nn.ModuleDict({name: _decoder(channels, decoder, norm) for name in heads})
        self.outputs = nn.ModuleDict({name: nn.Conv2d(decoder[0], n * patch**2, 1) for name, n in heads.items()})

    @property
    def stride(self) -> int:
        """Sides of an image must be multiples of this, px."""
        return int(self.config["patch"]) * prod(self.config["factors"])

    def forward(self, x: Tensor, heads: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Raw outputs of every head.

        Parameters
        ----------
        x : Tensor, (B, in_channels, H, W)
        heads : sequence of str, optional
            Only these: the decoders of the others are not run.

        Returns
        -------
        dict of str to Tensor, (B, heads[name], H, W)

        Raises
        ------
        ValueError
            If a side is not a multiple of `stride`.
        """
        if x.shape[-2] % self.stride or x.shape[-1] % self.stride:
            raise ValueError(f"sides {tuple(x.shape[-2:])} must be multiples of {self.stride}: pad the image")
        factors, patch = self.config["factors"], self.config["patch"]
        x = F.pixel_unshuffle(x, patch) if patch > 1 else x
        skips: list[Tensor] = []
        for block, factor in zip(self.encoder[:-1], factors, strict=True):
            skips.append(block(x))
            x = F.max_pool2d(skips[-1], factor)
        deep = self.encoder[-1](x)
        found: dict[str, Tensor] = {}
        for name, decoder in self.decoders.items():
            if heads is not None and name not in heads:
                continue
            y = deep
            for block, skip, factor in zip(list(decoder.children()), skips[::-1], factors[::-1], strict=True):
                y = block(torch.cat([F.interpolate(y, scale_factor=float(factor), mode="nearest"), skip], dim=1))
            y = self.outputs[name](y)
            found[name] = F.pixel_shuffle(y, patch) if patch > 1 else y
        return found


def _block(before: int, after: int, norm: str) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (before, after):
        layers.append(nn.Conv2d(width, after, 3, padding=1, bias=norm == "none"))
        if norm == "instance":
            layers.append(nn.InstanceNorm2d(after, affine=True))
        elif norm == "batch":
            layers.append(nn.BatchNorm2d(after))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def _decoder(channels: Sequence[int], decoder: Sequence[int], norm: str) -> nn.ModuleList:
    """Blocks of one decoder, from the deepest level to the finest."""
    below = [*decoder[1:], channels[-1]]
    return nn.ModuleList(
        _block(below[k] + channels[k], decoder[k], norm) for k in reversed(range(len(decoder)))
    )  # fmt: skip


def pad_to_stride(x: Tensor, stride: int, value: float = 1.0) -> Tensor:
    """`x`, (..., H, W), padded below and to the right with `value` to multiples of `stride`."""
    height, width = x.shape[-2:]
    return F.pad(x, (0, -width % stride, 0, -height % stride), value=value)


def save(network: UNet, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write the weights, with what rebuilds the network in the file's metadata.

    Parameters
    ----------
    network : UNet
    path : str or Path
        A safetensors file, written whole or not at all.
    metadata : mapping of str to str, optional
        Kept beside the configuration, such as the classes.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    # in one entry: safetensors writes several in any order, and the same weights are to be the same bytes
    about = {"unet": json.dumps({"config": network.config, "about": dict(metadata or {})}, sort_keys=True)}
    with atomic(path) as temporary:
        save_file(tensors, temporary, metadata=about)


def load(path: str | Path) -> tuple[UNet, dict[str, str]]:
    """The network that `save` wrote, on the CPU and ready to predict, and its metadata.

    Raises
    ------
    ConfigError
        If there is no such file, or it holds no network of this kind.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError("no such weights", where=path, todo="check the path")
    try:
        with safe_open(path, framework="pt") as file:
            about = (file.metadata() or {}).get("unet")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise ConfigError(f"not a safetensors file: {error}", where=path) from None
    if about is None:
        raise ConfigError("these weights do not say which U-Net they are of", where=path, todo="train one with `save`")
    said = json.loads(about)
    network = UNet(**said["config"])
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ConfigError(f"weights of another network: {str(error).splitlines()[0]}", where=path) from None
    return network.eval(), said["about"]
