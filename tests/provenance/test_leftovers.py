"""Leftovers of killed processes are deleted, and nothing that is somebody's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from histostudy import codeversion
from histostudy.files import atomic
from histostudy.provenance import leftovers
from histostudy.provenance.leftovers import alone, begin, sweep


def test_what_a_killed_process_left_is_swept_up(tmp_path: Path) -> None:
    kept = [tmp_path / name for name in ("x.h5", ".gitignore", ".records/s.json", "a/.s-1.tmp", "a/.hidden.h5")]
    for file in kept:
        file.parent.mkdir(exist_ok=True)
        file.touch()
    with atomic(tmp_path / "a" / "s-1.v2.h5") as temporary, atomic(tmp_path / "none") as bare:
        names = temporary.name, bare.name
    for name in names:  # as after SIGKILL
        (tmp_path / "a" / name).touch()
        os.utime(tmp_path / "a" / name, (1e9, 1e9))
    fresh = tmp_path / "a" / names[0].replace("s-1", "s-2")
    fresh.touch()
    assert {path.name for path in sweep(tmp_path, before=1e9 + 5)} == set(names)
    assert fresh.exists() and all(file.exists() for file in kept)


OTHER = "from histostudy.provenance.leftovers import begin; begin(); print('here', flush=True); input()"


def test_a_second_run_in_the_folder_is_noticed_until_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(leftovers, "_HELD", [])
    begin()
    assert alone()
    command = [sys.executable, "-c", OTHER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "here\n"
        assert not alone()
        assert not alone(), "the first look must not let go of what is held"
        other.kill()  # no last words
    assert alone()


def test_where_the_disk_knows_no_locks_nobody_is_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(leftovers, "_HELD", [])
    monkeypatch.setattr("fcntl.flock", refused)
    begin()
    assert not alone()


@pytest.mark.parametrize("call", ["stat", "unlink"])
@pytest.mark.parametrize("error", [FileNotFoundError, PermissionError])
def test_what_is_gone_or_not_ours_is_no_error(
    call: str, error: type[OSError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, other = tmp_path / ".a.abcdefgh.h5", tmp_path / ".b.abcdefgh.h5"
    for file in (ours, other):
        file.touch()
        os.utime(file, (1e9, 1e9))
    real = getattr(Path, call)

    def failing(path: Path, *args: object, **kwargs: object) -> object:
        if path == other:
            raise error(2, "as the system says it", str(path))
        return real(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, call, failing)
        assert sweep(tmp_path, before=1e9 + 5) == [ours]
    assert sweep(tmp_path / "none", before=1e9 + 5) == []


def test_housekeeping_is_no_part_of_any_stage() -> None:
    from histostudy.plan import STAGES

    modules: set[str] = set()
    todo = [module for stage in STAGES.values() for module in stage]
    while todo:
        name = todo.pop()
        if name not in modules:
            modules.add(name)
            todo.extend(codeversion._parsed(name)[1])
    assert "histostudy.files" in modules
    assert not [name for name in modules if name.startswith("histostudy.provenance.leftovers")]
