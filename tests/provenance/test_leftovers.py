"""Leftovers of killed processes are deleted, and nothing that is somebody's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from histostudy import codeversion
from histostudy.files import atomic
from histostudy.provenance.leftovers import alone, sweep


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


def test_a_second_run_in_the_folder_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    locks = tmp_path / ".snakemake" / "locks"  # as Snakemake lays them: a pair a run
    assert not alone()  # of runs without locks nothing is known
    for run in (0, 1):
        locks.mkdir(parents=True, exist_ok=True)
        (locks / f"{run}.input.lock").touch()
        (locks / f"{run}.output.lock").touch()
        assert alone() == (run == 0)


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
