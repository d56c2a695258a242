"""Figures of tasks learned in sequence."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import result_tables as tables

from histostudy.figures import FIGURES


@pytest.mark.parametrize(("models", "tasks"), [(1, 2), (2, 3), (5, 4), (8, 6)])
def test_words_keep_apart(models: int, tasks: int) -> None:
    tables.assert_words_apart(FIGURES["continual_matrix"].draw(tables.continual_matrix(models, tasks)))
    tables.assert_words_apart(FIGURES["continual_course"].draw(tables.continual_course(models, tasks)))


def test_the_same_bytes_twice(tmp_path: Path) -> None:
    tables.assert_same_bytes("continual_matrix", tmp_path, tables.continual_matrix(2, 3))
    tables.assert_same_bytes("continual_course", tmp_path, tables.continual_course(2, 3))


def test_nothing_to_draw_says_so() -> None:
    tables.assert_says_empty("continual_matrix")
    tables.assert_says_empty("continual_course")


def test_every_cell_says_its_value_and_interval() -> None:
    table = tables.continual_matrix(2, 3)
    said = tables.words(FIGURES["continual_matrix"].draw(table))
    for one in table[table["reading"] == "task"].itertuples():
        assert f"{one.estimate:.2f}" in said and f"[{one.low:.2f}, {one.high:.2f}]" in said
    assert "n = 127" in said


def test_the_course_shows_both_readings_or_the_one_there_is() -> None:
    both, one = tables.continual_course(3), tables.continual_course(3).query("reading == 'task'")
    draw = FIGURES["continual_course"].draw
    assert [ax.get_title(loc="left") for ax in draw(both).axes] == ["the task is known", "the task is not known"]
    assert len(draw(one).axes) == 1
