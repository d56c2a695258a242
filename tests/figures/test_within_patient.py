"""Correlation within a patient beside what gene means alone reach."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import result_tables as tables

from histostudy.figures import FIGURES

draw = FIGURES["within_patient"].draw


@pytest.mark.parametrize("count", [1, 2, 6, 11])
def test_words_keep_apart(count: int) -> None:
    tables.assert_words_apart(draw(tables.within(count)))


def test_the_same_bytes_twice(tmp_path: Path) -> None:
    tables.assert_same_bytes("within_patient", tmp_path, tables.within(3))


def test_nothing_to_draw_says_so() -> None:
    tables.assert_says_empty("within_patient")


def _dashed(ax: object) -> list[float]:
    return [float(line.get_xdata()[0]) for line in ax.lines if line.get_linestyle() == "--"]  # type: ignore[attr-defined]


def test_the_line_stands_at_the_priors_raw_value() -> None:
    table = tables.within(6)
    raw, centred = draw(table).axes
    wanted = table.query("model == 'prior' and measure == 'across genes'")["mean"].iloc[0]
    assert _dashed(raw) == [wanted] and not _dashed(centred)
    assert "what gene means alone reach" in tables.words(draw(table))


def test_without_the_prior_no_line_is_claimed() -> None:
    fig = draw(tables.within(2))
    assert not _dashed(fig.axes[0]) and "gene means alone" not in tables.words(fig)


def test_marks_lie_at_the_means_and_the_prior_has_none_once_centred() -> None:
    table = tables.within(6)
    for ax, measure in zip(draw(table).axes, ("across genes", "gene-centred"), strict=True):
        part = table[(table["measure"] == measure) & np.isfinite(table["mean"])]
        dots = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "o"]
        np.testing.assert_allclose(dots, part["mean"])
        diamonds = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "D"]
        np.testing.assert_allclose(diamonds, part["permuted"])
    assert tables.words(draw(table)).count("undefined") == 1


def test_a_table_without_exchanged_patients_has_no_diamonds() -> None:
    fig = draw(tables.within(3).drop(columns="permuted"))
    assert "against other patients" not in tables.words(fig)
