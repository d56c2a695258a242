"""H2G-Net's second stage on drawn blobs: it beats the heat map and the slide alone, and falls back to the heat map."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from histostudy.study import Training
from histostudy.training.segmentation.fitting import Batch, fit
from histostudy.training.segmentation.h2g import heat_map, shares, upsampled
from histostudy.training.segmentation.losses import pixel_loss
from histostudy.training.segmentation.segmenters import UNetOptions, to_tensor

SIDE, BLOCK = 96, 12


def _case(rng: np.random.Generator, *, noise_alone: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """RGB that tells the class weakly and in part wrongly, a heat map with a tenth of its blocks flipped, the truth."""
    field = cv2.GaussianBlur(rng.normal(size=(SIDE, SIDE)), (0, 0), 14)
    truth = (field > np.quantile(field, 0.65)).astype(np.uint8)
    blocks = truth.reshape(SIDE // BLOCK, BLOCK, SIDE // BLOCK, BLOCK).mean((1, 3))
    flip = rng.random(blocks.shape) < 0.1
    heat = np.where(flip, 1 - blocks, blocks) + rng.normal(0, 0.1, blocks.shape)
    # patches that look like tumour and are none (fat, folds): colour alone cannot know
    other = cv2.GaussianBlur(rng.normal(size=(SIDE, SIDE)), (0, 0), 14)
    looks = truth | (other > np.quantile(other, 0.75))
    signal = 0.0 if noise_alone else 30.0
    rgb = 128 + signal * (looks[..., None] - 0.5) + rng.normal(0, 25, (SIDE, SIDE, 3))
    return rgb.clip(0, 255).astype(np.uint8), heat.clip(0, 1)[..., None].astype(np.float32), truth


def _dice(mask: np.ndarray, truth: np.ndarray) -> float:
    return float(2 * (mask & truth).sum() / max(mask.sum() + truth.sum(), 1))


def _trained(cases: list, *, heat: bool) -> torch.nn.Module:
    options = UNetOptions(SIDE, 0, 10, 8, (8, 16, 32))
    network = options.build(3 + heat, 1, 0)
    x = torch.cat([_input(case, heat=heat) for case in cases])
    y = torch.from_numpy(np.stack([case[2] for case in cases]).astype(np.int64))

    def draw(rng: np.random.Generator) -> Batch:
        rows = rng.integers(len(cases), size=4)
        return x[rows], y[rows]

    training = Training(epochs=8, lr=0.01)
    fit(network, pixel_loss, draw, [(x[:4], y[:4])], training, steps=6, seed=0)
    return network


def _input(case: tuple, *, heat: bool) -> torch.Tensor:
    rgb, blocks, _ = case
    warm = np.rint(upsampled(blocks, BLOCK, 0, 0, SIDE) * 255).astype(np.uint8)
    return to_tensor(np.concatenate([rgb, warm], -1)[None] if heat else rgb[None])


def _scores(network: torch.nn.Module, cases: list, *, heat: bool) -> float:
    with torch.no_grad():
        masks = [network(_input(case, heat=heat)).argmax(1)[0].numpy() for case in cases]
    return float(np.mean([_dice(mask, case[2]) for mask, case in zip(masks, cases, strict=True)]))


def _of_heat(cases: list) -> float:
    return float(
        np.mean([_dice((np.kron(c[1][..., 0], np.ones((BLOCK, BLOCK))) > 0.5).astype(int), c[2]) for c in cases])
    )


@pytest.mark.parametrize("noise_alone", [False, True])
def test_refinement_beats_both_of_its_parts_and_smooths_the_heat_map_where_colour_says_nothing(
    noise_alone: bool,
) -> None:
    rng = np.random.default_rng(3)
    cases = [_case(rng, noise_alone=noise_alone) for _ in range(24)]
    train, test = cases[:16], cases[16:]
    refined = _scores(_trained(train, heat=True), test, heat=True)
    alone = _scores(_trained(train, heat=False), test, heat=False)
    raw = _of_heat(test)
    assert refined > raw + 0.02, (refined, raw, alone)
    assert refined > alone + 0.05, (refined, raw, alone)


def test_heat_maps_are_read_back_at_the_middle_of_their_cells() -> None:
    rng = np.random.default_rng(0)
    heat = rng.random((6, 7, 2)).astype(np.float32)
    found = upsampled(heat, 9.0, 0, 0, 63)
    assert found.shape == (63, 63, 2)
    assert np.allclose(found[4:54:9, 4::9], heat, atol=1e-6)
    assert np.allclose(upsampled(heat, 9.0, 10, 5, 20), found[5:25, 10:30], atol=1e-6)


def test_tiles_off_the_tissue_are_not_looked_at() -> None:
    wanted = np.array([[True, False, True], [False, True, True]])
    seen: list[tuple[int, int]] = []

    def read(at: list[tuple[int, int]], size: int) -> torch.Tensor:
        seen.extend(at)
        return torch.zeros(len(at), 3, size, size)

    found = heat_map(lambda x: torch.tensor([[0.0, 9.0, -9.0]]).repeat(len(x), 1), read, wanted, 2, 10, 3)  # type: ignore[arg-type]
    assert seen == [(0, 0), (20, 0), (10, 10), (20, 10)]
    assert (found[wanted][:, 0] > 0.99).all() and (found[~wanted] == 0).all()


def test_shares_of_a_tile_leave_ignored_pixels_out() -> None:
    tile = np.array([[[0, 1], [1, 255]], [[255, 255], [255, 255]]], np.uint8)
    assert torch.allclose(shares(tile, 2), torch.tensor([[1 / 3, 2 / 3, 0], [0, 0, 0]]))
