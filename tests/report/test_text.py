"""Numbers, findings and methods say what the tables and the configuration say."""

from __future__ import annotations

import pandas as pd
import pytest

from histostudy.report.findings import key_findings
from histostudy.report.forest import forest_svg
from histostudy.report.methods import methods_paragraphs
from histostudy.report.numbers import interval, listed, metric_name, metric_order, number, p_value


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.12345, "0.123"), (-0.5, "\N{MINUS SIGN}0.500"), (-0.0001, "0.000"), (None, "\N{EN DASH}"),
     (float("nan"), "\N{EN DASH}"), (1234.5, "1,234.500"), (float("inf"), "\N{INFINITY}")],
)  # fmt: skip
def test_number(value, text):
    assert number(value) == text


def test_signs_intervals_p_values_and_lists():
    assert number(0.1, 2, sign=True) == "+0.10"
    assert number(0.001, 2, sign=True) == "0.00"
    assert interval(0.1, 0.25, 2) == "0.10 to 0.25"
    assert interval(None, 0.2) == ""
    assert interval(0.5, 0.5, 2) == "0.50 to 0.50"
    assert [p_value(p) for p in (0.0002, 0.0123, 0.35, None)] == ["<0.001", "0.012", "0.35", "\N{EN DASH}"]
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"


def test_metrics_have_names_and_an_order():
    assert metric_name("auroc_td@1095") == "AUROC at 1,095 d"
    names = ["ibs", "auroc_td@1095", "auroc_td@365", "c_harrell", "unheard_of"]
    order = ["c_harrell", "auroc_td@365", "auroc_td@1095", "ibs", "unheard_of"]
    assert sorted(names, key=metric_order) == order


def test_findings_name_the_reference_the_highest_and_the_control(context):
    findings = key_findings(context.study, context.metrics, context.comparison)
    assert [f.split(":")[0] for f in findings] == ["subtype", "os", "stroma", "genes"]
    assert "the model mean reaches AUROC of 0.6" in findings[0]
    assert "highest of 3 models is abmil" in findings[0]
    assert "difference +0.10, +0.04 to +0.16, adjusted p <0.001" in findings[0]
    assert "clinical covariates alone" in findings[0]
    assert "with 42 events" in findings[1]
    assert "a mean Pearson r of" in findings[3]


def test_chance_is_called_chance(context):
    table = pd.DataFrame(
        {"model": ["mean"], "metric": ["auroc"], "estimate": [0.55], "low": [0.4], "high": [0.7], "n": [20]}
    )
    assert "not told apart from chance" in key_findings(context.study, {"subtype": table}, {})[0]


def test_methods_follow_the_configuration(context):
    text = "\n".join(methods_paragraphs(context.study, {"patients": 60, "slides": 57, "slides_all": 60, "tiles": 2000}))
    for expected in ("synthetic", "57 of 60 slides of 60 patients", "224 \N{MULTIPLICATION SIGN} 224", "1.00",
                     "2,000 tiles", "5-fold", "2,000 bootstrap", "Holm", "gated True", "seed 0",
                     "age and stage"):  # fmt: skip
        assert expected in text, expected
    study = {
        **context.study,
        "splits": {**context.study["splits"], "preserve": "site", "repeats": 3},
        "features": {"precomputed": "x", "layout": "clam"},
    }
    text = "\n".join(methods_paragraphs(study))
    for expected in ("no site on both sides", "repeated 3 times", "extracted beforehand"):
        assert expected in text
    assert "On one lattice" not in text


def test_forest_holds_every_interval():
    rows = pd.DataFrame({"model": ["a", "b<"], "estimate": [0.5, 0.9], "low": [0.4, None], "high": [0.6, None]})
    svg = forest_svg(rows, "AUROC", 0.5)
    assert svg.count("<circle") == 2
    assert svg.count('class="span"') == 1
    assert "b&lt;" in svg
    assert forest_svg(rows.assign(estimate=float("nan")), "AUROC", 0.5) == ""
    assert "nan" not in forest_svg(rows.head(1).assign(low=0.5, high=0.5), "AUROC", None)
