"""AUC over time: bands, horizons, the counts under the axis."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import result_tables as tables

from histostudy.figures import FIGURES
from histostudy.figures.style import TOGETHER

draw = FIGURES["td_auc"].draw


@pytest.mark.parametrize("count", [2, 5, 11])
def test_words_keep_apart(count: int) -> None:
    tables.assert_words_apart(draw(tables.td_auc(count)))


def test_the_same_bytes_twice(tmp_path: Path) -> None:
    tables.assert_same_bytes("td_auc", tmp_path, tables.td_auc(2))


def test_nothing_to_draw_says_so() -> None:
    tables.assert_says_empty("td_auc")


def test_all_undefined_is_empty() -> None:
    table = tables.td_auc(2).assign(estimate=np.nan)
    assert "No AUC" in draw(table).texts[0].get_text()


def test_the_line_is_the_table() -> None:
    table = tables.td_auc(2)
    fig = draw(table)
    mine = table[(table["model"] == "abmil") & table["estimate"].notna()]
    line = next(line for line in fig.axes[0].lines if line.get_label() == "abmil")
    np.testing.assert_allclose(line.get_xdata(), mine["days"] / 365.25)
    np.testing.assert_allclose(line.get_ydata(), mine["estimate"])
    assert len(fig.axes[0].collections) == 2  # a band each


def test_many_models_have_a_panel_each() -> None:
    assert len(draw(tables.td_auc(TOGETHER)).axes) == 1
    assert len(draw(tables.td_auc(11)).axes) == 11


def test_horizons_are_marked_with_the_events_by_then() -> None:
    table = tables.td_auc(2)
    labels = [t.get_text() for t in draw(table, horizons=[1095, 365, 9999]).axes[0].get_xticklabels()]
    assert [label.split("\n")[0] for label in labels] == ["0", "1", "3"]
    before = table[(table["model"] == "abmil") & (table["days"] <= 1095) & table["estimate"].notna()]
    assert labels[2].split("\n")[1] == f"({int(before['events'].iloc[-1])})"
    assert "n = 240 patients" in tables.words(draw(table))
