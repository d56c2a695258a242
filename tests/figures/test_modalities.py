"""Who has which modality."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import result_tables as tables

from histostudy.figures import FIGURES

draw = FIGURES["modalities"].draw
MANY = [f"task_{k}_brca_overall_survival" for k in range(9)]


@pytest.mark.parametrize("tasks", [(), ("os",), ("os", "subtype", "progression_free_survival"), MANY])
def test_words_keep_apart(tasks: list[str]) -> None:
    tables.assert_words_apart(draw(tables.modalities(tasks)))


def test_one_modality() -> None:
    fig = draw(tables.modalities(("os",)).head(1))
    tables.assert_words_apart(fig)


def test_the_same_bytes_twice(tmp_path: Path) -> None:
    tables.assert_same_bytes("modalities", tmp_path, tables.modalities())


def test_nothing_to_draw_says_so() -> None:
    tables.assert_says_empty("modalities")


def test_bars_are_the_patients_and_the_rest_fills_the_cohort() -> None:
    table = tables.modalities()
    bars = draw(table).axes[0].patches
    assert [b.get_width() for b in bars[::2]] == table["patients"].tolist()
    assert [b.get_x() + b.get_width() for b in bars[1::2]] == [240] * 3
    told = tables.words(draw(table))
    assert "96 (40 %)" in told and "rna\n1,577 columns, 50 groups" in told and "48 columns, " not in told


def test_a_dot_is_dark_only_where_nobody_lacks_the_modality() -> None:
    table = tables.modalities()
    dots = draw(table).axes[1]
    open_ones = {tuple(map(int, line.get_xydata()[0])) for line in dots.lines if line.get_markerfacecolor() == "white"}
    tasks = [c for c in table.columns if c.startswith("missing_")]
    lacking = {(j, i) for j, t in enumerate(tasks) for i, k in enumerate(table[t]) if k}
    assert open_ones == lacking and len(dots.lines) == 9
    assert sorted(int(t.get_text()) for t in dots.texts) == sorted(int(k) for t in tasks for k in table[t] if k)
