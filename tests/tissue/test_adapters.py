"""Published segmenters by the user's weights: what goes in, what comes out, and what is said without them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from histostudy.errors import ConfigError
from histostudy.tissue.registry import segment, weights_of

METHODS = ("atlaspatch", "grandqc", "hest")
GLASS = np.full((40, 60, 3), 240, np.uint8)


@pytest.mark.parametrize("method", METHODS)
def test_without_weights_it_says_where_they_are(method: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give tissue.checkpoint"):
        segment(GLASS, 1.0, method)
    with pytest.raises(ConfigError, match="no such weights"):
        segment(GLASS, 1.0, method, {}, tmp_path / "none.pth")
    with pytest.raises(ConfigError, match="give tissue.checkpoint"):
        weights_of(method)


@pytest.mark.parametrize(("method", "package"), [("atlaspatch", "sam2"), ("grandqc", "segmentation_models_pytorch")])
def test_without_the_package_it_says_which(
    method: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    torch.save({"model": {}}, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=f"needs the package {package}"):
        segment(GLASS, 1.0, method, {}, tmp_path / "w.pth")


def test_hest_reads_a_lightning_checkpoint(tmp_path: Path) -> None:
    from torchvision.models.segmentation import deeplabv3_resnet50

    torch.manual_seed(0)
    network = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=2, aux_loss=True).eval()
    with torch.no_grad():
        network.classifier[4].bias.copy_(torch.tensor([-50.0, 50.0]))  # all is class 1: tissue
    state = {f"model.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "w.ckpt")
    found = segment(GLASS, 1.0, "hest", {}, tmp_path / "w.ckpt")
    assert found.tissue.shape == GLASS.shape[:2] and found.tissue.all() and not found.pen.any()
    with pytest.raises(ConfigError, match="working_mpp to 1"):
        segment(GLASS, 8.0, "hest", {}, tmp_path / "w.ckpt")
    assert weights_of("hest", tmp_path / "w.ckpt").keys() == {"weights"}


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    torch.save({"state_dict": {"x": torch.zeros(1)}}, tmp_path / "x.ckpt")
    with pytest.raises(ConfigError, match="another network"):
        segment(GLASS, 1.0, "hest", {}, tmp_path / "x.ckpt")
    (tmp_path / "t.ckpt").write_text("text")
    with pytest.raises(ConfigError, match="not a file of tensors"):
        segment(GLASS, 1.0, "hest", {}, tmp_path / "t.ckpt")
    torch.save({"a": 1}, tmp_path / "n.ckpt")
    with pytest.raises(ConfigError, match="no state_dict"):
        segment(GLASS, 1.0, "hest", {}, tmp_path / "n.ckpt")


class Bright(nn.Module):
    """Class 0 where the red of the normalised image is dark; stands for GrandQC's network."""

    def __init__(self, **asked: Any) -> None:
        super().__init__()
        assert asked == {
            "encoder_name": "timm-efficientnet-b0",
            "encoder_weights": None,
            "classes": 2,
            "activation": None,
        }
        self.gain = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[-2:] == (512, 512)
        return torch.stack([-self.gain * x[:, 0], self.gain * x[:, 0]], 1)


def test_grandqc_takes_class_0_at_10_um(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("segmentation_models_pytorch")
    package.UnetPlusPlus = Bright  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", package)
    torch.save({"gain": torch.ones(1)}, tmp_path / "w.pth")
    rgb = np.full((700, 900, 3), 240, np.uint8)
    rgb[100:400, 300:800] = (60, 40, 80)
    found = segment(rgb, 8.0, "grandqc", {"exclude_pen": False}, tmp_path / "w.pth")
    truth = rgb[..., 0] == 60
    assert (found.tissue & truth).sum() / (found.tissue | truth).sum() > 0.97


def test_atlaspatch_squeezes_and_brings_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    class Predictor:
        def __init__(self, model: nn.Module, mask_threshold: float) -> None:
            seen["threshold"], self.model = mask_threshold, model

        def set_image(self, image: np.ndarray) -> None:
            self.image = image

        def predict(self, **asked: Any) -> tuple[np.ndarray, None, None]:
            seen.update(asked, shape=self.image.shape)
            assert self.model.weight.item() == 3
            return (128.0 - self.image[None, ..., 0].astype(np.float32)), None, None

    def build(config: str, **asked: Any) -> nn.Module:
        seen["config"] = config
        return nn.Linear(1, 1, bias=False)

    for name, thing in {"build_sam": build, "sam2_image_predictor": Predictor}.items():
        module = ModuleType(f"sam2.{name}")
        setattr(module, {"build_sam": "build_sam2"}.get(name, "SAM2ImagePredictor"), thing)
        monkeypatch.setitem(sys.modules, f"sam2.{name}", module)
    monkeypatch.setitem(sys.modules, "sam2", ModuleType("sam2"))
    torch.save({"model": {"weight": torch.full((1, 1), 3.0)}}, tmp_path / "model.pth")
    rgb = np.full((300, 700, 3), 240, np.uint8)
    rgb[50:200, 100:400] = (60, 40, 80)
    found = segment(rgb, 8.0, "atlaspatch", {"exclude_pen": False}, tmp_path / "model.pth")
    assert seen["shape"] == (1024, 1024, 3) and seen["threshold"] == 0.0 and not seen["multimask_output"]
    assert seen["box"].tolist() == [0, 0, 1024, 1024] and seen["config"].endswith("sam2.1_hiera_t.yaml")
    truth = rgb[..., 0] == 60
    assert (found.tissue & truth).sum() / (found.tissue | truth).sum() > 0.98
