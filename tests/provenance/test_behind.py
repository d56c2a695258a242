"""A file behind an index that somebody changed is noticed; one that was brought or made anew is not complained of."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from histostudy.errors import StudyError
from histostudy.files import sha256, write_json, write_table
from histostudy.hashcache import HashCache
from histostudy.provenance import behind
from histostudy.provenance.records import record_path

FOLDER = Path("results/features")
FILES = [FOLDER / f"s{i}.h5" for i in range(3)]
INDEX = FOLDER / "shard-0.parquet"


def _index(rows: dict[Path, str], index: Path = INDEX) -> None:
    """As a stage does: a row a slide, with the checksum of what it wrote; one slide of them failed."""
    files = {file.name: hashlib.sha256(text.encode()).hexdigest() for file, text in rows.items()} | {"": ""}
    write_table(index, pd.DataFrame({"file": list(files), "sha256": list(files.values())}))


def _check(*indexes: Path) -> None:
    behind.check(indexes or [INDEX], HashCache())


@pytest.fixture(autouse=True)
def shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    FOLDER.mkdir(parents=True)
    for file in FILES:
        file.write_text("vectors")
    (FOLDER / "notes.txt").write_text("nobody's")
    _index(dict.fromkeys(FILES, "vectors"))
    _check()


def _later(file: Path, text: str) -> None:
    """Another content of the same size, at another time."""
    file.write_text(text)
    os.utime(file, (1e9, 1e9))


def test_a_changed_file_is_named_until_it_is_itself_again() -> None:
    _later(FILES[1], "VECTORS")
    for _ in range(2):  # a look does not make it good
        with pytest.raises(StudyError, match=r"not as its stage wrote it.*delete results/features/shard-0.parquet"):
            _check()
    FILES[1].write_text("vectors")
    _check()


def test_a_file_that_is_gone_is_named() -> None:
    FILES[0].unlink()
    FILES[2].unlink()
    with pytest.raises(StudyError, match="is gone.*, and 1 more"):
        _check()


def test_another_time_alone_is_no_change() -> None:
    _later(FILES[0], "vectors")
    _check()


def test_what_its_stage_made_again_is_good() -> None:
    _later(FILES[0], "other")
    _index({FILES[0]: "other", FILES[1]: "vectors", FILES[2]: "vectors"})
    _check()
    FILES[0].write_text("OTHER")
    with pytest.raises(StudyError):
        _check()


def test_what_is_to_be_made_again_is_not_complained_of() -> None:
    FILES[0].unlink()
    mark = record_path(str(INDEX), "incomplete")
    mark.parent.mkdir(parents=True)
    mark.touch()  # killed while it was being made
    _check()
    FILES[1].unlink()
    mark.unlink()
    INDEX.unlink()
    _check()


@pytest.mark.parametrize(
    "broken", [lambda: INDEX.write_text("half"), lambda: write_table(INDEX, pd.DataFrame({"other": [1]}))]
)
def test_an_index_that_cannot_be_read_is_named(broken: Callable[[], object]) -> None:
    broken()
    with pytest.raises(StudyError, match=r"shard-0.parquet: is no index of files.*delete it"):
        _check()


def test_a_file_without_a_row_is_nobodys() -> None:
    (FOLDER / "notes.txt").unlink()
    _check(INDEX, Path("results/none/shard-0.parquet"))
    assert json.loads(behind.SEEN.read_text())[str(INDEX)]["files"].keys() == {file.name for file in FILES}
    # its slide left the cohort
    _index(dict.fromkeys(FILES[:2], "vectors"))
    FILES[2].unlink()
    _check()


def test_after_a_pull_what_did_not_come_is_named_and_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    behind.SEEN.unlink()
    _later(FILES[1], "VECTORS")
    monkeypatch.setattr(HashCache, "sha256s", lambda self, paths: [pytest.fail(str(path)) for path in paths])
    _check()
    behind.SEEN.unlink()
    FILES[1].unlink()
    with pytest.raises(StudyError, match=r"s1.h5: is gone"):
        _check()


def test_a_file_that_came_later_is_as_its_index_says() -> None:
    new = FOLDER / "s3.h5"
    _index(dict.fromkeys([*FILES, new], "vectors"))
    new.write_text("VECTORS")
    with pytest.raises(StudyError, match=r"s3.h5"):
        _check()
    new.write_text("vectors")
    _check()


def test_an_index_that_says_otherwise_of_the_same_file_is_no_better() -> None:
    _index(dict.fromkeys(FILES[:2], "vectors") | {FILES[2]: "others"})
    with pytest.raises(StudyError, match=r"s2.h5"):
        _check()


def test_files_and_records_changed_together_are_not_taken() -> None:
    _later(FILES[0], "VECTORS")
    write_json(FOLDER / ".records" / "s0.json", {"file": "s0.h5", "sha256": sha256(FILES[0])})
    with pytest.raises(StudyError, match=r"s0.h5"):
        _check()


def test_what_holds_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pd, "read_parquet", lambda path, **_: pytest.fail(f"{path} is as it was"))
    _check()


def test_a_folder_below_and_what_another_version_remembered() -> None:
    behind.SEEN.write_text(json.dumps({str(FOLDER): {"s0.h5": [7, 0, 9, 0]}}))
    below = FOLDER / "thumbnails/s0.jpg"
    below.parent.mkdir()
    index = FOLDER / "shard-1.parquet"
    write_table(
        index, pd.DataFrame({"file": ["thumbnails/s0.jpg", None], "sha256": [hashlib.sha256().hexdigest(), None]})
    )
    with pytest.raises(StudyError, match=r"thumbnails/s0.jpg: is gone"):
        _check(INDEX, index)
    below.touch()
    _check(INDEX, index)
    assert json.loads(behind.SEEN.read_text()).keys() == {str(INDEX), str(index)}
