"""Networks to pretrain: tokens as timm's own, at any size of crop."""

from __future__ import annotations

import pytest
import torch

from histostudy.encoders.pretraining.students import STUDENTS, TimmConv, TimmViT, build_student
from histostudy.encoders.pretraining.trial import try_student
from histostudy.errors import ConfigError, EncoderError, StudyError
from histostudy.pretrain_keys import Pretrain

TINY = {"width": 32, "depth": 2, "heads": 2, "patch": 8}


@pytest.mark.parametrize("registers", [0, 3])
@pytest.mark.parametrize("side", [32, 16, 48])
def test_a_vit_gives_timms_tokens(registers: int, side: int) -> None:
    torch.manual_seed(0)
    student = build_student("vit_tiny", 32, TINY | {"registers": registers}).eval()
    assert isinstance(student, TimmViT)
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        token, patches = student.forward_tokens(images)
        timms = student.network.forward_features(images)
    assert patches.shape == (2, (side // 8) ** 2, 32)
    torch.testing.assert_close(token, timms[:, 0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(patches, timms[:, 1 + registers :], atol=1e-5, rtol=1e-4)


def test_a_masked_patch_is_not_seen() -> None:
    torch.manual_seed(0)
    student = build_student("vit_tiny", 32, TINY).eval()
    images, other = torch.randn(1, 3, 32, 32), None
    other = images.clone()
    other[:, :, 8:16, 16:24] = 5.0  # row 1, column 2
    masks = torch.zeros(1, 16, dtype=torch.bool)
    masks[0, 1 * 4 + 2] = True
    with torch.no_grad():
        seen, hidden = student.forward_tokens(images)[0], student.forward_tokens(images, masks)[0]
        torch.testing.assert_close(hidden, student.forward_tokens(other, masks)[0])
        assert (seen - hidden).abs().max() > 1e-4
        assert (seen - student.forward_tokens(other)[0]).abs().max() > 1e-4


def test_a_convolutional_network_gives_places_and_their_mean() -> None:
    student = build_student("mobilenet_small", 64).eval()
    assert isinstance(student, TimmConv) and not student.maskable
    with torch.no_grad():
        token, patches = student.forward_tokens(torch.randn(2, 3, 64, 64))
    assert patches.shape == (2, 4, student.dim)
    torch.testing.assert_close(token, patches.mean(dim=1))


def test_weights_go_out_and_in() -> None:
    arguments = {"embed_dim": 24, "depth": 1, "num_heads": 2}
    one, two = (build_student("timm:vit_tiny_patch16_224", 32, arguments) for _ in "ab")
    two.load_weights(one.weights())
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(one.eval().forward_tokens(images)[0], two.eval().forward_tokens(images)[0])


def test_what_cannot_be_built_says_so() -> None:
    with pytest.raises(ConfigError, match="unknown network 'vit_tinny'; did you mean 'vit_tiny'"):
        build_student("vit_tinny", 32)
    with pytest.raises(EncoderError, match="correct pretrain.options"):
        build_student("vit_tiny", 32, {"patches": 8})
    with pytest.raises(EncoderError, match="timm cannot build no_such_net"):
        build_student("timm:no_such_net", 32)
    with pytest.raises(EncoderError, match="timm cannot build"):
        build_student("vit_tiny", 32, {"width": 31, "heads": 2})
    assert {"vit_tiny", "vit_small", "vit_base", "resnet18", "mobilenet_small"} <= set(STUDENTS)


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"network": "vit_tinny"}, "did you mean 'vit_tiny'"),
        ({"options": {"ptch": 8}}, "correct pretrain.options"),
        ({"options": {"patch": 0}}, "timm cannot build"),
        ({"views": {"size": 50}}, "a crop of 50 px is not whole patches of 16 px"),
        ({"network": "timm:resnet18", "options": {"size": 3}}, "timm cannot build resnet18"),
        ({"network": "timm:swin_tiny_patch4_window7_224"}, "takes no tiles of 64 px"),
        ({"network": "timm:deit_tiny_distilled_patch16_224"}, "neither a plain vision transformer nor"),
    ],
)
def test_what_cannot_be_trained_is_refused_before(keys: dict, line: str) -> None:
    with pytest.raises(StudyError, match=line):
        try_student(Pretrain(**keys), 64)


def test_what_can_be_trained_passes() -> None:
    try_student(Pretrain(options=TINY), 32)
    try_student(Pretrain(network="mobilenet_small"), 64)
