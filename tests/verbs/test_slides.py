"""The joined indexes hold the study's slides, each once, whatever older shards lie beside them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import yaml

from histostudy.errors import StudyError
from histostudy.files import write_table
from histostudy.layout import Layout, shard_of
from histostudy.studyfile import load_study
from histostudy.verbs.slides import join_features, join_slides

SLIDES = [f"s{i}" for i in range(12)]


def _shards(layout: Layout, slides: list[str], shards: int, says: str) -> None:
    """What the stages leave of some slides."""
    for number in range(shards):
        mine = [slide for slide in slides if shard_of(slide, shards) == number]
        table = pd.DataFrame({"slide_id": mine, "status": "ok", "reason": "", "detail": "", "identity": says})
        write_table(layout.shard(layout.slides, number), table.assign(patient_id="p" + table["slide_id"], vendor=says))
        write_table(layout.shard(layout.tissue, number), table.assign(sections=1))
        write_table(layout.shard(layout.tiles, number), table.assign(size_px0=224))
        write_table(layout.shard(layout.features, number), table.assign(file=table["slide_id"] + ".h5", sha256=says))


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{slide},p{slide},{slide}.tif\n" for slide in SLIDES)
    (tmp_path / "slides.csv").write_text("slide_id,patient_id,path\n" + rows)
    for slide in SLIDES:
        (tmp_path / f"{slide}.tif").touch()
    (tmp_path / "study.yaml").write_text(
        yaml.safe_dump({"study": "x", "cohort": {"name": "c", "slides": "slides.csv"}})
    )
    return tmp_path / "study.yaml"


def test_shards_of_another_number_and_slides_that_left_are_not_joined(study: Path) -> None:
    layout = Layout(load_study(study))
    gone = [f"gone{i}" for i in range(8)]
    _shards(layout, SLIDES + gone, 4, "old")
    _shards(layout, SLIDES + gone[:4], 2, "new")  # and shards 2 and 3 of the four still lie there
    join_slides(study, 2)
    join_features(study, 2)
    for table in (layout.slides_table, layout.features_table):
        joined = pd.read_parquet(table)
        assert sorted(joined["slide_id"]) == sorted(SLIDES)
        assert set(joined["vendor"]) == {"new"}


def test_a_shard_of_the_older_number_gives_no_slide_twice(study: Path) -> None:
    layout = Layout(load_study(study))
    _shards(layout, SLIDES, 4, "new")
    stale = pd.concat([pd.read_parquet(layout.shard(layout.slides, number)) for number in (1, 3)])
    write_table(layout.shard(layout.slides, 1), stale)  # what shard 1 was when there were two
    join_slides(study, 4)
    assert sorted(pd.read_parquet(layout.slides_table)["slide_id"]) == sorted(SLIDES)


def test_no_shard_is_one_line(study: Path) -> None:
    with pytest.raises(StudyError, match="no index of a shard"):
        join_slides(study, 2)
