"""The U-Net: shapes, strides, and weights that come back as they were."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from histostudy.errors import ConfigError
from histostudy.files import sha256
from histostudy.tissue.network import UNet, load, pad_to_stride, save

HEADS = {"tissue": 1, "offset": 2}


def small(**changes: object) -> UNet:
    torch.manual_seed(0)
    return UNet(HEADS, **{"channels": (4, 6, 8), "factors": (2, 4), **changes}).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize(("patch", "stride"), [(1, 8), (2, 16)])
def test_every_head_has_the_size_of_the_image(norm: str, patch: int, stride: int) -> None:
    network = small(norm=norm, patch=patch)
    assert network.stride == stride
    found = network(torch.rand(2, 3, 32, 48))
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "tissue": (2, 1, 32, 48),
        "offset": (2, 2, 32, 48),
    }
    with pytest.raises(ValueError, match=f"multiples of {stride}"):
        network(torch.rand(1, 3, 32, 50))
    assert pad_to_stride(torch.rand(3, 33, 50), stride).shape[-1] == -(-50 // stride) * stride


def test_the_default_is_small() -> None:
    network = UNet({"tissue": 1, "pen": 1})
    assert sum(p.numel() for p in network.parameters()) * 4 < 4e6


def test_a_decoder_of_one_head_leaves_the_other_alone() -> None:
    network = small()
    loss = network(torch.rand(1, 3, 16, 16))["tissue"].sum()
    loss.backward()
    for name, value in network.named_parameters():
        if name.startswith(("decoders.offset", "outputs.offset")):
            assert value.grad is None
    assert network.encoder[0][0].weight.grad.abs().sum() > 0
    image = torch.rand(1, 3, 16, 16)
    assert set(network(image, ["offset"])) == {"offset"}
    torch.testing.assert_close(network(image, ["offset"])["offset"], network(image)["offset"])


def test_shifted_by_the_stride_the_output_shifts() -> None:
    network = small(norm="none").double()
    image = torch.zeros(1, 3, 160, 160, dtype=torch.float64)
    image[..., 64:80, 64:80] = 1
    a, b = (network(torch.roll(image, k, dims=-1))["tissue"] for k in (0, 8))
    torch.testing.assert_close(torch.roll(a, 8, dims=-1)[..., 40:120, 40:120], b[..., 40:120, 40:120])


def test_saved_and_loaded(tmp_path: Path) -> None:
    network = small(norm="batch", decoder=(3, 5))
    network.train()(torch.rand(2, 3, 16, 16))  # moves the running moments
    save(network, tmp_path / "a.safetensors", {"classes": "a,b", "mpp": "2"})
    save(network, tmp_path / "b.safetensors", {"mpp": "2", "classes": "a,b"})
    assert sha256(tmp_path / "a.safetensors") == sha256(tmp_path / "b.safetensors")
    back, about = load(tmp_path / "a.safetensors")
    assert about == {"classes": "a,b", "mpp": "2"} and not back.training
    image = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(back(image)["offset"], network.eval()(image)["offset"], rtol=0, atol=0)


def test_bad_settings_and_files(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    for wrong in ({"heads": {}}, {"factors": (2,)}, {"norm": "layer"}, {"decoder": (3,)}, {"patch": 0}):
        with pytest.raises(ConfigError):
            UNet(**{"heads": HEADS, "channels": (4, 6, 8), "factors": (2, 4), **wrong})
    with pytest.raises(ConfigError, match="no such weights"):
        load(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("not weights")
    with pytest.raises(ConfigError, match="not a safetensors file"):
        load(tmp_path / "text.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ConfigError, match="do not say"):
        load(tmp_path / "x.safetensors")
