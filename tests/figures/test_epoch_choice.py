"""The metric after each epoch and what choosing it well or badly gives."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import result_tables as tables

from histostudy.figures import FIGURES
from histostudy.figures.style import OKABE_ITO

draw = FIGURES["epoch_choice"].draw


@pytest.mark.parametrize("count", [2, 5, 11])
def test_words_keep_apart(count: int) -> None:
    tables.assert_words_apart(draw(tables.epochs(count)[0], choice=tables.epochs(count)[1]))


def test_the_same_bytes_twice(tmp_path: Path) -> None:
    tables.assert_same_bytes("epoch_choice", tmp_path, tables.epochs(2)[0], choice=tables.epochs(2)[1])


def test_nothing_to_draw_says_so() -> None:
    tables.assert_says_empty("epoch_choice")


def test_triangles_stand_at_the_best_epoch() -> None:
    table, chosen = tables.epochs(2)
    ax = draw(table, choice=chosen).axes[0]
    marked = sorted(float(line.get_ydata()[0]) for line in ax.lines if line.get_marker() == "^")
    np.testing.assert_allclose(marked, sorted(table.groupby("fold")["estimate"].max()))


def test_the_mean_stops_where_the_first_fold_does() -> None:
    table, chosen = tables.epochs(2)
    mean = next(line for line in draw(table, choice=chosen).axes[0].lines if line.get_color() == "black")
    assert max(mean.get_xdata()) == 14 < table["epoch"].max()
    np.testing.assert_allclose(mean.get_ydata()[0], table[table["epoch"] == 1]["estimate"].mean())


def test_the_optimism_is_said() -> None:
    table, chosen = tables.epochs(2)
    fig = draw(table, choice=chosen)
    gain = chosen.set_index("choice").at["best on the reported fold", "difference_to_last"]
    assert f"optimism {gain:+.3f}" in tables.words(fig) and "n = 240, 98 events" in tables.words(fig)
    points = [line for line in fig.axes[1].lines if line.get_marker() in ("o", "s", "^")]
    assert [p.get_color() for p in points] == [OKABE_ITO[0], OKABE_ITO[2], OKABE_ITO[1]]
    np.testing.assert_allclose([p.get_ydata()[0] for p in points], chosen["estimate"])


def test_without_the_choices_there_are_the_lines_alone() -> None:
    fig = draw(tables.epochs(5)[0])
    tables.assert_words_apart(fig)
    assert len(fig.axes) == 3 and "optimism" not in tables.words(fig)
