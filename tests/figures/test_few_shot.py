"""The few-shot curve: its marks are the table's, its line of chance is that of the classes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parent))
from samples import few_shot_table

from histostudy.figures.few_shot import few_shot


def test_marks_are_the_estimates_and_chance_is_one_of_the_classes() -> None:
    table = few_shot_table()
    (ax,) = few_shot(table, classes=4).axes
    lines = {line.get_label(): line for line in ax.get_lines()}
    for model in ("shots", "other"):
        mine = table[table["model"] == model]
        np.testing.assert_allclose(lines[model].get_ydata(), mine["estimate"])
        np.testing.assert_allclose(lines[model].get_xdata(), mine["shots"], rtol=0.05)
    assert any(np.allclose(line.get_ydata(), 0.25) for line in ax.get_lines())
    assert "50 draws" in ax.get_xlabel() and "300 tiles of 20 patients" in ax.get_xlabel()


def test_no_draw_is_said() -> None:
    figure = few_shot(pd.DataFrame())
    words = [text.get_text() for one in (figure, *figure.axes) for text in one.texts]
    assert any("No few-shot curve" in text for text in words)
