"""The segmenter `unet`: the weights that ship, sections by centres, pieces of large images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from histostudy.errors import ConfigError
from histostudy.files import sha256
from histostudy.simulate.thumbnails import draw_thumbnail
from histostudy.study import Tissue
from histostudy.tissue import unet as module
from histostudy.tissue.learn import HEADS
from histostudy.tissue.mask import nearest_label
from histostudy.tissue.network import UNet, save
from histostudy.tissue.registry import Segmentation, segment, weights_of
from histostudy.tissue.stage import segment_image, segment_slide


def rule(threshold: float = 0.7) -> UNet:
    """A network that calls dark tissue, never pen, and points at nothing."""
    network = UNet(HEADS, channels=(1, 1), factors=(2,), norm="none", decoder=(1,))
    for value in network.parameters():
        torch.nn.init.zeros_(value)
    with torch.no_grad():
        for conv in (network.encoder[0][0], network.encoder[0][2]):
            conv.weight[:, 0, 1, 1] = 1
        for conv, at in ((network.decoders["tissue"][0][0], 1), (network.decoders["tissue"][0][2], 0)):
            conv.weight[:, at, 1, 1] = 1
        network.outputs["tissue"].weight[:] = -50
        network.outputs["tissue"].bias[:] = 50 * threshold
        network.outputs["pen"].bias[:] = -9
    return network.eval()


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    save(rule(), tmp_path / "rule.safetensors", {"offset_px": "32.0"})
    return tmp_path / "rule.safetensors"


def square(size: int = 120) -> tuple[np.ndarray, np.ndarray]:
    rgb = np.full((size, size + 30, 3), 240, np.uint8)
    rgb[20:80, 30:100] = (120, 60, 130)
    return rgb, rgb[..., 0] == 120


@pytest.mark.parametrize("mpp", [4.0, 8.0, 16.0])
def test_any_scale_comes_back_at_its_own(weights: Path, mpp: float) -> None:
    rgb, truth = square()
    found = segment(rgb, mpp, "unet", {}, weights)
    assert found.tissue.shape == truth.shape and found.sections is None and not found.pen.any()
    assert (found.tissue & truth).sum() / (found.tissue | truth).sum() > 0.93


def test_pieces_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = UNet(HEADS, channels=(4, 6), factors=(2,), norm="none", decoder=(4,)).eval()
    rgb = np.random.default_rng(0).integers(0, 255, (150, 211, 3), dtype=np.uint8)
    whole = module.predict(network, rgb, ("tissue", "offset"))
    monkeypatch.setattr(module, "PIECE", 96)
    monkeypatch.setattr(module, "MARGIN", 16)
    pieces = module.predict(network, rgb, ("tissue", "offset"))
    for name, value in whole.items():
        assert value.shape[1:] == rgb.shape[:2]
        np.testing.assert_allclose(pieces[name], value, atol=1e-5)


def test_the_identity_is_the_weights(weights: Path) -> None:
    assert weights_of("unet", weights) == {"weights": sha256(weights)}
    assert weights_of("otsu") == {}
    assert weights_of("unet") == {"weights": sha256(module.WEIGHTS)}


def test_bad_settings(weights: Path, tmp_path: Path) -> None:
    rgb, _ = square()
    with pytest.raises(ConfigError, match="between 0 and 1"):
        segment(rgb, 8.0, "unet", {"tissue_threshold": 1.5})
    with pytest.raises(ConfigError, match="check tissue.checkpoint"):
        segment(rgb, 8.0, "unet", {}, tmp_path / "none.safetensors")
    with pytest.raises(ConfigError, match="takes no checkpoint"):
        segment(rgb, 8.0, "otsu", {}, weights)
    with pytest.raises(ConfigError, match="unknown option 'checkpoint'"):
        segment(rgb, 8.0, "unet", {"checkpoint": weights})
    save(UNet({"x": 1}, channels=(2, 2), factors=(2,)), tmp_path / "x.safetensors")
    with pytest.raises(ConfigError, match="not weights of a tissue network"):
        segment(rgb, 8.0, "unet", {}, tmp_path / "x.safetensors")


def test_sections_of_the_method_reach_the_outline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two halves 400 um apart: two sections by the gap between them, one where the method says so."""

    class Slide:
        width_px0, height_px0, mpp = 3200, 2400, 1.0

        def thumbnail(self, mpp: float) -> tuple[np.ndarray, float]:
            rgb = np.full((300, 400, 3), 243, np.uint8)
            noise = np.random.default_rng(0).integers(-30, 30, (200, 100, 1))
            rgb[50:250, 50:150] = rgb[50:250, 200:300] = np.array([210, 140, 185]) + noise
            return rgb, 8.0

    plain, stats = segment_slide(Slide(), Tissue())  # type: ignore[arg-type]
    assert stats["sections"] == 2
    otsu = module.SEGMENTERS["otsu"]

    def told(rgb: np.ndarray, mpp: float, **options: object) -> Segmentation:
        found = otsu(rgb, mpp)
        return Segmentation(found.tissue, found.pen, found.tissue.astype(np.int32) * 7)

    monkeypatch.setitem(module.SEGMENTERS._items, "otsu", told)
    joined, stats = segment_slide(Slide(), Tissue())  # type: ignore[arg-type]
    assert stats["sections"] == 1
    assert stats["tissue_area_um2"] == pytest.approx(2 * 1600 * 800, rel=0.05)


