"""Kaplan-Meier curves of two ways of pooling beside each other."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import result_tables as tables

from histostudy.figures import FIGURES

draw = FIGURES["km_pooled"].draw


@pytest.mark.parametrize("count", [2, 5, 11])
def test_words_keep_apart(count: int) -> None:
    tables.assert_words_apart(draw(tables.km_pooled(count)))


def test_the_same_bytes_twice(tmp_path: Path) -> None:
    tables.assert_same_bytes("km_pooled", tmp_path, tables.km_pooled(1))


def test_nothing_to_draw_says_so() -> None:
    tables.assert_says_empty("km_pooled")


def test_each_way_has_its_own_p() -> None:
    table = tables.km_pooled(2)
    fig = draw(table)
    titles = [ax.get_title(loc="left") for ax in fig.axes if "log-rank" in ax.get_title(loc="left")]
    assert len(titles) == 4
    firsts = table.drop_duplicates(["model", "pooling"])
    for title, one in zip(titles, firsts.itertuples(), strict=True):
        assert title.startswith(f"{one.model}\n{one.pooling}; n = 240, 125 events")
        assert f"HR {one.hr:.2f}" in title
    assert firsts["p"].nunique() == 4


def test_patients_at_risk_start_with_all() -> None:
    fig = draw(tables.km_pooled(1))
    assert tables.words(fig).split("\n").count("120") == 4


def test_three_ways_stand_side_by_side() -> None:
    table = tables.km_pooled(2)
    more = table[table["pooling"] == "rank within fold"].assign(pooling="training median")
    fig = draw(pd.concat([more, table], ignore_index=True))
    tables.assert_words_apart(fig)
    assert len(fig.axes) == 2 * 2 * 3


def test_one_group_only_is_said() -> None:
    table = tables.km_pooled(2)
    table = table[(table["model"] != "abmil") | (table["pooling"] == "raw risk pooled")]
    assert "one group only" in tables.words(draw(table))
