"""Segmenters against real truth: spots under tissue, pen and coverslip masks, tiles with and without tissue."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from histostudy.study import Tissue
from histostudy.tissue.stage import segment_image

Read = Callable[..., np.ndarray]
MPP = 8.0
#: The pictures of pen and coverslip state no scale; 16 um a pixel makes their sections 8 to 15 mm wide.
PICTURE_MPP = 16.0


@pytest.mark.parametrize("slide", ["C2", "C3", "C4"])
def test_spots_are_covered(shared_data: Path, read_thumbnail: Read, slide: str) -> None:
    rgb = read_thumbnail(shared_data / f"slides/her2st/HER2ST-{slide}.svs", MPP)
    mask, pen = segment_image(rgb, MPP, Tissue(method="classical"))
    spots = pd.read_csv(shared_data / f"her2st/spots/{slide}_selection.tsv", sep="\t")
    x, y = (spots[["pixel_x", "pixel_y"]].to_numpy() * 0.69 / MPP).astype(int).T
    assert mask[y, x].mean() >= 0.98
    far = np.ones(mask.shape, np.uint8)
    far[y, x] = 0
    assert (mask & (cv2.distanceTransform(far, cv2.DIST_L2, 5) * MPP > 150)).sum() < 0.04 * mask.sum()
    assert pen.mean() < 0.001


@pytest.mark.parametrize(("method", "least"), [("otsu", 0.95), ("classical", 0.95)])
def test_red_pen_is_removed(shared_data: Path, read_picture: Read, method: str, least: float) -> None:
    rgb = read_picture(shared_data / "qc/pen_red.png")
    truth = read_picture(shared_data / "qc/pen_red_mask.png")
    mask, pen = segment_image(rgb, PICTURE_MPP, Tissue(method=method))
    assert 1 - mask[truth].mean() >= least
    assert pen[truth].mean() >= 0.9
    assert (pen & ~cv2.dilate(truth.astype(np.uint8), np.ones((61, 61))).astype(bool)).sum() < 0.15 * pen.sum()
    assert mask[600, 500] and mask[300, 300] and not mask[50, 800]  # the section stays, the glass goes


@pytest.mark.parametrize("method", ["otsu", "classical"])
def test_coverslip_edge_is_removed(shared_data: Path, read_picture: Read, method: str) -> None:
    rgb = read_picture(shared_data / "qc/coverslip_edge.png")
    truth = read_picture(shared_data / "qc/coverslip_edge_mask.png")
    mask, _ = segment_image(rgb, PICTURE_MPP, Tissue(method=method))
    assert 1 - mask[truth].mean() >= 0.85
    assert mask[300, 400]


@pytest.mark.parametrize("method", ["otsu", "classical"])
def test_green_and_blue_pen(shared_data: Path, read_picture: Read, method: str) -> None:
    green = segment_image(read_picture(shared_data / "qc/tcga-green-pen.png"), 4.0, Tissue(method=method))
    assert green[1][120:180, 320:400].mean() > 0.9 and green[1][:, 500:].mean() < 0.02
    assert green[0][:, 500:].mean() > 0.98 and green[0][120:180, 320:400].mean() < 0.1
    blue = segment_image(read_picture(shared_data / "qc/wsi-blue-pen.png"), 60.0, Tissue(method=method))
    assert blue[1][:, 146:].any() and not blue[1][:, :120].any()
    assert blue[0][:, :120].mean() > 0.2


@pytest.mark.parametrize("method", ["otsu", "classical"])
def test_tiles_with_and_without_tissue(shared_data: Path, read_picture: Read, method: str) -> None:
    def share(name: str) -> float:
        rgb = cv2.resize(read_picture(shared_data / f"qc/tiles/{name}.png"), (128, 128), interpolation=cv2.INTER_AREA)
        return float(segment_image(rgb, MPP, Tissue(method=method))[0].mean())

    for name in ("almost-white-1", "no-tissue", "no-tissue2", "no-tissue-line", "no-tissue-green-pen"):
        assert share(name) == 0.0, name
    assert share("almost-white-2") < 0.08
    assert share("no-tissue-red-pen") < 0.2
    assert share("tissue-level2-3000-7666-7096-11763") > 0.65


@pytest.mark.parametrize("method", ["otsu", "classical"])
def test_fields_without_background_are_all_tissue(shared_data: Path, read_thumbnail: Read, method: str) -> None:
    paths = sorted((shared_data / "slides/monuseg").glob("*.tiff")) + sorted((shared_data / "slides/regions").iterdir())
    assert len(paths) >= 33
    for path in paths:
        assert segment_image(read_thumbnail(path, MPP), MPP, Tissue(method=method))[0].mean() > 0.99, path.name
    crop = read_thumbnail(shared_data / "slides/edge_cases/CropBreastSlide.tiff", MPP, 0.5)
    assert segment_image(crop, MPP, Tissue(method=method))[0].mean() > 0.98


def test_stitched_grey_and_white_background(shared_data: Path, read_thumbnail: Read) -> None:
    rgb = read_thumbnail(shared_data / "slides/edge_cases/TCGA-CR-7395-01A-01-TS1.svs", MPP, 0.5)
    mask, _ = segment_image(rgb, MPP, Tissue(method="classical"))
    assert 0.6 < mask.mean() < 0.68
    for y, x in ((50, 20), (200, 20), (20, 230), (12, 100)):  # the grey frames and the white between them
        assert not mask[y, x], (y, x)
