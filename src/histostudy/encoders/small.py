"""The encoder that is shipped with its weights: a small convolutional network, distilled here from MobileNetV1.

Its token of a place is its two maps, at strides 8 and 16, side by side; a tile's vector is their mean over the tile and
the standard deviation of the finer one, each number standardised by the tiles it was made on. Cut at stride 16, as CLAM
cuts its ResNet: deeper layers of an ImageNet network say more of objects, less of tissue. How it was made, from what,
and what it reaches: `weights/builtin_cnn.md`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from histostudy.encoders.base import EncoderFacts, check_batch
from histostudy.encoders.mobilenet import MobileNet, Separable
from histostudy.encoders.vision import VisionEncoder

if TYPE_CHECKING:
    from histostudy.encoders.checkpoint import Weights

#: Channels after the first convolution and after each pair; 3.0 times fewer multiplications than MobileNetV1.
WIDTHS = (16, 32, 64, 96, 192, 192, 384, 384, 384, 384)
#: Convolutions whose maps make the tokens: the ends of strides 8 and 16.
TAPS = (10, 18)
FINE, TOKEN = 192, 192 + 384
DIM = TOKEN + FINE
#: Tiles that go through the network together on a CPU, always: a smaller batch is filled up. So few stay in the cache.
CHUNK = 4
#: Shipped in the package.
WEIGHTS = Path(__file__).parent / "weights" / "builtin_cnn.safetensors"


class SmallNet(Separable):
    """The network, with any weights."""

    centre: Tensor
    spread: Tensor

    def __init__(self) -> None:
        super().__init__(WIDTHS)
        self.register_buffer("centre", torch.zeros(DIM))
        self.register_buffer("spread", torch.ones(DIM))

    def tokens(self, images: Tensor) -> Tensor:
        """Tokens (B, H / 16 * W / 16, 576) of normalised images (B, 3, H, W)."""
        fine, coarse = self.maps(images, TAPS)
        sides, wanted = fine.shape[2:], coarse.shape[2:]
        if any(side % want for side, want in zip(sides, wanted, strict=True)):
            fine = F.adaptive_avg_pool2d(fine, (wanted[0], wanted[1]))  # crops of no whole multiple of 16 px
        else:  # on a GPU the gradient of the adaptive one has no order of summing
            fine = F.avg_pool2d(fine, (sides[0] // wanted[0], sides[1] // wanted[1]))
        tokens = torch.cat([fine, coarse], dim=1).flatten(2).transpose(1, 2)
        return (tokens - self.centre[:TOKEN]) / self.spread[:TOKEN]

    def forward(self, images: Tensor) -> Tensor:
        """Vectors (B, 768) of normalised images (B, 3, H, W)."""
        fine, coarse = (one.flatten(2) for one in self.maps(images, TAPS))
        moments = [fine.mean(dim=2), coarse.mean(dim=2), fine.std(dim=2)]
        return (torch.cat(moments, dim=1) - self.centre) / self.spread


class ShippedEncoder(VisionEncoder):
    """`builtin_cnn`. On a CPU a tile's vector is the same whatever else is in the batch, to the last bit."""

    def encode(self, batch: np.ndarray) -> np.ndarray:
        """Vectors of a batch of uint8 (B, H, W, 3) tiles, as float32 (B, 768)."""
        check_batch(batch)
        if self.device.type != "cpu" or self.runtime.compiled:
            return super().encode(batch)
        self.module.by_rows = True  # type: ignore[assignment]
        # kernels are chosen by the size of a batch, and may round differently
        missing = -len(batch) % CHUNK
        filled = np.concatenate([batch, np.zeros((missing, *batch.shape[1:]), np.uint8)]) if missing else batch
        parts = [super(ShippedEncoder, self).encode(part) for part in np.split(filled, len(filled) // CHUNK)]
        return np.concatenate(parts)[: len(batch)]


def build_network(facts: EncoderFacts, weights: Weights) -> SmallNet | MobileNet:
    """The shipped network, or the larger one it was made from, with the weights of a file in half precision."""
    from histostudy.encoders.checkpoint import read_state
    from histostudy.encoders.vision import _load

    state: dict[str, Any] = {name: value.float() for name, value in read_state(weights).items()}
    net = SmallNet() if facts.source == "shipped" else MobileNet(depths=facts.variant == "depths")
    _load(net, state, weights, facts.name)
    return net
