"""A file behind an index that somebody changed is noticed; one that was brought or made anew is not complained of."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from histostudy.errors import StudyError
from histostudy.files import sha256, write_json
from histostudy.provenance import behind
from histostudy.provenance.records import record_path

FOLDER = Path("results/features")
FILES = [FOLDER / f"s{i}.h5" for i in range(3)]
INDEX = FOLDER / "shard-0.parquet"


def _write(file: Path, text: str) -> None:
    """As a stage does: the file, then its slide's record."""
    file.write_text(text)
    write_json(FOLDER / ".records" / f"{file.stem}.json", {"file": file.name, "sha256": sha256(file), "text": text})


@pytest.fixture(autouse=True)
def shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    FOLDER.mkdir(parents=True)
    for file in FILES:
        _write(file, "vectors")
    (FOLDER / "notes.txt").write_text("nobody's")
    INDEX.touch()
    behind.check([FOLDER], 1)


def _later(file: Path, text: str) -> None:
    """Another content of the same size, at another time."""
    file.write_text(text)
    os.utime(file, (1e9, 1e9))


def test_a_changed_file_is_named_until_it_is_itself_again() -> None:
    _later(FILES[1], "VECTORS")
    for _ in range(2):  # a look does not make it good
        with pytest.raises(StudyError, match=r"not as its stage wrote it.*delete results/features/shard-0.parquet"):
            behind.check([FOLDER], 1)
    FILES[1].write_text("vectors")
    behind.check([FOLDER], 1)


def test_a_file_that_is_gone_is_named() -> None:
    FILES[0].unlink()
    FILES[2].unlink()
    with pytest.raises(StudyError, match="is gone.*, and 1 more"):
        behind.check([FOLDER], 1)


def test_another_time_alone_is_no_change() -> None:
    _later(FILES[0], "vectors")
    behind.check([FOLDER], 1)


def test_what_its_stage_made_again_is_good() -> None:
    _write(FILES[0], "other")
    behind.check([FOLDER], 1)
    _later(FILES[0], "OTHER")
    with pytest.raises(StudyError):
        behind.check([FOLDER], 1)


def test_what_is_to_be_made_again_is_not_complained_of() -> None:
    FILES[0].unlink()
    mark = record_path(str(INDEX), "incomplete")
    mark.parent.mkdir(parents=True)
    mark.touch()  # killed while it was being made
    behind.check([FOLDER], 1)
    FILES[1].unlink()
    mark.unlink()
    INDEX.unlink()
    behind.check([FOLDER], 1)


def test_a_file_without_a_record_is_nobodys() -> None:
    (FOLDER / "notes.txt").unlink()
    behind.check([FOLDER, Path("results/none")], 1)
    assert sorted(json.loads(behind.SEEN.read_text())[str(FOLDER)]) == [file.name for file in FILES]
