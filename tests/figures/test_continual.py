"""Figures of tasks learned in sequence."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import result_tables as tables

import histostudy.figures.continual  # noqa: F401  (registers both)
from histostudy.figures import FIGURES

TASKS = ["brca_subtype", "lung_subtype_of_two", "kidney", "colon_msi", "stomach", "brain"]


def matrix(models: int = 5, tasks: int = 4) -> pd.DataFrame:
    rng = np.random.default_rng(models)
    rows = []
    for model in tables.names(models):
        for reading in ("task", "class"):
            for t, learned in enumerate(TASKS[:tasks]):
                for j, task in enumerate(TASKS[:tasks]):
                    if reading == "class" and j > t:
                        continue
                    value = float(np.clip(0.9 - 0.1 * (t - j) + rng.normal(0, 0.05), 0, 1)) if j <= t else 0.5
                    rows.append({"model": model, "reading": reading, "learned": learned, "task": task,
                                 "estimate": value, "low": value - 0.06, "high": value + 0.06,
                                 "n": 120 + 7 * j})  # fmt: skip
    return pd.DataFrame(rows)


def course(models: int = 5, tasks: int = 4) -> pd.DataFrame:
    cells = matrix(models, tasks)
    past = cells[[TASKS.index(j) <= TASKS.index(t) for t, j in zip(cells["learned"], cells["task"], strict=True)]]
    kept = past.groupby(["model", "reading", "learned"], sort=False)
    table = kept.agg(estimate=("estimate", "mean"), low=("low", "mean"), high=("high", "mean"), n=("n", "sum"))
    table = table.reset_index()
    return table.assign(steps=[1 + TASKS.index(t) for t in table["learned"]])


@pytest.mark.parametrize(("models", "tasks"), [(1, 2), (2, 3), (5, 4), (8, 6)])
def test_words_keep_apart(models: int, tasks: int) -> None:
    tables.assert_words_apart(FIGURES["continual_matrix"].draw(matrix(models, tasks)))
    tables.assert_words_apart(FIGURES["continual_course"].draw(course(models, tasks)))


def test_the_same_bytes_twice(tmp_path: Path) -> None:
    tables.assert_same_bytes("continual_matrix", tmp_path, matrix(2, 3))
    tables.assert_same_bytes("continual_course", tmp_path, course(2, 3))


def test_nothing_to_draw_says_so() -> None:
    tables.assert_says_empty("continual_matrix")
    tables.assert_says_empty("continual_course")


def test_every_cell_says_its_value_and_interval() -> None:
    table = matrix(2, 3)
    said = tables.words(FIGURES["continual_matrix"].draw(table))
    for one in table[table["reading"] == "task"].itertuples():
        assert f"{one.estimate:.2f}" in said and f"[{one.low:.2f}, {one.high:.2f}]" in said
    assert "n = 127" in said


def test_the_course_shows_both_readings_or_the_one_there_is() -> None:
    both, one = course(3), course(3).query("reading == 'task'")
    draw = FIGURES["continual_course"].draw
    assert [ax.get_title(loc="left") for ax in draw(both).axes] == ["the task is known", "the task is not known"]
    assert len(draw(one).axes) == 1
