"""Likelihood-ratio tests in both directions."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import result_tables as tables

from histostudy.figures import FIGURES
from histostudy.figures.style import GREY, OKABE_ITO

draw = FIGURES["added_value"].draw


@pytest.mark.parametrize("count", [2, 5, 11])
def test_words_keep_apart(count: int) -> None:
    tables.assert_words_apart(draw(tables.added(count)))


def test_the_same_bytes_twice(tmp_path: Path) -> None:
    tables.assert_same_bytes("added_value", tmp_path, tables.added(2))


def test_nothing_to_draw_says_so() -> None:
    tables.assert_says_empty("added_value")


def test_both_directions_with_their_numbers() -> None:
    table = tables.added(5)
    fig = draw(table)
    titles = [ax.get_title(loc="left") for ax in fig.axes]
    assert titles == ["what each model adds to clinical", "what clinical adds to each model"]
    said = tables.words(fig)
    for one in table[np.isfinite(table["chi2"])].itertuples():
        assert f"{one.c_base:.3f} \u2192 {one.c_both:.3f}" in said and f"{one.chi2:.1f} ({one.df})" in said
    assert "240 / 98" in said and "undefined" in said
    assert [t.get_text() for t in fig.axes[1].get_yticklabels()][:2] == ["abmil", "prior"]


def test_blue_is_a_p_below_a_twentieth() -> None:
    table = tables.added(2).assign(p=[0.049, 0.051])
    colours = [{line.get_color() for line in ax.lines if line.get_marker() == "o"} for ax in draw(table).axes]
    assert colours == [{OKABE_ITO[0]}, {GREY}]


def test_two_bases_name_both() -> None:
    fig = draw(tables.added(6, ("clinical", "mean")))
    tables.assert_words_apart(fig)
    assert "abmil added to mean" in tables.words(fig) and "mean added to abmil" in tables.words(fig)


def test_no_clinical_model_is_empty() -> None:
    assert "No added" in draw(tables.added(3).assign(chi2=np.nan)).texts[0].get_text()
