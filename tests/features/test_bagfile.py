"""Bags on disk: the same bags come back, nothing is believed, nothing is written to."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histostudy.errors import FeatureError
from histostudy.features import bagfile
from histostudy.features.bagfile import FILES, open_bags, unnamed_file, write_bags
from histostudy.features.bags import Bags
from histostudy.features.store import write_features

SOURCES = {"s1": {"sha256": "ab", "mpp": 0.25}, "s2": {"sha256": "cd", "mpp": None}}


def some(sizes: tuple[int, ...] = (3, 0, 5), seed: int = 0, half: bool = False) -> Bags:
    rng = np.random.default_rng(seed)
    total = sum(sizes)
    features = rng.normal(size=(total, 4)).astype(np.float16 if half else np.float32).astype(np.float32)
    slides = [f"s{i}" for i in range(len(sizes))]
    return Bags(
        features, np.cumsum([0, *sizes]), [f"p{i}" for i in range(len(sizes))], rng.integers(0, 99, (total, 2)),
        np.repeat(np.arange(len(sizes), dtype=np.int32), sizes), slides, {"encoder": "uni"}, "px0",
        dict.fromkeys(slides, 224.0) | {"s0": None},
    )  # fmt: skip


@given(st.lists(st.integers(0, 7), min_size=1, max_size=5), st.booleans())
def test_the_same_bags_come_back(tmp_path_factory: pytest.TempPathFactory, sizes: list[int], half: bool) -> None:
    folder = tmp_path_factory.mktemp("bags")
    bags = some(tuple(sizes), half=half)
    digest = write_bags(bags, folder, SOURCES)
    read = open_bags(folder, SOURCES)
    assert read.digest == digest and len(digest) == 64
    for name in ("offsets", "coords", "slide_index"):
        np.testing.assert_array_equal(getattr(read, name), getattr(bags, name))
        assert getattr(read, name).dtype == getattr(bags, name).dtype
    for name in ("patient_ids", "slide_ids", "identity", "positions", "tile_px0", "dim"):
        assert getattr(read, name) == getattr(bags, name)
    for patient in bags.patient_ids:
        assert read.bag(patient).dtype == np.float32
        np.testing.assert_array_equal(read.bag(patient), bags.bag(patient))
    assert (read.features.dtype == np.float16) == (half or not sum(sizes))
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)


def test_halves_are_stored_only_where_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bagfile, "BLOCK_BYTES", 40)  # several blocks
    for spoil in (1e-9, 70_000.0, 1 / 3):
        bags = some((9,), half=True)
        bags.features[7, 2] = spoil
        write_bags(bags, tmp_path)
        read = open_bags(tmp_path)
        assert read.features.dtype == np.float32
        np.testing.assert_array_equal(read.features, bags.features)


def test_the_digest_is_of_what_the_bags_are(tmp_path: Path) -> None:
    first = write_bags(some(), tmp_path / "a", SOURCES)
    assert write_bags(some(), tmp_path / "b") == first
    changed = [some(seed=1), some(), some(), some()]
    changed[1].coords[0] += 1
    changed[2].patient_ids[0] = "q"
    changed[3].offsets[1] = 2
    assert len({first, *(write_bags(bags, tmp_path / "c") for bags in changed)}) == 5


def test_nothing_writes_to_the_pages_and_a_replaced_file_leaves_the_mapped_one(tmp_path: Path) -> None:
    write_bags(some(), tmp_path)
    read = open_bags(tmp_path)
    with pytest.raises(ValueError, match="read-only"):
        read.features[0, 0] = 1
    before = np.array(read.features)
    write_bags(some(seed=3), tmp_path)
    np.testing.assert_array_equal(read.features, before)
    assert open_bags(tmp_path).digest != read.digest


@pytest.mark.parametrize("name", [name for name in FILES if name != "bags.json"])
@pytest.mark.parametrize("harm", ["gone", "cut", "other numbers"])
def test_a_file_that_is_not_as_written_is_refused(tmp_path: Path, name: str, harm: str) -> None:
    write_bags(some(), tmp_path)
    path = tmp_path / name
    content = bytearray(path.read_bytes())
    path.unlink()
    if harm == "cut":
        path.write_bytes(content[:-1])
    elif harm == "other numbers":
        content[-1] ^= 1
        path.write_bytes(content)
    with pytest.raises(FeatureError, match=rf"{name}.*is gone, or not as it was written; make them again"):
        open_bags(tmp_path)


def test_records_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(FeatureError, match="no bags have been made"):
        open_bags(tmp_path)
    write_bags(some(), tmp_path, SOURCES)
    with pytest.raises(FeatureError, match=r"made from other features \(slide s2\)"):
        open_bags(tmp_path, SOURCES | {"s2": {"sha256": "ce", "mpp": None}})
    with pytest.raises(FeatureError, match=r"made from other features \(slide s3\)"):
        open_bags(tmp_path, SOURCES | {"s3": {"sha256": "ce", "mpp": None}})
    record = tmp_path / "bags.json"
    whole = json.loads(record.read_text())
    record.write_text(json.dumps(whole | {"patient_ids": ["p1", "p0", "p2"]}))
    with pytest.raises(FeatureError, match="record of the bags is not as it was written"):
        open_bags(tmp_path)
    for text in ("{", "[]", json.dumps({"format": 1})):
        record.write_text(text)
        with pytest.raises(FeatureError, match="is no record of bags"):
            open_bags(tmp_path)


def test_a_write_that_fails_leaves_no_bags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bags(some(), tmp_path)

    def full(path: Path) -> str:
        raise OSError("no space left")

    monkeypatch.setattr(bagfile, "sha256", full)
    with pytest.raises(OSError, match="no space"):
        write_bags(some(seed=1), tmp_path)
    with pytest.raises(FeatureError, match="no bags have been made"):
        open_bags(tmp_path)


def test_bags_are_read_into_a_file_without_a_name(tmp_path: Path) -> None:
    features = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    paths = {}
    for slide, rows in (("s1", slice(0, 4)), ("s2", slice(4, 6))):
        paths[slide] = tmp_path / f"{slide}.h5"
        write_features(paths[slide], features[rows], np.zeros((len(features[rows]), 2)), {"encoder": "uni"})
    folder = tmp_path / "scratch"
    bags = Bags.load(paths, {"s1": "a", "s2": "b"}, allocate=unnamed_file(folder))
    assert isinstance(bags.features, np.memmap) and list(folder.iterdir()) == []
    np.testing.assert_array_equal(bags.features, features)
