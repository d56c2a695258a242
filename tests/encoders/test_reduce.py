"""Separable networks with SAME padding, and smaller ones made of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from histostudy.encoders.mobilenet import DEPTHS, MobileNet, Separable, convolve
from histostudy.encoders.pretraining.small_student import SmallStudent
from histostudy.encoders.pretraining.students import build_student
from histostudy.encoders.reduce import reduce
from histostudy.encoders.small import TOKEN, SmallNet


def random_net(widths: tuple[int, ...], seed: int = 0) -> Separable:
    torch.manual_seed(seed)
    net = Separable(widths)
    for layer in net.layers:
        torch.nn.init.kaiming_normal_(layer.weight)
    return net.eval()


@pytest.mark.parametrize(("side", "stride"), [(7, 1), (7, 2), (8, 2), (9, 2), (5, 1)])
def test_padding_is_tensorflows(side: int, stride: int) -> None:
    layer = torch.nn.Conv2d(1, 1, 3, stride)
    image = np.random.default_rng(side).normal(size=(side, side))
    kernel, bias = layer.weight.detach().numpy()[0, 0], layer.bias.detach().numpy()[0]
    out = -(-side // stride)
    pad = max((out - 1) * stride + 3 - side, 0)
    padded = np.pad(image, (pad // 2, pad - pad // 2))
    want = [
        [(padded[y : y + 3, x : x + 3] * kernel).sum() + bias for x in range(0, out * stride, stride)]
        for y in range(0, out * stride, stride)
    ]
    got = convolve(layer, torch.from_numpy(image).float()[None, None])
    np.testing.assert_allclose(got.detach().numpy()[0, 0], want, atol=1e-5)


def test_reducing_to_the_same_widths_changes_nothing() -> None:
    large, small = random_net((8, 12, 16)), random_net((8, 12, 16), 1)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    explained = reduce(large, small, images, torch.Generator().manual_seed(0))
    assert min(explained) > 0.98
    a, b = (net.maps(images, (4,))[0] for net in (large, small))
    assert float((a - b).detach().abs().mean() / a.detach().abs().mean()) < 0.05


def test_channels_that_repeat_are_not_needed() -> None:
    large = random_net((8, 12, 16))
    with torch.no_grad():  # the second half of the first layer is the first half again
        large.layers[0].weight[4:] = large.layers[0].weight[:4]
        large.layers[0].bias[4:] = large.layers[0].bias[:4]
        large.layers[1].weight[4:] = large.layers[1].weight[:4]
        large.layers[1].bias[4:] = large.layers[1].bias[:4]
    small = random_net((4, 12, 16), 1)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert min(reduce(large, small, images, torch.Generator().manual_seed(0))) > 0.97
    random = random_net((4, 12, 16), 1).maps(images, (4,))[0]
    kept, asked = small.maps(images, (4,))[0], large.maps(images, (4,))[0]
    assert (kept - asked).square().mean() < 0.1 * (random - asked).square().mean()


def test_student_gives_what_the_shipped_network_gives() -> None:
    student = build_student("small_cnn", 32)
    assert isinstance(student, SmallStudent)
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    student.standardise(images)
    token, patches = student.forward_tokens(images)
    assert token.shape == (3, TOKEN) and patches.shape == (3, 16, TOKEN)
    net = SmallNet()
    net.load_state_dict(student.weights())
    torch.testing.assert_close(net(images)[:, :TOKEN], token, atol=1e-4, rtol=1e-4)
    assert float(token.detach().mean(0).abs().max()) < 1e-3


def test_teacher_at_three_depths() -> None:
    torch.manual_seed(0)
    net = MobileNet(depths=True).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        vectors, maps = net(images), net.maps(images, DEPTHS)
    assert vectors.shape == (2, 2560)
    torch.testing.assert_close(vectors[:, 512:1024], maps[1].mean(dim=(2, 3)), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(net.forward_features(images), maps[1])
