"""GeoJSON as QuPath users write it, to class maps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shapely import box

from histostudy.errors import TableError
from histostudy.tasks import Segmentation
from histostudy.training.segmentation.annotations import IGNORE, Painter, read_annotations

TISSUE = [box(0, 0, 100, 80)]


def _task(**more: Any) -> Segmentation:
    classes = more.pop("classes", {"stroma": ["Stroma"], "tumour": ["Tumor", "Invasive carcinoma"]})
    return Segmentation(name="t", kind="segmentation", annotations=Path("x"), classes=classes, mpp=2.0, **more)


def _square(x0: float, y0: float, x1: float, y1: float) -> list[list[float]]:
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]


def _feature(name: str | None, *rings: list[list[float]], kind: str = "Polygon", **properties: Any) -> dict[str, Any]:
    about = {"objectType": "annotation"} | properties
    if name is not None:
        about["classification"] = {"name": name}
    coordinates: Any = [list(rings)] if kind == "MultiPolygon" else list(rings)
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": coordinates}, "properties": about}


def _write(folder: Path, *features: dict[str, Any]) -> Path:
    file = folder / "s.geojson"
    file.write_text(json.dumps({"type": "FeatureCollection", "features": list(features)}))
    return file


def _map(file: Path, task: Segmentation, scale: float = 1.0) -> np.ndarray:
    shape = (round(80 / scale), round(100 / scale))
    return Painter(read_annotations(file, task), TISSUE).classes(0, 0, shape, scale)


def test_later_classes_win_holes_stay_open_and_names_may_be_in_any_case(tmp_path: Path) -> None:
    file = _write(
        tmp_path,
        _feature("invasive CARCINOMA", _square(10, 10, 30, 30), _square(15, 15, 20, 20)),
        _feature("Stroma", _square(25, 10, 60, 30), kind="MultiPolygon"),
    )
    found = _map(file, _task())
    assert found[12, 12] == 2 and found[17, 17] == 0  # a hole is what lies beneath
    assert found[12, 27] == 2 and found[12, 40] == 1  # tumour is later in the study, wherever it stands in the file
    assert (found == 2).sum() == 400 - 25
    other = _map(file, _task(classes={"tumour": ["invasive carcinoma"], "stroma": ["stroma"]}))
    assert other[12, 27] == 2 and other[12, 12] == 1


def test_a_window_is_a_cut_of_the_whole(tmp_path: Path) -> None:
    file = _write(
        tmp_path, _feature("Tumor", [[3, 3], [90, 20], [40, 70], [3, 3]]), _feature("Stroma", _square(50, 40, 99, 79))
    )
    painter = Painter(read_annotations(file, _task()), TISSUE)
    whole = painter.classes(0, 0, (40, 50), 2.0)
    assert (painter.classes(20.0, 30.0, (10, 12), 2.0) == whole[15:25, 10:22]).all()
    beyond = painter.classes(-10.0, -4.0, (10, 12), 2.0)
    assert (beyond[2:, 5:] == whole[:8, :7]).all() and (beyond[:2] == 0).all()


def test_ignore_wins_over_all_and_regions_bound_what_is_looked_at(tmp_path: Path) -> None:
    drawn = [_feature("Ignore*", _square(10, 10, 20, 20)), _feature("Tumor", _square(5, 5, 30, 30))]
    assert (_map(_write(tmp_path, *drawn), _task())[10:20, 10:20] == IGNORE).all()
    found = _map(_write(tmp_path, *drawn, _feature("Region*", _square(0, 0, 40, 40))), _task())
    assert (found[:, 40:] == IGNORE).all() and (found[40:] == IGNORE).all() and found[6, 6] == 2 and found[35, 35] == 0


def test_what_nobody_drew_on_is_background_or_ignored_on_tissue_alone(tmp_path: Path) -> None:
    file = _write(tmp_path, _feature("Tumor", _square(5, 5, 30, 30)))
    assert set(np.unique(_map(file, _task()))) == {0, 2}
    painter = Painter(read_annotations(file, _task(unannotated="ignore")), [box(0, 0, 50, 80)])
    found = painter.classes(0, 0, (80, 100), 1.0)
    assert found[60, 40] == IGNORE and found[60, 60] == 0 and found[10, 10] == 2


def test_background_can_be_named_and_cells_points_and_derived_classes_are_understood(tmp_path: Path) -> None:
    point = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 1]}, "properties": {}}
    file = _write(
        tmp_path,
        _feature("Tumor: Positive", _square(5, 5, 30, 30)),
        _feature("Normal", _square(10, 10, 20, 20)),
        _feature("Nucleus", _square(40, 40, 42, 42), objectType="detection"),
        point,
    )
    found = _map(file, _task(classes={"tumour": ["Tumor"], "background": ["Normal"]}))
    assert found[12, 12] == 0 and found[6, 6] == 1 and found[41, 41] == 0


@pytest.mark.parametrize(
    ("features", "words"),
    [
        ([_feature("Necrosis", _square(1, 1, 5, 5))], ["annotation 1", "'Necrosis'", "`classes`", "background"]),
        ([_feature(None, _square(1, 1, 5, 5))], ["annotation 1 has no class", "QuPath"]),
    ],
)
def test_an_unknown_class_is_one_clear_error(tmp_path: Path, features: list[dict], words: list[str]) -> None:
    with pytest.raises(TableError) as caught:
        read_annotations(_write(tmp_path, *features), _task())
    assert "s.geojson" in str(caught.value) and all(word in str(caught.value) for word in words)


@pytest.mark.parametrize("text", ["no json", '"text"', '{"features": 3}'])
def test_what_is_no_geojson_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.geojson").write_text(text)
    with pytest.raises(TableError, match="GeoJSON|JSON"):
        read_annotations(tmp_path / "s.geojson", _task())


def test_classes_of_a_task_must_make_sense() -> None:
    for classes, words in (
        ({"ignore": ["x"]}, "beside"),
        ({"a": ["X"], "b": ["x"]}, "two classes"),
        ({"a": []}, "names"),
    ):
        with pytest.raises(ValueError, match=words):
            _task(classes=classes)


def test_what_other_versions_of_qupath_write(tmp_path: Path) -> None:
    derived = _feature(None, _square(10, 10, 20, 20), classification={"names": ["Tumor", "Positive"]})
    named = _feature(None, _square(30, 10, 40, 20), classification="Stroma")
    cell = _feature("Nucleus", _square(50, 10, 60, 20))
    cell["properties"] = {"object_type": "detection", "classification": {"name": "Nucleus"}}
    old = _feature("Nucleus", _square(50, 10, 60, 20)) | {"id": "PathCellObject"}
    drawn = _feature("Tumor", _square(50, 40, 60, 50)) | {"id": "PathAnnotationObject"}
    found = _map(_write(tmp_path, derived, named, cell, old, drawn), _task())
    assert found[15, 15] == 2 and found[15, 35] == 1 and found[15, 55] == 0 and found[45, 55] == 2
    for odd in (3, ["Tumor"]):
        with pytest.raises(TableError, match="annotation 1 has a class that is no name"):
            _map(_write(tmp_path, _feature(None, _square(0, 0, 5, 5), classification=odd)), _task())
