"""Ranked genes are readable for few and for many, and mark the well predicted."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from histostudy.figures import style
from histostudy.figures.genes import genes


def _table(n: int, models: int = 2) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    parts = []
    for k in range(models):
        r = np.linspace(0.8, -0.1, n) + 0.03 * rng.normal(size=n)
        part = pd.DataFrame({"model": f"model_{k}", "gene": [f"GENE{i}" for i in range(n)], "estimate": r})
        part = part.assign(low=r - 0.1, high=np.minimum(r + 0.1, 1), p=0.01, q=np.where(r > 0.3, 0.01, 0.3), n=200)
        parts.append(part.assign(well_predicted=r > 0.4, untrained_r=0.1 * rng.normal(size=n)))
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize("n", [12, 50, 150, 1500])
def test_words_keep_apart_for_few_and_many(n: int) -> None:
    from matplotlib.text import Text

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fig = genes(_table(n))
        renderer = FigureCanvasAgg(fig).get_renderer()
        fig.draw(renderer)
    assert fig.get_figwidth() <= style.PAGE_IN + 0.1 and fig.get_figheight() <= 9
    for ax in fig.axes:  # names of the rows, and the axis' ticks that are painted
        low, high = sorted(ax.get_ylim())
        ticks = [t.label1 for t in ax.yaxis.get_major_ticks() if low <= t.get_loc() <= high]
        boxes = sorted((t.get_window_extent(renderer) for t in ticks), key=lambda b: b.y0)
        assert all(b.y0 >= a.y1 - 2 for a, b in zip(boxes, boxes[1:], strict=False))
    page = fig.bbox
    legend = fig.legends[0].get_window_extent(renderer)
    for text in fig.findobj(Text):
        if text.get_text() and text in [ax.xaxis.label for ax in fig.axes]:
            assert text.get_window_extent(renderer).y0 >= legend.y1 - 1
    assert legend.y0 >= page.y0 and legend.x1 <= page.x1


def test_well_predicted_genes_are_counted_and_blue() -> None:
    table = _table(12, 1)
    fig = genes(table)
    good = int(table["well_predicted"].sum())
    assert fig.axes[0].get_title(loc="left") == f"model_0\n{good} of 12 genes well predicted"
    faces = fig.axes[0].collections[-1].get_facecolor()
    blue = np.array([0x00, 0x72, 0xB2]) / 255
    assert np.isclose(faces[:, :3], blue).all(1).sum() == good
    names = [t.get_text() for t in fig.axes[0].get_yticklabels()]
    assert names == table.sort_values("estimate", ascending=False)["gene"].tolist()


def test_a_table_without_the_new_columns_marks_q() -> None:
    table = _table(12, 1).drop(columns=["well_predicted", "untrained_r"])
    fig = genes(table)
    assert "with q < 0.05" in fig.axes[0].get_title(loc="left")
    assert [t.get_text() for t in fig.legends[0].get_texts()] == ["with q < 0.05", "not"]
    assert "No gene" in genes(pd.DataFrame()).texts[0].get_text()
    assert "No gene" in genes(table.assign(estimate=np.nan)).texts[0].get_text()


def test_the_untrained_twin_is_drawn_only_where_there_is_one() -> None:
    table = _table(1500)
    told = [t.get_text() for t in genes(table).legends[0].get_texts()]
    assert told == ["r", "well predicted", "untrained twin"]
    told = [t.get_text() for t in genes(table.assign(untrained_r=np.nan)).legends[0].get_texts()]
    assert told == ["r", "well predicted"]
