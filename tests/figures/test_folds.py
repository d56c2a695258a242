"""Each fold's estimate, its mean and its size."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import result_tables as tables

from histostudy.figures import FIGURES

draw = FIGURES["folds"].draw


@pytest.mark.parametrize("count", [2, 5, 11])
def test_words_keep_apart(count: int) -> None:
    tables.assert_words_apart(draw(tables.folds(count)))


def test_the_same_bytes_twice(tmp_path: Path) -> None:
    tables.assert_same_bytes("folds", tmp_path, tables.folds(2))


def test_nothing_to_draw_says_so() -> None:
    tables.assert_says_empty("folds")


def test_every_defined_fold_has_a_dot_and_the_bar_is_the_mean() -> None:
    table = tables.folds(4)
    ax = draw(table).axes[0]
    dots = np.concatenate([c.get_offsets()[:, 0].compressed() for c in ax.collections if len(c.get_offsets())])
    np.testing.assert_allclose(np.sort(dots), np.sort(table["estimate"].dropna()))
    bars = [line.get_xdata()[0] for line in ax.lines if line.get_color() == "black"]
    np.testing.assert_allclose(bars, table.groupby("model", sort=False)["estimate"].mean())


def test_the_numbers_are_said() -> None:
    table = tables.folds(4)
    said = tables.words(draw(table))
    assert "fold 0: n = 48, 5 events" in said and "4 of 5" in said
    mine = table[table["model"] == "abmil"]["estimate"]
    assert f"{mine.mean():.3f}" in said and f"{mine.std(ddof=1):.3f}" in said
    assert "Harrell's c" in said


def test_many_folds_are_summed_up() -> None:
    fig = draw(tables.folds(5, repeats=5))
    tables.assert_words_apart(fig)
    assert "25 test folds of n = 48\N{EN DASH}49, 5\N{EN DASH}29 events each" in tables.words(fig)


def test_without_events() -> None:
    fig = draw(tables.folds(3, metric="mae").assign(events=np.nan))
    tables.assert_words_apart(fig)
    assert "fold 0: n = 48" in tables.words(fig) and "events" not in tables.words(fig)


def test_undefined_everywhere_is_empty() -> None:
    assert "No metric" in draw(tables.folds(2).assign(estimate=np.nan)).texts[0].get_text()
