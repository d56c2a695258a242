"""Drawn thumbnails: the same each time, of every kind, and true to their truth."""

from __future__ import annotations

import numpy as np
import pytest

from histostudy.simulate import thumbnail_shapes as shapes
from histostudy.simulate.thumbnails import draw_thumbnail
from histostudy.tissue.picture import Picture, augment, offsets_of


def draw(number: int, mpp: float = 8.0, size: tuple[int, int] = (96, 128)) -> Picture:
    return draw_thumbnail(np.random.default_rng(number), size, mpp)


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    return [draw(k) for k in range(40)]


def test_one_generator_one_picture() -> None:
    for number in range(4):
        a, b = draw(number, 16.0), draw(number, 16.0)
        for name in ("rgb", "tissue", "pen", "labels"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert (draw(0).rgb != draw(1).rgb).any()


def test_shapes_and_truth_agree(pictures: list[Picture]) -> None:
    for picture in pictures:
        assert picture.rgb.shape == (96, 128, 3) and picture.rgb.dtype == np.uint8
        assert not (picture.tissue & picture.pen).any()
        assert (picture.labels[picture.tissue] > 0).all()  # tissue lies in sections


def test_all_kinds_are_drawn(pictures: list[Picture]) -> None:
    share = np.array([p.tissue.mean() for p in pictures])
    assert (share == 0).any() and (share > 0.6).any() and ((share > 0.1) & (share < 0.6)).sum() > 10
    assert 5 < sum(bool(p.pen.any()) for p in pictures) < 38
    counts = {len(np.unique(p.labels)) - 1 for p in pictures}
    assert len(counts) >= 5 and max(counts) >= 5
    glass = [~(p.tissue | p.pen) for p in pictures]
    light = [np.median(p.rgb[g], axis=0) for p, g in zip(pictures, glass, strict=True) if g.mean() > 0.5]
    assert np.ptp(np.array(light), axis=0).min() > 30  # glass of many colours


def test_tissue_and_pen_are_darker_than_glass(pictures: list[Picture]) -> None:
    for mask in ("tissue", "pen"):
        darker = []
        for p in pictures:
            glass, there = p.rgb[~(p.tissue | p.pen)], p.rgb[getattr(p, mask)]
            if len(glass) > 200 and len(there) > 200:
                darker.append(there.mean() < glass.mean())
        assert np.mean(darker) > 0.9


def test_torn_sections_lie_in_pieces() -> None:
    import cv2

    rng = np.random.default_rng(0)
    labels = shapes.sections(rng, (300, 300), 6, torn=True)
    pieces = [cv2.connectedComponents((labels == k).astype(np.uint8))[0] - 1 for k in range(1, labels.max() + 1)]
    assert labels.max() >= 4 and sum(n >= 2 for n in pieces) >= 3
    whole = shapes.sections(np.random.default_rng(0), (300, 300), 1, torn=False)
    assert cv2.connectedComponents(whole.astype(np.uint8))[0] == 2


def test_offsets_point_at_the_centre() -> None:
    labels = np.zeros((20, 30), np.int32)
    labels[2:8, 3:9], labels[10:18, 20:29] = 1, 4
    dx, dy = offsets_of(labels)
    y, x = np.nonzero(labels == 4)
    np.testing.assert_allclose((x - dx[y, x]), 24.0)
    np.testing.assert_allclose((y - dy[y, x]), 13.5)
    assert not dx[labels == 0].any()


def test_a_change_moves_truth_and_picture_together() -> None:
    rng = np.random.default_rng(0)
    labels = shapes.sections(rng, (128, 128), 2, torn=False)
    tissue = labels > 0
    rgb = np.where(tissue[..., None], 60, 240).astype(np.uint8).repeat(3, axis=2).reshape(128, 128, -1)[..., :3]
    picture = Picture(np.ascontiguousarray(rgb), tissue, np.zeros_like(tissue), labels)
    changed = 0
    for k in range(20):
        out = augment(np.random.default_rng(k), picture)
        again = augment(np.random.default_rng(k), picture)
        np.testing.assert_array_equal(out.rgb, again.rgb)
        assert out.rgb.shape == rgb.shape and out.rgb.dtype == np.uint8 and out.labels.dtype == np.int32
        np.testing.assert_array_equal(out.tissue, out.labels > 0)
        dark = out.rgb[..., 1] < 150
        assert (dark == out.tissue).mean() > 0.95
        changed += bool((out.tissue != tissue).any())
    assert changed > 12
