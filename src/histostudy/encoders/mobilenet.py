"""Chains of depthwise separable convolutions: MobileNetV1, and smaller ones that its channels start.

Howard et al., "MobileNets: efficient convolutional neural networks for mobile vision applications" (arXiv 1704.04861),
with the batch norms folded into biases, ReLU6 after every convolution and TensorFlow's SAME padding, as the released
TFLite networks have them. Nothing mixes the images of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Channels after the first convolution and after each pair of depthwise and pointwise ones; strides of both.
WIDTHS = (32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024)
STRIDES = (2, 1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
#: RGB in 0 to 1 to (value - 128) / 128.
MEAN, STD = (128 / 255,) * 3, (128 / 255,) * 3
#: Convolutions whose maps are distilled: the ends of strides 8, 16 (its third pair) and 32.
DEPTHS = (10, 16, 26)


class Separable(nn.Module):
    """A first convolution, then pairs of a depthwise 3 x 3 and a pointwise 1 x 1 convolution.

    Parameters
    ----------
    widths : sequence of int
        Channels after the first convolution and after each pair.

    Attributes
    ----------
    by_rows : bool
        Show half rows of a map to pointwise convolutions as images of their own: torch on one thread leaves batches
        below 16 to a slower kernel. The numbers are the same.
    """

    by_rows = False

    def __init__(self, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        layers = [nn.Conv2d(3, widths[0], 3, STRIDES[0])]
        for before, after, stride in zip(widths, widths[1:], STRIDES[1:], strict=False):
            layers += [nn.Conv2d(before, before, 3, stride, groups=before), nn.Conv2d(before, after, 1)]
        self.layers = nn.ModuleList(layers)

    def maps(self, images: Tensor, depths: Sequence[int]) -> list[Tensor]:
        """Maps (B, C, H, W) after the convolutions of these numbers, ascending; what lies deeper is not computed."""
        found, x = [], images
        for number, layer in enumerate(self.layers[: max(depths) + 1]):
            x = F.relu6(convolve(layer, x, self.by_rows), inplace=True)
            if number in depths:
                found.append(x)
        return found


def convolve(layer: nn.Module, x: Tensor, by_rows: bool = False) -> Tensor:
    """A convolution with TensorFlow's SAME padding: what is odd goes below and to the right."""
    assert isinstance(layer, nn.Conv2d)
    if layer.kernel_size[0] == 1:
        if not by_rows:
            return F.conv2d(x, layer.weight, layer.bias)
        images, channels, height, width = x.shape
        row = width if width % 2 else width // 2
        rows = x.permute(0, 2, 3, 1).reshape(-1, 1, row, channels).permute(0, 3, 1, 2)
        out = F.conv2d(rows, layer.weight, layer.bias)
        return out.permute(0, 2, 3, 1).reshape(images, height, width, -1).permute(0, 3, 1, 2)
    stride = layer.stride[0]
    pads = [max((-(-side // stride) - 1) * stride + 3 - side, 0) for side in x.shape[2:]]
    if pads == [2, 2]:
        return F.conv2d(x, layer.weight, layer.bias, stride, 1, 1, layer.groups)
    (top, bottom), (left, right) = ((pad // 2, pad - pad // 2) for pad in pads)
    return F.conv2d(F.pad(x, (left, right, top, bottom)), layer.weight, layer.bias, stride, 0, 1, layer.groups)


class MobileNet(Separable):
    """MobileNetV1 up to its pooling.

    Parameters
    ----------
    depths : bool
        Its vector: False, the mean of its last map (1024); True, mean and standard deviation of its maps at strides 8
        and 16 and the mean of the last (2560), which is what `builtin_cnn` learns from.
    """

    def __init__(self, depths: bool = False) -> None:
        super().__init__()
        self.depths = depths

    def forward(self, images: Tensor) -> Tensor:
        """Vectors (B, 1024) or (B, 2560) of normalised images (B, 3, H, W)."""
        if not self.depths:
            return self.maps(images, DEPTHS[-1:])[0].mean(dim=(2, 3))
        *inner, last = (one.flatten(2) for one in self.maps(images, DEPTHS))
        moments = [value for one in inner for value in (one.mean(dim=2), one.std(dim=2))]
        return torch.cat([*moments, last.mean(dim=2)], dim=1)

    def forward_features(self, images: Tensor) -> Tensor:
        """The map (B, 512, H / 16, W / 16) of the third pair at stride 16."""
        return self.maps(images, DEPTHS[1:2])[0]
