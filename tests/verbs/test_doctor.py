"""The doctor says what differs from the lock, and fails where a study could not run or the lock is insisted on."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path

import pytest

from histostudy.files import sha256
from histostudy.verbs import doctor

PYTHON = ".".join(platform.python_version_tuple()[:2])
EQUAL = f"numpy=={importlib.metadata.version('numpy')}\n"
WRONG = "PyYAML==0.0.1\n"
MISSING = "no-such-distribution==1.2\n"


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "envs/requirements.lock"
    path.parent.mkdir()
    path.write_text(EQUAL + WRONG + MISSING)
    (tmp_path / "pyproject.toml").write_text(f'[project]\nrequires-python = ">={PYTHON}"\n')
    monkeypatch.setattr(doctor, "LOCK", path)
    monkeypatch.setattr(doctor, "LITTLE_DISK", 0)
    monkeypatch.setattr(doctor, "MACHINE", f"{platform.system()} {platform.machine()}")
    return path


def test_what_differs_is_named_and_no_reason_to_stop(lock: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.examine(None) == 0
    said = capsys.readouterr().out
    assert f"note 1 of 3 packages are those of requirements.lock (SHA-256 {sha256(lock)[:16]})" in said
    assert "1 have another version, 1 are missing: run `make install`" in said
    assert f"note   pyyaml {importlib.metadata.version('pyyaml')}, pinned 0.0.1" in said
    assert "note   no-such-distribution is missing (1.2)" in said
    assert "numpy" not in said and "may differ in their bytes" in said


def test_strict_insists_on_the_lock(lock: Path) -> None:
    assert doctor.examine(None, strict=True) == 2
    lock.write_text(EQUAL)
    assert doctor.examine(None, strict=True) == 0


def test_equal_pins_promise_the_same_bytes(lock: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock.write_text(EQUAL)
    doctor.examine(None)
    said = capsys.readouterr().out
    assert "ok   1 of 1 packages" in said and "can be expected to have the bytes" in said and "note" not in said


def test_another_python_promises_nothing(lock: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock.write_text(EQUAL)
    (lock.parents[1] / "pyproject.toml").write_text('[project]\nrequires-python = ">=3.99"\n')
    assert doctor.examine(None) == 0
    said = capsys.readouterr().out
    assert "the lock is for Python 3.99" in said and "may differ in their bytes" in said


def test_a_missing_requirement_must_be_fixed(
    lock: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["No_Such.Distribution>=1", 'x; extra == "dev"'])
    assert doctor.examine(None) == 2
    assert "FIX    no-such-distribution is missing" in capsys.readouterr().out


def test_a_package_outside_a_checkout_has_no_lock(
    lock: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "LOCK", lock.with_name("none"))
    assert doctor.examine(None) == 0
    assert "versions were not compared" in capsys.readouterr().out


def test_a_long_list_is_cut(lock: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock.write_text("".join(f"no-such-{i}==1\n" for i in range(30)))
    doctor.examine(None)
    said = capsys.readouterr().out
    assert said.count(" is missing (") == doctor.SHOWN and "and 10 more" in said
