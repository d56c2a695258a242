"""Heat map of models tried on other tasks' patients."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import result_tables as tables

from histostudy.figures import FIGURES

draw = FIGURES["transfer_matrix"].draw


@pytest.mark.parametrize("count", [2, 5, 11])
def test_words_keep_apart(count: int) -> None:
    tables.assert_words_apart(draw(tables.transfer(count)))


def test_the_same_bytes_twice(tmp_path: Path) -> None:
    tables.assert_same_bytes("transfer_matrix", tmp_path, tables.transfer(2))


def test_nothing_to_draw_says_so() -> None:
    tables.assert_says_empty("transfer_matrix")


def test_every_pair_says_its_value_and_interval() -> None:
    table = tables.transfer(5)
    said = tables.words(draw(table))
    for one in table[np.isfinite(table["estimate"])].itertuples():
        assert f"{one.estimate:.2f}" in said and f"[{one.low:.2f}, {one.high:.2f}]" in said
    assert "n = 180, 40 events" in said


def test_white_is_a_half_and_the_diagonal_is_framed() -> None:
    table = tables.transfer(5).sample(frac=1, random_state=0)
    ax = draw(table).axes[0]
    low, high = ax.images[0].get_clim()
    assert low + high == pytest.approx(1)
    framed = {(round(p.get_x() + 0.46), round(p.get_y() + 0.45)) for p in ax.patches if not p.get_fill()}
    assert framed == {(k, k) for k in range(5)}
    below = [t.get_text().split("\n")[0][:8] for t in ax.get_xticklabels()]
    assert below == [t.get_text()[:8] for t in ax.get_yticklabels()]


def test_the_average_of_the_others_is_the_last_row() -> None:
    table = tables.transfer(3)
    mean = table[table["source"] == "os"].assign(source="uniform average")
    fig = draw(pd.concat([mean, table], ignore_index=True))
    tables.assert_words_apart(fig)
    rows = [t.get_text() for t in fig.axes[0].get_yticklabels()]
    assert rows == ["os", "dss", "pfi", "uniform average"]
    assert len([p for p in fig.axes[0].patches if not p.get_fill()]) == 3


def test_what_is_not_defined_is_hatched() -> None:
    ax = draw(tables.transfer(3)).axes[0]
    hatched = [p for p in ax.patches if p.get_hatch()]
    assert len(hatched) == 1 and hatched[0].get_xy() == (0.5, -0.5)


def test_no_value_is_empty() -> None:
    assert "No transfer" in draw(tables.transfer(2).assign(estimate=np.nan)).texts[0].get_text()
