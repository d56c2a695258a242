"""All models over all tasks: every number is there, the reference is the zero line, what lies outside is an arrow."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import result_tables as tables

from histostudy.figures import FIGURES

draw = FIGURES["model_overview"].draw


@pytest.mark.parametrize(("count", "tasks"), [(1, 2), (5, 5), (22, 5), (3, 7)])
def test_words_keep_apart(count: int, tasks: int) -> None:
    table, ranks = tables.overview(count, tasks)
    tables.assert_words_apart(draw(table, ranks=ranks))


def test_models_stand_in_the_order_of_their_ranks_with_their_costs() -> None:
    table, ranks = tables.overview(5)
    fig = draw(table, ranks=ranks)
    assert [t.get_text() for t in fig.axes[0].get_yticklabels()] == list(ranks["model"])
    said = tables.words(fig)
    assert "abmil: 0." in said and "n = 900\n320 events" in said and "critical difference" in said
    assert all(f"{rank:.1f}" in said for rank in ranks["mean_rank"]) and "270k" in said


def test_differences_are_drawn_filled_where_sure_and_the_prior_is_an_arrow() -> None:
    table, ranks = tables.overview(5, 2)
    ax = draw(table, ranks=ranks).axes[0]
    marks = {line.get_ydata()[0]: line for line in ax.lines if line.get_marker() == "o"}
    mine = table[table["task"] == "task_0"].set_index("model")
    order = list(ranks["model"])
    for row, line in marks.items():
        one = mine.loc[order[int(row)]]
        assert line.get_xdata()[0] == pytest.approx(one["difference"])
        assert (line.get_markerfacecolor() != "white") == (one["p_adjusted"] < 0.05)
    arrows = [line.get_ydata()[0] for line in ax.lines if line.get_marker() == "<"]
    assert order.index("prior") in [int(y) for y in arrows] and order.index("abmil") not in marks


def test_the_same_bytes_twice(tmp_path: Path) -> None:
    table, ranks = tables.overview(2)
    tables.assert_same_bytes("model_overview", tmp_path, table, ranks=ranks)


def test_one_model_says_so() -> None:
    table, ranks = tables.overview(1)
    assert "one model" in draw(table.assign(difference=float("nan")), ranks=ranks).texts[0].get_text()
