"""Classic benchmark bags: what is written, and rows that cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from histostudy.cohort.benchmarks import build_benchmark
from histostudy.errors import TableError
from histostudy.features.bags import Bags
from histostudy.features.layouts import open_precomputed


def test_bags_come_back_as_they_were(tmp_path: Path) -> None:
    rows = [(1, 7, 0.5, 2), (0, 3, 1, 1), (1, 7, -4, 8)]
    (tmp_path / "toy.csv").write_text("\n".join(",".join(map(str, row)) for row in rows))
    build_benchmark(tmp_path / "toy.csv", tmp_path / "out")
    patients = pd.read_csv(tmp_path / "out" / "patients.csv")
    assert patients.to_dict("list") == {"patient_id": ["toy-0003", "toy-0007"], "label": [0, 1]}
    slides = pd.read_csv(tmp_path / "out" / "slides.csv")
    bags = Bags.load(
        open_precomputed(tmp_path / "out" / "features"), dict(zip(slides.slide_id, slides.patient_id, strict=True))
    )
    np.testing.assert_array_equal(bags.bag("toy-0007"), [[0.5, 2], [-4, 8]])
    assert len(bags) == 2 and bags.positions == "unknown"


@pytest.mark.parametrize(("text", "words"), [
    ("", "no rows"), ("1,1,2\n1,2", "finite"), ("1,1,x", "numbers"), ("2,1,3", "not 0 or 1"),
    ("1,1,3\n0,1,3", "two labels"), ("1,1,nan", "finite"), ("1,1", "finite"),
])  # fmt: skip
def test_rows_that_cannot_be_are_one_line(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(TableError, match=words):
        build_benchmark(tmp_path / "bad.csv", tmp_path / "out")
    assert not (tmp_path / "out" / "slides.csv").exists()


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="no such file"):
        build_benchmark(tmp_path / "none.csv", tmp_path)