def test_nearest_label_fills_what_was_filled() -> None:
    labels = np.zeros((5, 9), np.int32)
    labels[:, :2], labels[:, 7:] = 1, 2
    mask = np.ones((5, 9), bool)
    mask[0] = False
    out = nearest_label(labels, mask)
    assert out[2].tolist() == [1, 1, 1, 1, 1, 2, 2, 2, 2] or out[2, 3] == 1 and out[2, 5] == 2
    assert not out[0].any()
    assert (nearest_label(np.zeros((5, 9), np.int32), mask) == mask).all()


def test_what_ships_is_small_and_finds_what_is_drawn() -> None:
    """Drawn slides of a seed that nothing was learned from: the floor is far below what the card states."""
    assert module.WEIGHTS.stat().st_size < 4e6
    card = module.WEIGHTS.with_suffix(".md").read_text()
    assert sha256(module.WEIGHTS) in card
    dice, pen = [], []
    for number in range(12):
        picture = draw_thumbnail(np.random.default_rng((99, number)), (256, 256), 8.0)
        found = segment(picture.rgb, 8.0, "unet")
        assert not (found.tissue & found.pen).any()
        for scores, a, b in ((dice, found.tissue, picture.tissue), (pen, found.pen, picture.pen)):
            if b.sum() > 100:
                scores.append(2 * (a & b).sum() / (a.sum() + b.sum()))
    assert np.mean(dice) > 0.85 and np.mean(pen) > 0.6


def test_one_torn_section_is_one_and_two_are_two() -> None:
    rng = np.random.default_rng(3)
    rgb = np.full((400, 400, 3), 243, np.uint8)
    y, x = np.mgrid[:400, :400]
    for cx in (110, 290):
        disc = ((x - cx) / 70) ** 2 + ((y - 200) / 110) ** 2 < 1
        disc &= np.abs(y - 200 - 0.2 * (x - cx)) > 6  # torn
        rgb[disc] = np.clip(np.array([185, 110, 170]) + rng.normal(0, 25, (int(disc.sum()), 1)), 0, 255)
    found = segment(rgb, 8.0, "unet", {"sections": True})
    assert found.sections is not None
    assert ((found.sections > 0) == found.tissue).all()
    halves = [np.bincount(found.sections[:, part][found.tissue[:, part]]) for part in (slice(0, 200), slice(200, 400))]
    assert found.sections.max() == 2
    assert all(half.max() > 0.95 * half.sum() for half in halves) and halves[0].argmax() != halves[1].argmax()


@pytest.mark.parametrize("slide", ["C2", "C3", "C4"])
def test_spots_are_covered_and_haloes_left_out(
    shared_data: Path, read_thumbnail: Callable[..., np.ndarray], slide: str
) -> None:
    rgb = read_thumbnail(shared_data / f"slides/her2st/HER2ST-{slide}.svs", 8.0)
    mask, _ = segment_image(rgb, 8.0, Tissue(method="unet"))
    spots = pd.read_csv(shared_data / f"her2st/spots/{slide}_selection.tsv", sep="\t")
    x, y = (spots[["pixel_x", "pixel_y"]].to_numpy() * 0.69 / 8.0).astype(int).T
    assert mask[y, x].mean() > 0.94
    far = np.ones(mask.shape, np.uint8)
    far[y, x] = 0
    assert (mask & (cv2.distanceTransform(far, cv2.DIST_L2, 5) * 8 > 150)).sum() < 0.03 * mask.sum()
