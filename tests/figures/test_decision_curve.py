"""Net benefit beside treating all and none."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import result_tables as tables

from histostudy.figures import FIGURES

draw = FIGURES["decision_curve"].draw


@pytest.mark.parametrize("count", [2, 5, 11])
def test_words_keep_apart(count: int) -> None:
    tables.assert_words_apart(draw(tables.decision(count)))


def test_the_same_bytes_twice(tmp_path: Path) -> None:
    tables.assert_same_bytes("decision_curve", tmp_path, tables.decision(2))


def test_nothing_to_draw_says_so() -> None:
    tables.assert_says_empty("decision_curve")


def test_treat_all_and_none_are_there() -> None:
    table = tables.decision(2)
    lines = {line.get_label(): line for line in draw(table).axes[0].lines}
    assert {"treat all", "treat none", "clinical", "abmil"} <= set(lines)
    mine = table[(table["model"] == "abmil") & table["net_benefit"].notna()]
    np.testing.assert_allclose(lines["treat all"].get_ydata(), mine["treat_all"])
    np.testing.assert_allclose(lines["abmil"].get_ydata(), mine["net_benefit"])
    assert set(lines["treat none"].get_ydata()) == {0}


def test_the_axis_ends_near_the_share_of_positives() -> None:
    table = tables.decision(2)
    table.loc[table["model"] == "abmil", ["net_benefit", "low"]] = -40.0  # badly calibrated near a threshold of 1
    low, high = draw(table).axes[0].get_ylim()
    assert -0.2 < low < 0 and 0.32 < high < 0.5


@pytest.mark.parametrize("count", [2, 3, 11])
def test_a_panel_a_class(count: int) -> None:
    fig = draw(tables.decision(count, ("basal", "luminal A", "her2")))
    tables.assert_words_apart(fig)
    assert [ax.get_title(loc="left") for ax in fig.axes][0] == "basal (n = 77 of 240)" and len(fig.axes) == 3


def test_many_models_have_a_panel_each() -> None:
    fig = draw(tables.decision(11))
    assert len(fig.axes) == 11 and "mutant (n = 77 of 240)" in tables.words(fig)


def test_undefined_everywhere_is_empty() -> None:
    assert "No decision" in draw(tables.decision(2).assign(net_benefit=np.nan)).texts[0].get_text()
