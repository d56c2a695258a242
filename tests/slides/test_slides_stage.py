"""Every file of the edge cases ends with the right status and reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from slides.drawn_slides import painted

from histostudy.errors import StudyError, TableError
from histostudy.hashcache import glance
from histostudy.slides.reader import open_indexed
from histostudy.slides.stage import inspect_slides
from histostudy.slides.status import REASONS, explain

BAD = {
    "TCGA-CR-7395-01A-01-TS1.svs": "no_mpp",
    "CropBreastSlide.tiff": "implausible_mpp",
    "test3-DAPI-2-387.ndpi": "fluorescence",
    "broken.svs": "unreadable",
}


def table(paths: list[Path], mpp: dict[str, float] | None = None) -> pd.DataFrame:
    rows = [{"slide_id": p.name, "patient_id": f"p{i}", "path": str(p)} for i, p in enumerate(paths)]
    frame = pd.DataFrame(rows)
    if mpp is not None:
        frame["mpp"] = [mpp.get(p.name, np.nan) for p in paths]
    return frame


def test_every_real_slide(shared_data: Path, tmp_path: Path) -> None:
    paths = sorted(p for p in (shared_data / "slides").glob("*/*") if p.is_file())
    index = inspect_slides(table(paths), tmp_path).set_index("slide_id")
    assert len(index) == len(paths)
    assert index.loc[index["status"] != "ok", "reason"].to_dict() == BAD
    assert set(index["reason"]) - {""} <= set(REASONS)
    ok = index[index["status"] == "ok"]
    assert (ok["mpp_source"] == "metadata").all() and (ok["thumbnail"] != "").all()
    assert index.loc["camelyon_multiframe_jpeg.dcm", "mpp"] == pytest.approx(28.9685)
    assert index.loc["CMU-1-small.tiff", "mpp"] == pytest.approx(3.195, abs=1e-3)
    assert index.loc["OS-1-detail.tiff", "mpp"] == pytest.approx(0.2271)
    assert index.loc["CropBreastSlide.tiff", "mpp_metadata"] == pytest.approx(264.58, abs=0.01)
    assert index.loc["TCGA-CR-7395-01A-01-TS1.svs", "width_px0"] == 4443
    assert pd.isna(index.loc["broken.svs", "width_px0"]) and index.loc["broken.svs", "detail"]
    assert ok.loc[[n for n in ok.index if n.endswith((".svs", ".tiff"))], "backend"].eq("native").all()
    for name in index.loc[index["thumbnail"] != "", "thumbnail"]:
        assert (tmp_path / name).stat().st_size > 500


def test_the_table_rescues(shared_data: Path, tmp_path: Path) -> None:
    edge = shared_data / "slides" / "edge_cases"
    paths = [edge / "TCGA-CR-7395-01A-01-TS1.svs", edge / "CropBreastSlide.tiff", edge / "CMU-1-Small-Region.svs"]
    index = inspect_slides(table(paths, {paths[0].name: 0.25, paths[1].name: 0.5}), tmp_path).set_index("slide_id")
    assert (index["status"] == "ok").all()
    assert index["mpp_source"].to_dict() == {
        paths[0].name: "table",
        paths[1].name: "table",
        paths[2].name: "metadata",
    }
    assert index.loc[paths[0].name, "mpp"] == 0.25 and index.loc[paths[2].name, "mpp"] == pytest.approx(0.499)


def test_a_rerun_keeps_what_holds(make_slide, tmp_path: Path) -> None:
    paths = [make_slide("a.tiff"), make_slide("b.tiff", painted(400, 500, seed=1)), make_slide("c.tiff", mpp=None)]
    out = tmp_path / "out"
    rows = table(paths)
    first = inspect_slides(rows, out)
    assert first["status"].tolist() == ["ok", "ok", "failed"]
    stamps = {p.name: p.stat().st_mtime_ns for p in (out / "thumbnails").iterdir()}
    (out / "thumbnails" / "b.tiff.jpg").write_bytes(b"damaged")
    rows["mpp"] = [np.nan, np.nan, 0.5]
    second = inspect_slides(rows, out)
    assert second["status"].tolist() == ["ok", "ok", "ok"]
    assert second["sha256"].tolist() == first["sha256"].tolist()
    assert (out / "thumbnails" / "a.tiff.jpg").stat().st_mtime_ns == stamps["a.tiff.jpg"]
    pd.testing.assert_frame_equal(inspect_slides(rows, out), second)


def test_what_is_known_of_a_slide_holds_without_its_file(make_slide, tmp_path: Path) -> None:
    paths = [make_slide("a.tiff"), make_slide("b.tiff", painted(400, 500, seed=1))]
    rows, out = table(paths), tmp_path / "out"
    rows["path_given"] = [f"$SLIDES/{path.name}" for path in paths]
    first = inspect_slides(rows, out)
    assert first["path"].tolist() == ["$SLIDES/a.tiff", "$SLIDES/b.tiff"]
    assert first["glance"].tolist() == [glance(path) for path in paths]
    paths[0].unlink()
    rows["patient_id"] = ["other", "other"]
    again = inspect_slides(rows, out)
    assert again["patient_id"].tolist() == ["other", "other"]
    pd.testing.assert_frame_equal(again.drop(columns="patient_id"), first.drop(columns="patient_id"))
    rows["mpp"] = [0.25, np.nan]  # now it would have to be looked at
    with pytest.raises(StudyError, match=r"a\.tiff: no such slide"):
        inspect_slides(rows, out)


def test_only_the_slide_that_was_indexed_is_opened(make_slide, tmp_path: Path) -> None:
    path = make_slide("a.tiff")
    row = inspect_slides(table([path]), tmp_path / "out").iloc[0].to_dict()
    with open_indexed(row) as slide:
        assert slide.mpp == row["mpp"]
    moved = path.rename(tmp_path / "moved.tiff")
    with open_indexed(row | {"path": moved}) as slide:
        assert slide.mpp == row["mpp"]
    with pytest.raises(StudyError, match=r"a\.tiff: no such slide"):
        open_indexed(row)
    make_slide("a.tiff", painted(400, 500, seed=1))
    with pytest.raises(StudyError, match=r"a\.tiff: not the slide that was indexed"):
        open_indexed(row)


def test_the_users_errors_come_before_any_work(make_slide, tmp_path: Path) -> None:
    path = make_slide()
    rows = table([path, tmp_path / "gone.svs"])
    with pytest.raises(TableError, match=r"slide gone\.svs: no file .*; mend the path"):
        inspect_slides(rows, tmp_path / "out")
    with pytest.raises(TableError, match=r"slide slide\.tiff: mpp 264"):
        inspect_slides(table([path], {path.name: 264.0}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_slides(tmp_path: Path) -> None:
    index = inspect_slides(pd.DataFrame(columns=["slide_id", "patient_id", "path"]), tmp_path)
    assert len(index) == 0 and "mpp" in index


def test_reasons_are_explained() -> None:
    assert "scale" in explain("no_mpp") and explain("other") == "other"
