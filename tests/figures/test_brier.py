"""Brier score over time beside the Kaplan-Meier reference."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import result_tables as tables

from histostudy.figures import FIGURES

draw = FIGURES["brier"].draw


@pytest.mark.parametrize("count", [2, 5, 11])
def test_words_keep_apart(count: int) -> None:
    tables.assert_words_apart(draw(tables.brier_curve(count)))


def test_the_same_bytes_twice(tmp_path: Path) -> None:
    tables.assert_same_bytes("brier", tmp_path, tables.brier_curve(2))


def test_nothing_to_draw_says_so() -> None:
    tables.assert_says_empty("brier")


def test_the_reference_is_drawn_once_and_prior_not_again() -> None:
    table = tables.brier_curve(3)
    assert "prior" in set(table["model"])
    lines = {line.get_label(): line for line in draw(table).axes[0].lines}
    assert "prior" not in lines
    reference = table[table["model"] == "abmil"]
    np.testing.assert_allclose(lines["Kaplan-Meier of the training part"].get_ydata(), reference["reference"])


def test_prior_alone_is_drawn() -> None:
    table = tables.brier_curve(3)
    labels = [line.get_label() for line in draw(table[table["model"] == "prior"]).axes[0].lines]
    assert "prior" in labels


def test_models_without_probabilities_are_left_out() -> None:
    said = tables.words(draw(tables.brier_curve(5)))
    assert "mean" not in said.split("\n") and "abmil" in said
    assert "No Brier" in draw(tables.brier_curve(2).assign(estimate=np.nan)).texts[0].get_text()


def test_a_worse_model_lies_inside_the_axes() -> None:
    table = tables.brier_curve(11)
    assert draw(table).axes[0].get_ylim()[1] > table["estimate"].max()
