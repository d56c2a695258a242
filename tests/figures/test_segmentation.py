"""Figures of masks."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parent))
import result_tables as tables

from histostudy.figures.segmentation import segmentation_forest, segmentation_overlay


def test_outlines_are_drawn_to_the_scale_of_the_image() -> None:
    fig = segmentation_overlay(
        pd.DataFrame({"x": [1]}),
        parts=[tables.segmentation_part("worst"), tables.segmentation_part("best")],
        classes=["a", "b"],
    )
    lines = [line for line in fig.axes[0].lines if len(line.get_xdata())]
    assert max(np.max(line.get_xdata()) for line in lines) == 320 / 4
    assert [ax.get_title(loc="left") or ax.get_title() for ax in fig.axes[:2]] == [
        "worst: s, Dice 0.50", "best: s, Dice 0.50",
    ]  # fmt: skip


def test_nothing_to_show_is_said() -> None:
    assert "No slide" in segmentation_overlay(pd.DataFrame(), parts=[], classes=["a"]).texts[0].get_text()


def test_a_panel_a_class() -> None:
    fig = segmentation_forest(tables.segmentation_metrics())
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["a (9 patients)", "b (9 patients)", "mean (9 patients)"]
