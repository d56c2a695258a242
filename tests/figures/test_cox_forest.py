"""Forest of hazard ratios: both analyses, the numbers beside them, what cannot be estimated."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import result_tables as tables

from histostudy.figures import FIGURES
from histostudy.figures.cox_forest import chosen, ratio_limits

draw = FIGURES["cox_forest"].draw


@pytest.mark.parametrize("count", [2, 5, 11])
def test_words_keep_apart(count: int) -> None:
    tables.assert_words_apart(draw(tables.cox(count), reference="abmil"))


def test_the_same_bytes_twice(tmp_path: Path) -> None:
    tables.assert_same_bytes("cox_forest", tmp_path, tables.cox(2))


def test_nothing_to_draw_says_so() -> None:
    tables.assert_says_empty("cox_forest")


def test_the_reference_is_first_and_at_most_four_models_are_shown() -> None:
    titles = [ax.get_title(loc="left") for ax in draw(tables.cox(11), reference="mean").axes]
    assert titles[0] == "mean" and len(titles) == 4 and "prior" not in titles
    assert chosen(["prior", "a", "clinical", "b"], None) == ["a", "b", "prior", "clinical"]
    assert chosen(["a", "b"], "absent") == ["a", "b"]


def test_numbers_stand_beside_each_row() -> None:
    table = tables.cox(2)
    said = tables.words(draw(table, confidence=0.9))
    assert "HR (90% CI)" in said and "240 / 98" in said and "219 / 89" in said
    for one in table[np.isfinite(table["hazard_ratio"])].itertuples():
        assert f"{one.hazard_ratio:.2f} ({one.low:.2f}\N{EN DASH}{one.high:.2f})" in said
    assert "not estimable" in said and "\u2020" in said


def test_the_risk_comes_first() -> None:
    ax = draw(tables.cox(2)).axes[0]
    assert ax.get_yticklabels()[0].get_text() == "risk (per SD)" and ax.get_xscale() == "log"


def test_separation_does_not_stretch_the_axis() -> None:
    table = tables.cox(2)
    wide = table["term"].str.startswith("grade")
    table.loc[wide, ["hazard_ratio", "low", "high"]] = [3e8, 1e-4, 9e20]
    fig = draw(table)
    tables.assert_words_apart(fig)
    assert fig.axes[0].get_xlim()[1] <= 32 and "beyond 1000" in tables.words(fig)
    narrow = table[~wide].assign(low=0.95, high=1.05)
    low, high = ratio_limits(narrow)
    assert low < 0.7 and high == 1.5


def test_nothing_finite_is_empty() -> None:
    assert "No hazard" in draw(tables.cox(2).assign(hazard_ratio=np.nan)).texts[0].get_text()
