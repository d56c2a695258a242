"""Fewer channels of a trained network: which stay, and least squares for what goes into them.

He, Zhang and Sun, "Channel pruning for accelerating very deep neural networks", ICCV 2017, layer by layer from the
first to the last. Channels stay by pivoted QR of their responses (our reading; they use a lasso); each pointwise
convolution is then fitted anew, so that what the smaller network gives it becomes what the larger one made of its own.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor
from torch.nn import functional as F

from histostudy.encoders.mobilenet import Separable, convolve

logger = logging.getLogger(__name__)

#: Places drawn of a layer's maps: for choosing channels, and for fitting.
CHOOSING, FITTING = 10_000, 120_000
#: Of the mean squared response; keeps the fit from leaning on channels that all but repeat each other.
RIDGE = 1e-3
#: Responses that ReLU6 cuts off anyway need not be met further out.
BEYOND = 1.5


@torch.no_grad()
def reduce(large: Separable, small: Separable, images: Tensor, generator: torch.Generator) -> list[float]:
    """Set the weights of `small` from those of `large`, in place.

    Parameters
    ----------
    large, small : Separable
        Of the same layers; the small one may have fewer channels, and fewer layers.
    images : Tensor, (B, 3, H, W)
        Normalised.
    generator : torch.Generator
        Draws places of the maps.

    Returns
    -------
    list of float
        Of each layer the share of the kept channels' variance that the small network explains.
    """
    seen_large = seen_small = images
    kept = torch.arange(images.shape[1])
    explained = []
    for number, layer in enumerate(small.layers):
        asked = large.layers[number]
        before = convolve(asked, seen_large)
        after = F.relu6(before)
        if asked.groups == 1:  # type: ignore[union-attr]
            following = large.layers[number + 1 : number + 3]
            kept = _choose(after, list(following), layer.out_channels, generator)  # type: ignore[arg-type]
        if number == 0 or asked.groups > 1:  # type: ignore[union-attr,operator]
            layer.weight.copy_(asked.weight[kept])  # type: ignore[operator,index,union-attr]
            layer.bias.copy_(asked.bias[kept])  # type: ignore[operator,index,union-attr]
        else:
            weight, bias = _fit(seen_small, before[:, kept].clamp(-BEYOND, 6 + BEYOND), generator)
            layer.weight.copy_(weight[:, :, None, None])  # type: ignore[operator,union-attr]
            layer.bias.copy_(bias)  # type: ignore[operator,union-attr]
        seen_large, seen_small = after, F.relu6(convolve(layer, seen_small))
        wanted = after[:, kept]
        explained.append(float(1 - (seen_small - wanted).square().mean() / wanted.var()))
    logger.info("of each layer's variance there is left: %s", " ".join(f"{share:.2f}" for share in explained))
    return explained


def _rows(maps: Tensor, most: int, generator: torch.Generator) -> Tensor:
    places = torch.randint(len(maps) * maps.shape[2] * maps.shape[3], (most,), generator=generator)
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])[places].double()


def _choose(after: Tensor, following: list[torch.nn.Conv2d], most: int, generator: torch.Generator) -> Tensor:
    """Numbers, ascending, of the channels that best stand for all, weighed by what follows makes of them."""
    from scipy.linalg import qr

    if most >= after.shape[1]:
        return torch.arange(after.shape[1])
    rows = _rows(after, CHOOSING, generator)
    if len(following) == 2:
        depthwise, pointwise = following
        rows = rows * (pointwise.weight.flatten(1).norm(dim=0) * depthwise.weight.flatten(1).norm(dim=1)).double()
    order = qr(rows.numpy(), mode="r", pivoting=True)[1]
    return torch.as_tensor(sorted(order[:most].tolist()))


def _fit(inputs: Tensor, outputs: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Weight (out, in) and bias (out,) of a pointwise convolution, by ridge regression over places."""
    both = _rows(torch.cat([inputs, outputs], dim=1), FITTING, generator)
    x, y = both[:, : inputs.shape[1]], both[:, inputs.shape[1] :]
    x_mean, y_mean = x.mean(dim=0), y.mean(dim=0)
    gram = (x - x_mean).T @ (x - x_mean)
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    weight = torch.linalg.solve(gram, (x - x_mean).T @ (y - y_mean)).T
    return weight, y_mean - weight @ x_mean
