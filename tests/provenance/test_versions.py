"""The commit that a result names is that of the code, whatever else was committed since."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from histostudy.provenance import versions


def _git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=Somebody", "-c", "user.email=somebody@example.org")
    return subprocess.run(["git", *who, *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def test_the_commit_of_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "HOME", tmp_path)
    assert "commit" not in versions.software()  # no checkout
    (tmp_path / "src").mkdir()
    (tmp_path / "src/code.py").write_text("one = 1\n")
    (tmp_path / "dvc.lock").write_text("first\n")
    _git(tmp_path, "init", "--quiet")
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "--quiet", "-m", "code")
    first = versions.software()["commit"]
    assert first == _git(tmp_path, "rev-parse", "HEAD")[:12]
    # a version of a study is kept: no other code, no other name
    (tmp_path / "dvc.lock").write_text("second\n")
    assert versions.software()["commit"] == first
    _git(tmp_path, "commit", "--quiet", "-am", "a version")
    assert versions.software()["commit"] == first
    (tmp_path / "src/code.py").write_text("one = 2\n")
    assert versions.software()["commit"] == f"{first}-dirty"
    _git(tmp_path, "commit", "--quiet", "-am", "other code")
    assert versions.software()["commit"] == _git(tmp_path, "rev-parse", "HEAD")[:12] != first
