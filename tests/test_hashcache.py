from __future__ import annotations

import os
from pathlib import Path

import pytest

from histostudy import hashcache
from histostudy.files import sha256
from histostudy.hashcache import SAMPLE_BYTES, HashCache, glance


def test_a_glance_is_of_the_content_not_of_the_time_or_the_place(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for file in (one, two):
        file.write_bytes(b"slide" * SAMPLE_BYTES)
    os.utime(two, (1, 1))
    assert glance(one) == glance(two)


@pytest.mark.parametrize("at", [0, 5 * SAMPLE_BYTES, 10 * SAMPLE_BYTES - 1])
def test_a_glance_sees_the_beginning_the_middle_the_end_and_the_size(tmp_path: Path, at: int) -> None:
    file = tmp_path / "slide"
    data = bytearray(10 * SAMPLE_BYTES)
    file.write_bytes(data)
    before = glance(file)
    data[at] = 1
    file.write_bytes(data)
    assert glance(file) != before
    file.write_bytes(bytes(10 * SAMPLE_BYTES - 1))
    assert glance(file) != before


def test_a_file_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counted(path: str | Path) -> str:
        read.append(str(path))
        return sha256(path)

    monkeypatch.setattr(hashcache, "sha256", counted)
    files = [tmp_path / name for name in "ab"]
    for file in files:
        file.write_text(file.name)
    cache = HashCache(tmp_path / "hashes.json")
    assert cache.sha256s(files) == [sha256(file) for file in files]
    cache.save()
    again = HashCache(tmp_path / "hashes.json")
    assert again.sha256s(files) == [sha256(file) for file in files]
    assert len(read) == 2
    files[1].write_text("changed")
    assert again.sha256s(files)[1] == sha256(files[1])
    assert len(read) == 3


def test_what_is_gone_is_forgotten_and_a_damaged_cache_is_an_empty_one(tmp_path: Path) -> None:
    kept = tmp_path / "hashes.json"
    file, other = tmp_path / "file", tmp_path / "other"
    file.write_text("x")
    other.write_text("y")
    cache = HashCache(kept)
    cache.sha256s([file, other])
    file.unlink()
    cache.save()
    assert str(file) not in kept.read_text()
    assert str(other) in kept.read_text()
    kept.write_text("{half")
    assert HashCache(kept).sha256s([other]) == [sha256(other)]
