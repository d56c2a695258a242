"""The page of two versions: what differs, how it is said, nothing from elsewhere."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from histostudy.report.context import FigureItem
from histostudy.report.versions import CodeChange, StudyVersion, flatten, render_versions, size_text, verdict

COLUMNS = ["task", "model", "metric", "estimate", "low", "high", "n", "events"]


def _row(estimate: float, low: float, high: float) -> dict[str, float]:
    return {"estimate": estimate, "low": low, "high": high}


@pytest.mark.parametrize(
    ("one", "two", "said"),
    [
        (_row(0.6, 0.5, 0.7), _row(0.65, 0.55, 0.75), ""),
        (_row(0.6, 0.5, 0.7), _row(0.75, 0.6, 0.9), "outside"),
        (_row(0.75, 0.6, 0.9), _row(0.6, 0.5, 0.7), "outside"),
        (_row(0.6, 0.5, 0.7), _row(0.6, 0.59, 0.61), ""),
        (_row(0.6, 0.5, 0.7), _row(0.8, 0.71, 0.9), "apart"),
        (_row(0.8, 0.71, 0.9), _row(0.6, 0.5, 0.7), "apart"),
        (_row(0.6, 0.5, 0.7), _row(0.8, 0.7, 0.9), "outside"),  # they touch: not apart
        (_row(0.5, 0.5, 0.5), _row(0.5, 0.5, 0.5), ""),
        (_row(0.6, float("nan"), 0.7), _row(0.9, 0.8, 1.0), ""),
    ],
)
def test_intervals_are_apart_or_an_estimate_is_outside_or_nothing_is_said(
    one: dict[str, float], two: dict[str, float], said: str
) -> None:
    assert verdict(one, two) == said


def test_parameters_are_named_by_their_path_and_tasks_by_their_name() -> None:
    tasks = [{"name": "os", "kind": "survival", "horizons": [365]}]
    assert flatten({"a": {"b": None, "c": {}}, "tasks": tasks, "on": True, "text": "yes"}) == {
        "a.b": "null", "a.c": "{}", "tasks.os.kind": "survival", "tasks.os.horizons": "[365]", "on": "true",
        "text": "yes",
    }  # fmt: skip


def test_sizes_are_rounded_to_a_unit() -> None:
    assert [size_text(s) for s in (None, 1, 999, 1500, 87_900_667, 3 * 10**9)] == [
        "", "1 byte", "999 bytes", "1.5 kB", "87.9 MB", "3.0 GB",
    ]  # fmt: skip


def _page(**second: object) -> str:
    figure = FigureItem("os: km", "", b"<svg/>", "svg")
    one = StudyVersion(
        name="v1", commit="abc1234", parameters={"seed": 0, "gone": 1}, environment={"torch": "2.0"},
        metrics=pd.DataFrame([("os", "m<1>", "mae", 5.0, 4.0, 6.0, 30, None)], columns=COLUMNS),
        flow={"steps": [{"step": "tables", "slides": 0, "patients": 9, "excluded": []}]},
        slides={"a": "ok"}, figures={"km": figure}, pipeline={"dep": ("12" * 16 + ".dir", 1500)},
    )  # fmt: skip
    two = StudyVersion(name="v2", **second)  # type: ignore[arg-type]
    return render_versions(
        "<script>s</script>", one, two, CodeChange([("v2", "d", "A & B", "<x>")], [("src/a", 3, None)])
    )


def test_what_one_version_lacks_is_said_and_everything_is_escaped() -> None:
    html = _page(parameters={"seed": 1}, slides={"b": "ok"})
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html.split("</style>")[1]))
    assert "seed 0 1 gone 1 not there" in text
    assert "torch 2.0 not there" in text
    assert "m&lt;1&gt; Mean absolute error&nbsp;&darr; 5.000 4.000 to 6.000 not there \N{EN DASH}" in text
    assert "v1: n 30; v2: not there" in text
    assert "1 slide only in v2 b" in text
    assert "1 slide only in v1 a" in text
    assert "tables: patients 9 \N{EN DASH}" in text
    assert "tables: slides" not in text  # a study without slides
    assert "dep 1212121212121212 1.5 kB not there differs" in text
    assert "os: km v1 v2 : there is no such figure" in text
    assert "v2 d A &amp; B &lt;x&gt;" in text
    assert "is no test of a difference" in text
    assert "<script" not in html
    assert "http" not in html.replace("http-equiv", "")


def test_what_is_the_same_takes_no_room() -> None:
    html = _page(
        commit="abc1234", parameters={"seed": 0, "gone": 1}, environment={"torch": "2.0"}, slides={"a": "ok"},
        metrics=pd.DataFrame([("os", "m<1>", "mae", 5.0, 4.0, 6.0, 30, None)], columns=COLUMNS),
        figures={"km": FigureItem("os: km", "", b"<svg/>", "svg")},
    )  # fmt: skip
    assert "data:image" not in html
    for said in ("Every key of the study file is the same", "The software is the same", "1 metric is the same in both",
                 "The same 1 slide in both", "1 figure is the same in both"):  # fmt: skip
        assert said in html
