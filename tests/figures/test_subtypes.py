"""Agreement of called subtypes, and their survival beside that of the measured ones."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import result_tables as tables

from histostudy.figures import FIGURES
from histostudy.figures.style import with_interval

draw, survival = FIGURES["subtypes"].draw, FIGURES["subtype_survival"].draw


@pytest.mark.parametrize("count", [1, 2, 6, 11])
def test_words_keep_apart(count: int) -> None:
    tables.assert_words_apart(draw(tables.subtype_scores(count)))


@pytest.mark.parametrize("subtypes", [{"a": 100, "b": 140}, {f"cluster {k}": 20 + k for k in range(7)}])
def test_words_keep_apart_with_few_or_many_subtypes(subtypes: dict) -> None:
    fig = draw(tables.subtype_scores(3, subtypes))
    tables.assert_words_apart(fig)
    assert len(fig.axes[0].get_yticks()) == len(subtypes) and len(fig.axes[1].get_yticks()) == 2


def test_every_number_of_the_table_is_told() -> None:
    table = tables.subtype_scores(3)
    told = tables.words(draw(table)).split("\n")
    for one in table.itertuples():
        assert with_interval(one.estimate, one.low, one.high) in told
    assert "(112)" in told and "accuracy" in told


def test_marks_lie_at_the_estimates_in_the_order_of_the_models() -> None:
    table = tables.subtype_scores(3)
    left, right = draw(table).axes
    for ax, part in ((left, table[table["metric"] == "auroc"]), (right, table[table["subtype"] == "all"])):
        dots = [line for line in ax.lines if line.get_marker() == "o"]
        groups = part.groupby(["subtype", "metric"], sort=False)["estimate"].apply(list)
        np.testing.assert_allclose([d.get_xdata()[0] for d in dots], np.concatenate(groups.to_list()))
        heights = [d.get_ydata()[0] for d in dots]
        assert heights == sorted(heights) and len(set(heights)) == len(heights)


def test_the_useless_model_calls_everybody_the_commonest_subtype() -> None:
    right = draw(tables.subtype_scores(2)).axes[1]
    dotted = [line.get_xdata()[0] for line in right.lines if line.get_linestyle() == ":"]
    assert dotted == pytest.approx([112 / 240, 0.0])


def test_an_undefined_auroc_is_said() -> None:
    table = tables.subtype_scores(2)
    table.loc[0, ["estimate", "low", "high", "events"]] = [np.nan, np.nan, np.nan, 0]
    told = tables.words(draw(table))
    assert told.count("undefined") == 1
    only = table[table["model"] == "clinical"].drop(index=1)  # a subtype that no run had
    tables.assert_words_apart(draw(only))


def test_the_same_bytes_twice(tmp_path: Path) -> None:
    tables.assert_same_bytes("subtypes", tmp_path, tables.subtype_scores(2))
    tables.assert_same_bytes("subtype_survival", tmp_path, tables.subtype_km(2))


def test_nothing_to_draw_says_so() -> None:
    tables.assert_says_empty("subtypes")
    tables.assert_says_empty("subtype_survival")


@pytest.mark.parametrize("count", [2, 6])
def test_words_of_the_curves_keep_apart(count: int) -> None:
    tables.assert_words_apart(survival(tables.subtype_km(count), scores=tables.subtype_scores(count)))


def _title(fig: object, column: int) -> str:
    return fig.axes[2 * column].get_title(loc="left")  # type: ignore[attr-defined]


def test_the_model_of_the_highest_kappa_is_drawn() -> None:
    km, scores = tables.subtype_km(6), tables.subtype_scores(6)
    kappa = scores[scores["metric"] == "kappa"].set_index("model")["estimate"].astype(float)
    best = kappa.idxmax()
    assert best == f"{tables.LONG}_0"
    assert "transmil" in _title(survival(km, scores=scores), 1)
    scores.loc[scores["model"].eq("prior") & scores["metric"].eq("kappa"), "estimate"] = 1.0  # it has no curves
    assert "transmil" in _title(survival(km, scores=scores), 1)
    assert _title(survival(km), 1).startswith("called by clinical\n")
    scores["estimate"] = np.nan
    assert _title(survival(km, scores=scores), 1).startswith("called by clinical\n")


def test_each_side_has_its_own_test_and_patients() -> None:
    km = tables.subtype_km(2)
    fig = survival(km[km["model"] == "abmil"])
    for column, calls in enumerate(("measured", "predicted")):
        part = km[(km["model"] == "abmil") & (km["calls"] == calls)]
        p = part["p"].iloc[0]
        title = _title(fig, column)
        told = "p < 0.001" if p < 0.001 else f"p = {p:.2f}"
        assert f"n = 240, {int(part['events'].sum())} events; log-rank {told} (4 groups)" in title
        at_start = part[part["time_days"] == 0].set_index("stratum")["at_risk"].astype(int)
        numbers = [t.get_text() for t in fig.axes[2 * column + 1].texts]
        assert set(at_start.astype(str)) <= set(numbers) and at_start.sum() == 240
    labels = [t.get_text() for t in fig.axes[1].get_yticklabels()]
    assert labels == ["basal-like", "HER2-enriched", "luminal A", "luminal B"]


def test_a_model_that_calls_everybody_alike_has_one_side() -> None:
    fig = survival(tables.subtype_km(3).query("model == 'prior'"))
    tables.assert_words_apart(fig)
    assert "everybody is called alike" in tables.words(fig) and "called by prior" in tables.words(fig)
