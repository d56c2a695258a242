"""Sections by predicted centres: torn sections stay one, units are pixels, memory is bounded."""

from __future__ import annotations

import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from histostudy.errors import ConfigError
from histostudy.tissue.centroids import separate


def slide(seed: int, n: int | None = None, size: int = 1200) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """One to nine elliptical sections, each torn in two: sections, mask and true offsets (px)."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 10)) if n is None else n
    labels = np.zeros((size, size), np.int32)
    for k, cell in enumerate(rng.permutation(9)[:n]):
        centre = (np.array([cell % 3, cell // 3]) + 0.5) * size / 3 + rng.uniform(-20, 20, 2)
        one = np.zeros((size, size), np.uint8)
        axes = rng.uniform(80, 150, 2).astype(int)
        cv2.ellipse(one, centre.astype(int).tolist(), axes.tolist(), rng.uniform(0, 180), 0, 360, 1, -1)
        y, x = np.mgrid[:size, :size]
        angle = rng.uniform(0, np.pi)
        torn = np.abs((x - centre[0]) * np.cos(angle) + (y - centre[1]) * np.sin(angle)) < rng.uniform(8, 20)
        labels[(one > 0) & ~torn] = k + 1
    dx, dy = np.zeros(labels.shape), np.zeros(labels.shape)
    y, x = np.nonzero(labels)
    for k in range(1, n + 1):
        own = labels[y, x] == k
        dx[y[own], x[own]], dy[y[own], x[own]] = x[own] - x[own].mean(), y[own] - y[own].mean()
    return labels, labels > 0, dx, dy


def smooth_noise(seed: int, shape: tuple[int, int], sd: float) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 40)
    return noise / noise.std() * sd


def distinct(labels: np.ndarray, truth: np.ndarray) -> float:
    """Share of the true sections whose commonest label no other section has."""
    most = [np.bincount(labels[truth == k]).argmax() for k in range(1, truth.max() + 1)]
    return float(np.mean([most.count(m) == 1 for m in most]))


def test_torn_sections_are_counted_as_one() -> None:
    errors, components, kept = [], [], []
    for seed in range(8):
        truth, mask, dx, dy = slide(seed)
        labels, centroids = separate(mask, dx, dy)
        errors.append(abs(len(centroids) - truth.max()))
        components.append(abs(cv2.connectedComponents(mask.astype(np.uint8))[0] - 1 - truth.max()))
        kept.append(distinct(labels, truth))
        assert ((labels > 0) == mask).all()
    assert np.mean(errors) == 0 and np.mean(kept) == 1
    assert np.mean(components) > 2  # what connected components would say


def test_smooth_noise_of_20_px() -> None:
    errors = []
    for seed in range(8):
        truth, mask, dx, dy = slide(seed)
        noisy = [d + smooth_noise(100 + 2 * seed + k, mask.shape, 20) for k, d in enumerate((dx, dy))]
        errors.append(abs(len(separate(mask, *noisy)[1]) - truth.max()))
    assert np.mean(errors) <= 0.25


def test_bins_taken_for_pixels_merge_sections_and_pixels_do_not() -> None:
    """The fault of SlideSegmenter's snapshot 6f88be7: peaks in bins, predicted centres in pixels."""
    ours, theirs = [], []
    for seed in range(6):
        truth, mask, dx, dy = slide(seed, n=6)
        labels, centroids = separate(mask, dx, dy)
        y, x = np.nonzero(mask)
        points = np.stack([y - dy[y, x], x - dx[y, x]], 1)
        mixed = np.zeros_like(labels)
        in_bins = centroids / 20.0
        mixed[y, x] = 1 + np.array([((points - c) ** 2).sum(1) for c in in_bins]).argmin(0)
        ours.append(distinct(labels, truth))
        theirs.append(distinct(mixed, truth))
    assert np.mean(ours) == 1
    assert np.mean(theirs) < 0.6


@given(st.integers(-6, 6), st.integers(-6, 6))
@settings(max_examples=8, deadline=None)
def test_a_shift_by_bins_shifts_the_labels(down: int, right: int) -> None:
    truth, mask, dx, dy = (np.pad(a[::2, ::2], 200) for a in slide(3, n=4, size=800))
    by = (20 * down, 20 * right)
    labels, centroids = separate(mask, dx / 2, dy / 2)
    moved, peaks = separate(*(np.roll(a, by, (0, 1)) for a in (mask, dx / 2, dy / 2)))
    np.testing.assert_array_equal(np.roll(labels, by, (0, 1)), moved)
    np.testing.assert_allclose(centroids + by, peaks)


def test_one_section_has_one_label_and_its_centre() -> None:
    truth, mask, dx, dy = slide(1, n=1)
    labels, centroids = separate(mask, dx, dy)
    assert labels.max() == 1
    y, x = np.nonzero(mask)
    assert np.abs(centroids[0] - (y.mean(), x.mean())).max() <= 10  # half a bin


def test_more_sections_than_a_byte_counts() -> None:
    side, pitch = 20, 40
    labels = np.zeros((side * pitch,) * 2, np.int32)
    dx = np.zeros(labels.shape)
    for k in range(side * side):
        top, left = pitch * (k // side) + 12, pitch * (k % side) + 12
        labels[top : top + 16, left : left + 16] = k + 1
    y, x = np.mgrid[: side * pitch, : side * pitch]
    dx, dy = (x % pitch - 19.5) * (labels > 0), (y % pitch - 19.5) * (labels > 0)
    found, centroids = separate(
        labels > 0, dx, dy, pixels_per_bin=4, sigma=1, window=5, percentile=95, least=0.0005
    )  # fmt: skip
    assert len(centroids) == 400 and found.max() == 400
    assert distinct(found, labels) == 1


def test_stray_pixels_are_no_section() -> None:
    truth, mask, dx, dy = slide(5, n=2)
    y, x = np.nonzero(mask)
    dx[y[:20], x[:20]] = -1e9  # beyond the image
    dy[y[20:60], x[20:60]] += 400  # in the middle of nowhere
    labels, centroids = separate(mask, dx, dy)
    assert len(centroids) == 2 and labels[mask].min() == 1


def test_memory_does_not_grow_with_pixels_times_sections() -> None:
    truth, mask, dx, dy = slide(0, n=9)
    tracemalloc.start()
    separate(mask, dx, dy)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 120 * mask.size  # bytes; pixels x 9 sections x 2 coordinates would be above 144 a pixel of tissue


def test_nothing_and_nonsense() -> None:
    empty = np.zeros((30, 30), bool)
    zero = np.zeros((30, 30))
    labels, centroids = separate(empty, zero, zero)
    assert not labels.any() and centroids.shape == (0, 2)
    tiny = np.ones((3, 3), bool)
    assert separate(tiny, np.zeros((3, 3)), np.zeros((3, 3)))[0].max() == 1
    lost = separate(~empty, zero + 1e6, zero)  # all centres outside: one section
    assert (lost[0] == 1).all()
    with pytest.raises(ConfigError, match="pixels_per_bin"):
        separate(tiny, np.zeros((3, 3)), np.zeros((3, 3)), pixels_per_bin=0)
    with pytest.raises(ValueError, match="differ"):
        separate(tiny, np.zeros((3, 4)), np.zeros((3, 3)))
