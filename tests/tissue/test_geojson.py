"""Mask to polygons to mask, and what QuPath needs."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histostudy.errors import TableError
from histostudy.tissue.geojson import PEN, TISSUE, polygons_of, rasterise, read_geojson, to_geojson


def blobs(seed: int, shape: tuple[int, int], share: float, sigma: float) -> np.ndarray:
    """A random mask of blobs with holes."""
    import cv2

    field = cv2.GaussianBlur(np.random.default_rng(seed).normal(size=shape).astype(np.float32), (0, 0), sigma)
    return field > np.quantile(field, 1 - share)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    height=st.integers(60, 160),
    width=st.integers(60, 160),
    share=st.floats(0.1, 0.9),
    factor=st.floats(1.0, 40.0),
)
def test_round_trip(seed: int, height: int, width: int, share: float, factor: float) -> None:
    mask = blobs(seed, (height, width), share, 4.0)
    scale = (factor, factor * 1.01)
    polygons = polygons_of(mask, scale)
    assert all(p.is_valid and p.geom_type == "Polygon" for p in polygons)
    assert iou(rasterise(polygons, mask.shape, scale), mask) > 0.999
    assert sum(p.area for p in polygons) == pytest.approx(mask.sum() * scale[0] * scale[1], rel=0.05)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), share=st.floats(0.05, 0.95))
def test_round_trip_of_noise_is_exact_without_simplification(seed: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((30, 40)) < share
    polygons = polygons_of(mask, (3.0, 3.0), simplify_px=0)
    np.testing.assert_array_equal(rasterise(polygons, mask.shape, 3.0), mask)


def test_rasterise_against_shapely() -> None:
    from shapely import contains_xy, unary_union

    polygons = polygons_of(blobs(3, (50, 70), 0.4, 3.0), (7.0, 7.0))
    y, x = np.mgrid[0:90, 0:120] + 0.5
    want = contains_xy(unary_union(polygons), x * 4.1, y * 3.9)
    np.testing.assert_array_equal(rasterise(polygons, (90, 120), (4.1, 3.9)), want)


def test_overlapping_and_outside_polygons() -> None:
    from shapely import box

    mask = rasterise([box(0, 0, 6, 6), box(4, 4, 30, 8), box(100, 100, 110, 110), box(-9, -9, -1, -1)], (10, 10), 1.0)
    want = np.zeros((10, 10), bool)
    want[:6, :6] = True
    want[4:8, 4:] = True
    np.testing.assert_array_equal(mask, want)


def test_features_are_qupaths(tmp_path: Path) -> None:
    labels = np.zeros((40, 60), np.int32)
    labels[5:20, 5:25] = 1
    labels[10:14, 10:14] = 0  # a hole
    labels[25:35, 40:55] = 2
    pen = np.zeros(labels.shape, bool)
    pen[36:39, 2:30] = True
    value = to_geojson(labels, pen, (10.0, 10.0))
    assert value == to_geojson(labels, pen, (10.0, 10.0))
    tissue = [f for f in value["features"] if f["properties"]["classification"]["name"] == TISSUE]
    assert [f["properties"]["section"] for f in tissue] == [1, 2]
    assert len(tissue[0]["geometry"]["coordinates"]) == 2
    for f in value["features"]:
        assert f["type"] == "Feature" and f["properties"]["objectType"] == "annotation"
        assert len(f["properties"]["classification"]["color"]) == 3
        uuid.UUID(f["id"])
        for ring in f["geometry"]["coordinates"]:
            assert ring[0] == ring[-1]
    path = tmp_path / "s.geojson"
    path.write_text(json.dumps(value))
    np.testing.assert_array_equal(rasterise(read_geojson(path), labels.shape, 10.0), labels > 0)
    np.testing.assert_array_equal(rasterise(read_geojson(path, PEN), labels.shape, 10.0), pen)


def test_reads_what_qupath_writes(tmp_path: Path) -> None:
    square = [[[0, 0], [8, 0], [8, 8], [0, 8], [0, 0]]]
    one = {"type": "Feature", "geometry": {"type": "MultiPolygon", "coordinates": [square]}, "properties": {}}
    bow = [[[0, 0], [8, 8], [8, 0], [0, 8], [0, 0]]]  # crosses itself
    path = tmp_path / "s.geojson"
    for value, area in (
        ([one], 64),
        (one, 64),
        ({"type": "FeatureCollection", "features": [{**one, "geometry": {"type": "Polygon", "coordinates": bow}}]}, 32),
    ):
        path.write_text(json.dumps(value))
        assert sum(p.area for p in read_geojson(path)) == area


@pytest.mark.parametrize("text", ["{", "[1]", '{"features": [{"properties": {}}]}', '[{"geometry": {"type": "X"}}]'])
def test_bad_file_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "s.geojson"
    path.write_text(text)
    with pytest.raises(TableError, match=r"s\.geojson: .*QuPath"):
        read_geojson(path)
