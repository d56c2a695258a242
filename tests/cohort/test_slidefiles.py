"""Slides are known by their files, or by what was noted of them where results came without the slides."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from histostudy.cohort.slidefiles import glances_of
from histostudy.cohort.tables import read_slides
from histostudy.errors import TableError
from histostudy.files import fingerprint, read_json, write_json
from histostudy.hashcache import HashCache, glance
from histostudy.stages import RECORDS

NAMES = ("a", "b", "c")


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A slide table beside its slides, and what their stage noted of them."""
    monkeypatch.setenv("SLIDES", str(tmp_path))
    file = tmp_path / "slides.csv"
    file.write_text("slide_id,patient_id,path\n" + "".join(f"{n},p{n},$SLIDES/{n}.svs\n" for n in NAMES))
    for name in NAMES:
        path = tmp_path / f"{name}.svs"
        path.write_text(f"slide {name}")
        noted = {"glance": glance(path), "fingerprint": fingerprint(path), "file_name": path.name}
        write_json(tmp_path / "stage" / RECORDS / f"{name}.json", noted)
    return file


def _look(table: Path, *, check: bool = True, stage: str = "stage", hashes: HashCache | None = None) -> list[str]:
    hashes = hashes or HashCache(table.parent / "hashes.json")
    return glances_of(read_slides(table), table.parent / stage, str(table), hashes, check=check)


@pytest.mark.parametrize("gone", [["b"], list(NAMES)])
def test_what_is_not_here_is_as_it_was_noted(gone: list[str], table: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = _look(table)
    assert before == [glance(table.parent / f"{name}.svs") for name in NAMES]
    for name in gone:
        (table.parent / f"{name}.svs").unlink()
    with caplog.at_level(logging.WARNING):
        assert _look(table) == before
    assert f"{len(gone)} of 3 slide files are not here (the first: {table.parent / gone[0]}.svs)" in caplog.text
    caplog.clear()
    assert _look(table, check=False) == before
    assert not caplog.text, "jobs repeat nothing"


def test_a_slide_that_changed_is_another_whatever_was_noted(table: Path) -> None:
    before = _look(table)
    (table.parent / "b.svs").write_text("other b")
    after = _look(table)
    assert [a == b for a, b in zip(after, before, strict=True)] == [True, False, True]


def test_a_job_takes_what_was_seen_and_asks_no_disk(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = HashCache(table.parent / "hashes.json")
    before = _look(table, hashes=hashes)
    slides = read_slides(table)
    with monkeypatch.context() as patch:
        patch.setattr("os.stat", lambda path, **_: pytest.fail(f"looked at {path}"))
        assert glances_of(slides, table.parent / "stage", str(table), hashes, check=False) == before


@pytest.mark.parametrize(
    ("gone", "match"),
    [(NAMES, r"none of the slide files is there.*a\.svs"), (("c",), r"row 4 column path: no slide file .*c\.svs")],
)
def test_what_nobody_noted_must_be_here(gone: tuple[str, ...], match: str, table: Path) -> None:
    for name in gone:
        (table.parent / f"{name}.svs").unlink()
    with pytest.raises(TableError, match=match):
        _look(table, stage="none")
    record = table.parent / "stage" / RECORDS / "c.json"
    write_json(record, {"fingerprint": read_json(record)["fingerprint"]})  # as another version wrote it
    with pytest.raises(TableError, match=r"c\.svs"):
        _look(table)


def test_a_variable_is_wanted_only_where_a_slide_is(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _look(table)
    monkeypatch.delenv("SLIDES")
    assert _look(table) == before
    with pytest.raises(TableError, match=r"row 2 column path: .*variable \$SLIDES is not set; export SLIDES="):
        _look(table, stage="none")


@pytest.mark.parametrize(("cell", "match"), [("", "no path"), ("$SLIDES/b_again.svs", r"no slide file .*b_again")])
def test_another_name_is_another_slide(cell: str, match: str, table: Path) -> None:
    table.write_text(table.read_text().replace("$SLIDES/b.svs", cell))
    with pytest.raises(TableError, match=rf"slides\.csv.*row 3 column path: {match}"):
        _look(table)
