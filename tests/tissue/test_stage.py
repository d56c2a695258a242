"""A shard of slides to GeoJSON and its index."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from histostudy.errors import BadSlideError
from histostudy.study import Tissue
from histostudy.tissue.geojson import rasterise, read_geojson
from histostudy.tissue.stage import COLUMNS, compact, segment_slide, segment_slides


class Drawn:
    """The part of a slide that the stage uses: a pink square of 4.8 mm on glass, or nothing."""

    width_px0, height_px0, mpp = 20_000, 16_000, 0.5

    def __init__(self, empty: bool = False) -> None:
        self.empty = empty

    def thumbnail(self, mpp: float) -> tuple[np.ndarray, float]:
        h, w = round(self.height_px0 * self.mpp / mpp), round(self.width_px0 * self.mpp / mpp)
        rgb = np.full((h, w, 3), 243, np.uint8)
        if not self.empty:
            noise = np.random.default_rng(0).integers(-30, 30, (600, 600, 1))
            rgb[200:800, 300:900] = np.array([210, 140, 185]) + noise
        return rgb, self.mpp * self.width_px0 / w

    def __enter__(self) -> Drawn:
        return self

    def __exit__(self, *_: Any) -> None:
        pass


@pytest.mark.parametrize("method", ["otsu", "classical"])
def test_level_0_coordinates_and_area(method: str, tmp_path: Path) -> None:
    slide = Drawn()
    collection, stats = segment_slide(slide, Tissue(method=method))  # type: ignore[arg-type]
    path = tmp_path / "s.geojson"
    path.write_text(compact(collection))
    (polygon,) = read_geojson(path)
    assert polygon.bounds == pytest.approx((4800, 3200, 14400, 12800), abs=100)  # 8 um is 16 px of 0.5 um
    assert stats["sections"] == 1 and stats["pen_area_um2"] == 0
    assert stats["tissue_area_um2"] == pytest.approx(4800**2, rel=0.03)
    assert stats["tissue_area_um2"] == pytest.approx(polygon.area * 0.25, rel=0.01)
    assert rasterise([polygon], (1000, 1250), 16.0)[500, 600]


def test_no_tissue_is_a_reason() -> None:
    with pytest.raises(BadSlideError, match="no_tissue"):
        segment_slide(Drawn(empty=True), Tissue())  # type: ignore[arg-type]


def test_shard_keeps_what_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import histostudy.slides.reader as reader

    opened: list[str] = []

    def fake(row: Mapping[str, Any]) -> Drawn:
        opened.append(row["path"])
        return Drawn(empty=row["path"] == "b.svs")

    monkeypatch.setattr(reader, "open_indexed", fake)
    rows = pd.DataFrame(
        {
            "slide_id": ["a", "b", "c"],
            "status": ["ok", "ok", "failed"],
            "path": ["a.svs", "b.svs", "c.svs"],
            "mpp": [0.5, 0.5, np.nan],
            "fingerprint": ["1", "2", "3"],
        }
    )
    first = segment_slides(rows, Tissue(), tmp_path)
    assert list(first.columns) == COLUMNS
    assert first["status"].tolist() == ["ok", "failed"] and first["reason"].tolist() == ["", "no_tissue"]
    assert first["sections"].tolist() == [1, 0]
    pd.testing.assert_frame_equal(segment_slides(rows, Tissue(), tmp_path), first)
    assert opened == ["a.svs", "b.svs"]
    text = (tmp_path / "a.geojson").read_bytes()
    (tmp_path / "a.geojson").write_text("{}")
    again = segment_slides(rows, Tissue(), tmp_path)
    assert opened[2:] == ["a.svs"] and (tmp_path / "a.geojson").read_bytes() == text
    pd.testing.assert_frame_equal(again, first)
    segment_slides(rows, Tissue(min_area_um2=1.0), tmp_path)
    assert opened[3:] == ["a.svs", "b.svs"]
    none = segment_slides(rows[rows["slide_id"] == "c"], Tissue(), tmp_path)
    assert list(none.columns) == COLUMNS and not len(none)


def test_real_slide_through_our_reader(shared_data: Path) -> None:
    from histostudy.slides.reader import open_slide

    with open_slide(shared_data / "slides/her2st/HER2ST-C3.svs") as slide:
        collection, stats = segment_slide(slide, Tissue(method="classical"))
    assert stats["sections"] == 1 and stats["working_mpp"] == pytest.approx(8.0, rel=0.01)
    spots = pd.read_csv(shared_data / "her2st/spots/C3_selection.tsv", sep="\t")
    from shapely import contains_xy, unary_union
    from shapely.geometry import shape

    tissue = unary_union([shape(f["geometry"]) for f in collection["features"]])
    assert contains_xy(tissue, spots["pixel_x"], spots["pixel_y"]).mean() >= 0.95
    assert len(compact(collection)) < 200_000
