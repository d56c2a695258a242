"""Masks to GeoJSON that QuPath opens, and back.

Coordinates are pixels of level 0 (x to the right, y down, the top-left corner of the slide at 0, 0), as in QuPath. Each
piece of tissue is a `Polygon` with its holes and a property `section`; pen is classified apart.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from histostudy.errors import TableError
from histostudy.tissue.mask import bounds, reading_order
from histostudy.tissue.registry import BoolMask

if TYPE_CHECKING:
    from shapely import Polygon
    from shapely.geometry.base import BaseGeometry

TISSUE = "Tissue"
PEN = "Pen"
#: Colours of the classes in QuPath, red, green, blue.
COLOURS = {TISSUE: (46, 160, 67), PEN: (219, 109, 40)}


def polygons_of(mask: BoolMask, scale: tuple[float, float] = (1.0, 1.0), simplify_px: float = 0.35) -> list[Polygon]:
    """Outline the 4-connected pieces of a mask.

    The outline runs midway between the centres of the pixels in and out (marching squares), so that testing pixel
    centres gives the mask back.

    Parameters
    ----------
    mask : ndarray of bool, (H, W)
    scale : tuple of float
        Level-0 pixels per pixel of the mask, along x and y.
    simplify_px : float
        Tolerance of simplification, in pixels of the mask (Douglas and Peucker). The outline stays 0.354 or more from
        any pixel centre, so up to 0.35 the mask comes back exactly.

    Returns
    -------
    list of Polygon
        In level-0 pixels, valid, in reading order of each piece's first pixel.
    """
    import cv2
    from shapely import Polygon, affinity, make_valid
    from skimage.measure import find_contours

    found: list[Polygon] = []
    down, across = bounds(mask)
    mask = mask[down, across]
    if not mask.size:
        return found
    _, labels, boxes, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    for name in reading_order(np.asarray(labels, np.int32)):
        x, y, w, h, _ = boxes[name]
        crop = np.pad((labels[y : y + h, x : x + w] == name).astype(np.float32), 1)
        rings = [r[:, ::-1] for r in find_contours(crop, 0.5, fully_connected="low")]
        rings.sort(key=lambda r: -abs(_signed_area(r)))
        shape = Polygon(rings[0], rings[1:])
        simple = shape.simplify(simplify_px, preserve_topology=True) if simplify_px else shape
        # pixel (0, 0) of the padded crop has its centre at (x - 0.5, y - 0.5) of the mask's edges
        shift = ((x + across.start - 0.5) * scale[0], (y + down.start - 0.5) * scale[1])
        placed = affinity.affine_transform(simple, [scale[0], 0, 0, scale[1], *shift])
        found.extend(_parts(make_valid(placed)))
    return found


def _signed_area(ring: NDArray[np.float64]) -> float:
    x, y = ring[:, 0], ring[:, 1]
    return 0.5 * float(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1]))


def _parts(shape: BaseGeometry) -> list[Polygon]:
    """The polygons of a geometry; its lines and points, which bound no area, are left out."""
    from shapely import get_parts

    found: list[Polygon] = []
    for part in get_parts(shape):
        if part.geom_type == "Polygon":
            if part.area > 0:
                found.append(part)
        elif part.geom_type in ("MultiPolygon", "GeometryCollection"):
            found.extend(_parts(part))
    return found


def feature(polygon: Polygon, kind: str, name: str, section: int | None = None) -> dict[str, Any]:
    """One annotation as QuPath writes it; its `id` is a UUID made of what it holds, the same each time."""
    rings = [polygon.exterior, *polygon.interiors]
    coordinates = [[[round(x, 1), round(y, 1)] for x, y in ring.coords] for ring in rings]
    properties: dict[str, Any] = {
        "objectType": "annotation",
        "name": name,
        "classification": {"name": kind, "color": list(COLOURS[kind])},
    }
    if section is not None:
        properties["section"] = section
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(uuid.NAMESPACE_OID, json.dumps([kind, coordinates]))),
        "geometry": {"type": "Polygon", "coordinates": coordinates},
        "properties": properties,
    }


def to_geojson(
    labels: NDArray[np.int32], pen: BoolMask | None = None, scale: tuple[float, float] = (1.0, 1.0)
) -> dict[str, Any]:
    """FeatureCollection of the sections of a slide and of its pen.

    Parameters
    ----------
    labels : ndarray of int, (H, W)
        0 off the tissue, else the number of the section.
    pen : ndarray of bool, (H, W), optional
    scale : tuple of float
        Level-0 pixels per pixel of `labels`, along x and y.
    """
    features: list[dict[str, Any]] = []
    for section in range(1, int(labels.max(initial=0)) + 1):
        for polygon in polygons_of(labels == section, scale):
            features.append(feature(polygon, TISSUE, f"section {section}", section))
    if pen is not None:
        features.extend(feature(polygon, PEN, "pen") for polygon in polygons_of(pen, scale))
    return {"type": "FeatureCollection", "features": features}


def read_geojson(path: str | Path, kind: str | None = TISSUE) -> list[Polygon]:
    """Read the polygons of one class, in level-0 pixels.

    What QuPath writes after editing is read as well: a FeatureCollection, a list of features, or one; `Polygon` and
    `MultiPolygon`.

    Parameters
    ----------
    path : str or Path
    kind : str, optional
        Name of the class, in any case. None takes all. A file without any class is all tissue.

    Raises
    ------
    TableError
        If the file is no GeoJSON.
    """
    from shapely import make_valid
    from shapely.errors import ShapelyError
    from shapely.geometry import shape

    todo = "export the annotations of the slide from QuPath as GeoJSON again"
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise TableError(f"not JSON ({error})", where=path, todo=todo) from error
    features = value.get("features", [value]) if isinstance(value, dict) else value
    found: list[Polygon] = []
    try:
        named = [((f.get("properties") or {}).get("classification") or {}).get("name") for f in features]
        for one, name in zip(features, named, strict=True):
            wanted = kind is None or name is None or name.lower() == kind.lower()
            if wanted and not (name is None and any(named) and kind is not None):
                found.extend(_parts(make_valid(shape(one["geometry"]))))
    except (AttributeError, KeyError, TypeError, ValueError, ShapelyError) as error:
        raise TableError(f"not GeoJSON ({error!r})", where=path, todo=todo) from error
    return found


def rasterise(polygons: Iterable[Polygon], shape: tuple[int, int], downsample: float | Sequence[float]) -> BoolMask:
    """Mask of the pixels whose centre lies in a polygon.

    Parameters
    ----------
    polygons : iterable of Polygon
        In level-0 pixels; where they overlap, their union counts.
    shape : tuple of int
        Height and width of the mask.
    downsample : float or sequence of two floats
        Level-0 pixels per pixel of the mask, or that along x and y.

    Returns
    -------
    ndarray of bool, `shape`
    """
    fx, fy = (downsample, downsample) if isinstance(downsample, int | float) else downsample
    mask = np.zeros(shape, bool)
    for polygon in polygons:
        rings = [np.asarray(r.coords)[:, :2] / (fx, fy) for r in (polygon.exterior, *polygon.interiors)]
        low, high = np.floor(rings[0].min(axis=0)), np.ceil(rings[0].max(axis=0))
        x0, y0 = np.maximum(low.astype(int), 0)
        x1, y1 = np.minimum(high.astype(int), (shape[1], shape[0]))
        if x1 > x0 and y1 > y0:
            mask[y0:y1, x0:x1] |= _even_odd([r - (x0, y0) for r in rings], int(y1 - y0), int(x1 - x0))
    return mask


def _even_odd(rings: list[NDArray[np.float64]], height: int, width: int) -> BoolMask:
    """Even-odd rule at pixel centres: an edge flips all that lies to the right of where it crosses a row."""
    start = np.concatenate([r[:-1] for r in rings])
    stop = np.concatenate([r[1:] for r in rings])
    swap = start[:, 1] > stop[:, 1]
    start[swap], stop[swap] = stop[swap], start[swap].copy()
    # rows whose centre (row + 0.5) lies in [start y, stop y)
    first = np.clip(np.ceil(start[:, 1] - 0.5), 0, height).astype(np.int64)
    last = np.clip(np.ceil(stop[:, 1] - 0.5), 0, height).astype(np.int64)
    count = np.maximum(last - first, 0)
    edge = np.repeat(np.arange(len(count)), count)
    row = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)
    rise = stop[edge, 1] - start[edge, 1]
    x = start[edge, 0] + (row + 0.5 - start[edge, 1]) / rise * (stop[edge, 0] - start[edge, 0])
    column = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
    flips = np.bincount(row * (width + 1) + column, minlength=height * (width + 1))
    return (np.cumsum(flips.reshape(height, width + 1), axis=1)[:, :width] % 2).astype(bool)
