"""Annotations as QuPath exports them, and the class map that they stand for.

What users of QuPath do, and what it means here:

- They draw what they are after and leave the rest: tissue that nobody drew on is background (`unannotated: ignore`
  where the drawing is not complete).
- They draw a `Region*` and complete the drawing inside it alone: a slide with one is looked at inside its regions.
- They draw `Ignore*` over folds and blur: pixels there count for nothing, whatever else is drawn on them.
- Outlines run into the glass: annotations are taken as drawn. Predictions stay on the tissue, so that tissue which the
  tissue method missed counts as missed.
- Cells and other detections, points and lines are no areas that somebody drew: they are passed over.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from histostudy.errors import TableError
from histostudy.tissue.geojson import rasterise

if TYPE_CHECKING:
    from shapely import Polygon, STRtree
    from shapely.geometry.base import BaseGeometry

    from histostudy.tasks import Segmentation

logger = logging.getLogger(__name__)

#: Value of pixels that count for nothing; background is 0, the task's classes follow from 1.
IGNORE = 255
#: QuPath's own names of a region of interest and of what is to be left out.
REGION, LEFT_OUT = ("region*", "region"), ("ignore*", "ignore")
#: Ids by which QuPath before 0.3 says that an object is none that somebody drew.
DETECTIONS = ("PathCellObject", "PathDetectionObject", "PathTileObject")
AREAS = ("Polygon", "MultiPolygon", "GeometryCollection")
ClassMap = NDArray[np.uint8]


@dataclass(frozen=True)
class Annotations:
    """What was drawn on one slide, in level-0 pixels.

    Attributes
    ----------
    painted : list of (int, list of Polygon)
        Value and areas, in the order in which they are painted over each other.
    regions : list of Polygon
        Where a slide is looked at; empty: everywhere.
    base : int
        Value of tissue that nobody drew on.
    """

    painted: list[tuple[int, list[Polygon]]]
    regions: list[Polygon]
    base: int = 0


def read_annotations(path: str | Path, task: Segmentation) -> Annotations:
    """Read a slide's annotations and sort them into the classes of a task.

    Raises
    ------
    TableError
        If the file is no GeoJSON, or holds an annotation without a class or of one that the task does not name.
    """
    names: dict[str, str] = dict.fromkeys(LEFT_OUT, "ignore")
    names |= {one.strip().lower(): name for name, drawn in task.classes.items() for one in drawn}
    found: dict[str, list[Polygon]] = {name: [] for name in (*task.classes, "ignore", "region")}
    todo = "name it in `classes` under a class, or under background or ignore"
    for number, one in enumerate(_features(path), start=1):
        properties = one.get("properties") or {}
        if not isinstance(properties, dict):
            raise TableError(f"annotation {number} has no properties that can be read", where=path,
                             todo="export it again")  # fmt: skip
        kind = properties.get("objectType") or properties.get("object_type") or "annotation"  # the latter before 0.4
        if str(kind).lower() != "annotation" or one.get("id") in DETECTIONS:
            continue
        polygons = _polygons(one.get("geometry"), path, number)
        if not polygons:
            continue
        drawn = _class_of(properties.get("classification"), path, number)
        if not drawn:
            raise TableError(f"annotation {number} has no class", where=path, todo="give it one in QuPath")
        wanted = str(drawn).strip().lower()
        if wanted in REGION and wanted not in names:
            found["region"] += polygons
            continue
        # QuPath writes a derived class as `Tumor: Positive`
        name = names.get(wanted) or names.get(wanted.partition(":")[0].strip())
        if name is None:
            raise TableError(f"annotation {number} is of class {drawn!r}, which the task does not name", where=path,
                             todo=todo)  # fmt: skip
        found[name] += polygons
    value = {"background": 0} | {name: k for k, name in enumerate(task.labels, start=1)}
    painted = [(value[name], found[name]) for name in task.classes if name != "ignore" and found[name]]
    if found["ignore"]:
        painted.append((IGNORE, found["ignore"]))
    return Annotations(painted, found["region"], IGNORE if task.unannotated == "ignore" else 0)


def _class_of(classification: Any, path: str | Path, number: int) -> str:
    """The class in words, `Tumor: Positive` where it is derived; empty of none."""
    if isinstance(classification, dict):
        names = classification.get("names")
        classification = ": ".join(map(str, names)) if isinstance(names, list) else classification.get("name")
    if classification is not None and not isinstance(classification, str):
        raise TableError(f"annotation {number} has a class that is no name: {classification!r}", where=path,
                         todo="give it one in QuPath, and export it again")  # fmt: skip
    return classification or ""


def _features(path: str | Path) -> list[dict[str, Any]]:
    todo = "export the annotations of the slide from QuPath as GeoJSON again"
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TableError("no such file", where=path, todo=todo) from None
    except ValueError as error:
        raise TableError(f"not JSON ({error})", where=path, todo=todo) from error
    features = value.get("features", [value]) if isinstance(value, dict) else value
    if not isinstance(features, list) or not all(isinstance(one, dict) for one in features):
        raise TableError("not GeoJSON", where=path, todo=todo)
    return features


def _polygons(geometry: Any, path: str | Path, number: int) -> list[Polygon]:
    """The areas of a geometry; none of a point or a line."""
    from shapely import make_valid
    from shapely.errors import ShapelyError
    from shapely.geometry import shape

    if not isinstance(geometry, dict) or geometry.get("type") not in AREAS:
        return []
    try:
        return _parts(make_valid(shape(geometry)))
    except (AttributeError, KeyError, TypeError, ValueError, ShapelyError) as error:
        raise TableError(
            f"annotation {number} is no geometry ({error!r})", where=path, todo="export it again"
        ) from error


def _parts(geometry: BaseGeometry) -> list[Polygon]:
    from shapely import Polygon, get_parts

    if isinstance(geometry, Polygon):
        return [geometry] if geometry.area > 0 else []
    parts = get_parts(geometry)
    return [p for one in parts if one is not geometry and one.geom_type in AREAS for p in _parts(one)]


class Painter:
    """Any window of a slide's class map or tissue, painted from polygons when it is asked for.

    Parameters
    ----------
    annotations : Annotations or None
        None: a slide whose truth nobody may ask for.
    tissue : sequence of Polygon
        Level-0 pixels.
    """

    def __init__(self, annotations: Annotations | None, tissue: Sequence[Polygon]) -> None:
        self.annotations = annotations
        self._tissue = _Layer(tissue)
        drawn = annotations.painted if annotations is not None else []
        self._painted = [(value, _Layer(polygons)) for value, polygons in drawn]
        self._regions = _Layer(annotations.regions) if annotations is not None and annotations.regions else None

    def tissue(self, x: float, y: float, shape: tuple[int, int], scale: float) -> NDArray[np.bool_]:
        """Tissue of a window: corner (level-0 px), height and width (px), level-0 pixels a pixel."""
        return self._tissue.window(x, y, shape, scale)

    def classes(self, x: float, y: float, shape: tuple[int, int], scale: float) -> ClassMap:
        """Class map of a window; off the tissue it is background where nobody drew."""
        if self.annotations is None:
            raise ValueError("a slide without annotations has no class map")
        out = np.zeros(shape, np.uint8)
        if self.annotations.base:
            out[self.tissue(x, y, shape, scale)] = self.annotations.base
        for value, layer in self._painted:
            out[layer.window(x, y, shape, scale)] = value
        if self._regions is not None:
            out[~self._regions.window(x, y, shape, scale)] = IGNORE
        return out


class _Layer:
    """Polygons that are found by place."""

    def __init__(self, polygons: Sequence[Polygon]) -> None:
        from shapely import STRtree

        self.polygons = list(polygons)
        self.tree: STRtree | None = STRtree(self.polygons) if self.polygons else None

    def window(self, x: float, y: float, shape: tuple[int, int], scale: float) -> NDArray[np.bool_]:
        from shapely import affinity, box

        if self.tree is None:
            return np.zeros(shape, bool)
        near = self.tree.query(box(x, y, x + shape[1] * scale, y + shape[0] * scale))
        moved = [affinity.translate(self.polygons[i], -x, -y) for i in sorted(near.tolist())]
        return rasterise(moved, shape, scale)
