"""The checklists hold every item once and in order, and what the run fills in is what its tables say."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pandas as pd
import pytest

from histostudy.report.applies import reporting_names
from histostudy.report.context import ReportContext
from histostudy.report.page import render_report
from histostudy.report.reporting import checklists, reporting_files
from histostudy.report.standards.checklist import FOR_AUTHORS, Checklist
from histostudy.report.standards.facts import Facts

PARTS = {3: "abc", 5: "ab", 6: "abc", 8: "abc", 9: "abc", 12: "abcdefg", 18: "abcdef", 20: "abc", 23: "ab", 27: "abc"}
TRIPOD = [f"{item}{part}" for item in range(1, 28) for part in PARTS.get(item, [""])]


def _lists(context: ReportContext) -> dict[str, Checklist]:
    return {one.name: one for one in checklists(Facts(context))}


def _text(checklist: Checklist, number: str) -> str:
    return next(item.text for item in checklist.items if item.number == number)


def _without_survival(context: ReportContext) -> ReportContext:
    tasks = [task for task in context.study["tasks"] if task["kind"] != "survival"]
    return dataclasses.replace(context, study={**context.study, "tasks": tasks})


def test_every_item_of_both_standards_is_there_once_and_in_order(context: ReportContext) -> None:
    lists = _lists(context)
    assert [item.number for item in lists["TRIPOD+AI"].items] == TRIPOD
    assert len({re.sub("[a-g]$", "", number) for number in TRIPOD}) == 27
    assert [item.number for item in lists["REMARK"].items] == [str(i) for i in range(1, 21)]


def test_every_item_is_reported_or_left_to_the_authors(context: ReportContext) -> None:
    for checklist in _lists(context).values():
        for item in checklist.items:
            assert item.text and item.asks, item.number
            assert (FOR_AUTHORS in item.text) == (item.state != "run"), item.number
            assert "  " not in item.known and "nan" not in item.known.split(), item.number
        assert sum(map(checklist.count, ("run", "both", "authors"))) == len(checklist.items)


def test_sections_of_tripod_stand_where_the_statement_has_them(context: ReportContext) -> None:
    of = {item.number: item.section for item in _lists(context)["TRIPOD+AI"].items}
    wanted = {"1": "Title", "2": "Abstract", "4": "Introduction", "17": "Methods", "18f": "Open science",
              "19": "Patient and public involvement", "24": "Results", "27c": "Discussion"}  # fmt: skip
    assert {number: of[number] for number in wanted} == wanted


def test_numbers_are_those_of_the_tables(context: ReportContext) -> None:
    tripod, remark = (_lists(context)[name] for name in ("TRIPOD+AI", "REMARK"))
    assert "fluorescence: 1 patient, 1 slide" in _text(tripod, "6b")
    assert "With tiles: 57 patients, 57 slides" in _text(tripod, "20a")
    assert "os: 55 patients, 42 events" in _text(tripod, "10")  # patients of the flow, events of the metrics
    assert "training part: 42. Patients of the inner part: 6. Patients of the test part: 12." in _text(tripod, "21")
    row = context.metrics["os"].query("model == 'mean' and metric == 'c_harrell'").iloc[0]
    told = f"{row['estimate']:.3f} ({row['low']:.3f} to {row['high']:.3f}) of mean"
    assert told in _text(tripod, "23a") and "alpha 25, beta 35" in _text(tripod, "13")
    assert "os: 2 patients, no time" in _text(remark, "12")


def test_hazard_ratios_of_remark_are_those_of_the_cox_table(context: ReportContext) -> None:
    cox = pd.DataFrame({
        "model": "mean", "analysis": ["univariable", "multivariable", "multivariable"],
        "term": ["risk (per SD)", "risk (per SD)", "age (per SD)"], "hazard_ratio": [2.5, 2.25, 1.125],
        "low": [1.5, 1.25, 0.75], "high": [3.5, 3.25, 1.5], "p": [0.0001, 0.004, 0.5], "ph_p": [0.9, 0.75, 0.25],
        "n": 55, "events": 36,
    })  # fmt: skip
    remark = _lists(dataclasses.replace(context, curves={"os": {"cox": cox}}, follow_up={"os": 1234.0}))["REMARK"]
    assert "mean risk (per SD): HR 2.50 (1.50 to 3.50), p <0.001, n 55, events 36" in _text(remark, "15")
    assert "age (per SD): HR 1.12 (0.75 to 1.50), p 0.50" in _text(remark, "16")
    assert "age (per SD)" not in _text(remark, "15") and "os p 0.75" in _text(remark, "18")
    assert "os 1,234 days" in _text(remark, "6")


def test_a_study_without_survival_has_no_remark(context: ReportContext) -> None:
    without = _without_survival(context)
    assert list(_lists(without)) == ["TRIPOD+AI"]
    assert "remark.md" not in reporting_files(without) and "remark.md" in reporting_files(context)
    assert "REMARK" not in render_report(without) and "REMARK: 20 items" in render_report(context)


def test_a_study_without_prediction_has_no_checklist() -> None:
    assert reporting_names({"tasks": []}) == ["methods.md", "availability.md", "references.bib"]
    assert "tripod_ai.md" not in reporting_names({"tasks": [{"kind": "segmentation"}]})


def test_bytes_are_the_same_again(context: ReportContext) -> None:
    assert reporting_files(context) == reporting_files(context)
    assert render_report(context) == render_report(context)


def test_a_leak_is_told(context: ReportContext) -> None:
    leaky = dataclasses.replace(context, leakage={**context.leakage, "ok": False})
    tripod = _lists(leaky)["TRIPOD+AI"]
    assert "FOUND LEAKAGE" in _text(tripod, "12a") and "leakage" in _text(tripod, "26")
    assert "LEAKAGE" not in _text(_lists(context)["TRIPOD+AI"], "12a")


@pytest.mark.parametrize("name", ["tripod_ai.md", "remark.md"])
def test_a_table_of_the_markdown_has_five_cells_a_row(context: ReportContext, name: str) -> None:
    rows = [line for line in reporting_files(context)[name].splitlines() if line.startswith("| ")]
    assert len(rows) > 20
    assert all(len(re.split(r"(?<!\\)\|", row)) == 7 for row in rows)


def _changed(context: ReportContext, **keys: Any) -> ReportContext:
    """The context of the same study with some keys of its file changed."""
    return dataclasses.replace(context, study={**context.study, **keys})


def _trained(context: ReportContext, model: str, **settings: Any) -> ReportContext:
    given = context.study["models"][model]
    changed = {**given, "training": {**given["training"], **settings}}
    return _changed(context, models={**context.study["models"], model: changed})


def test_balancing_is_told_where_it_does_something_with_the_shift_after(context: ReportContext) -> None:
    def told(model: str, **settings: Any) -> str:
        return _text(_lists(_trained(context, model, **settings))["TRIPOD+AI"], "13")

    balanced = told("abmil", sampling="balanced")
    assert "subtype: balanced drawing of patients (abmil)" in balanced and "os: balanced" in balanced
    assert "probabilities of abmil, not the risks, were shifted" in balanced
    weighted = told("abmil", alpha=0.5)
    assert "os: extra weight of patients with an event (abmil)" in weighted and "shifted" in weighted
    for nothing in (told("abmil", alpha=0.5, loss="cox"), told("mean", sampling="balanced")):
        assert "No drawing or weighting" in nothing and "Used" not in nothing
    cox = told("abmil", sampling="balanced", loss="cox")
    assert "os: balanced drawing" in cox


def test_covariates_are_those_of_the_task(context: ReportContext) -> None:
    tasks = [{**t, "adjust": ["sex"] if t["name"] == "subtype" else ["age"] if t["name"] == "os" else []}
             for t in context.study["tasks"]]  # fmt: skip
    lists = _lists(_changed(context, tasks=tasks))
    for number in ("8", "17"):
        assert "age" in _text(lists["REMARK"], number) and "sex" not in _text(lists["REMARK"], number)
    assert "subtype: sex; os: age" in _text(lists["TRIPOD+AI"], "9a")
    assert "sex in subtype; age in os" in _text(lists["TRIPOD+AI"], "12c")
    none = _lists(_changed(context, tasks=[{**t, "adjust": []} for t in tasks]))["REMARK"]
    assert _text(none, "16") == "Not done: no covariates."


def test_figures_are_said_to_show_slides_where_there_are_some(context: ReportContext) -> None:
    real = _changed(context, cohort={"name": "c", "slides": "s.csv", "patients": "p.csv"})
    text = reporting_files(real)["availability.md"]
    assert "some figures show parts of slides" in text and "figures and the record" not in text
    tables = _changed(context, cohort={"name": "c", "patients": "p.csv"})
    assert "parts of slides" not in reporting_files(tables)["availability.md"]


def test_a_study_of_predictions_alone_develops_nothing(context: ReportContext) -> None:
    study = _changed(
        context, cohort={"name": "c", "patients": "p.csv"}, models={"snn": {"predictions": "snn.csv"}},
        compare={**context.study["compare"], "reference": "snn"},
    )  # fmt: skip
    lists = _lists(study)
    tripod, remark = lists["TRIPOD+AI"], lists["REMARK"]
    assert _text(tripod, "1").startswith("Evaluation of predictions made elsewhere")
    assert "Development" not in _text(tripod, "4") and "snn" in _text(tripod, "4")
    assert "Weights of every run" not in _text(tripod, "22") and "No model was trained" in _text(tripod, "22")
    assert "by rank within the test fold" in _text(tripod, "15") and "training part" not in _text(remark, "11")
    assert "predictions of snn were made elsewhere" in _text(tripod, "18f")
    assert tripod.count("authors") and next(i for i in tripod.items if i.number == "7").state == "authors"


def test_a_permuted_task_gives_no_numbers_as_if_real(context: ReportContext) -> None:
    tasks = [{**t, "permute": 1} if t["name"] == "os" else t for t in context.study["tasks"]]
    cox = pd.DataFrame({
        "model": "mean", "analysis": ["univariable", "multivariable"], "term": "risk (per SD)", "hazard_ratio": 2.5,
        "low": 1.5, "high": 3.5, "p": 0.01, "ph_p": 0.5, "n": 55, "events": 36,
    })  # fmt: skip
    lists = _lists(dataclasses.replace(_changed(context, tasks=tasks), curves={"os": {"cox": cox}}))
    for number in ("15", "16", "17", "18"):
        assert "2.50" not in _text(lists["REMARK"], number) and "p 0." not in _text(lists["REMARK"], number)
    assert "null" in _text(lists["REMARK"], "16") and "80% power" not in _text(lists["TRIPOD+AI"], "10")


def test_more_than_one_prediction_is_told(context: ReportContext) -> None:
    repeated = _changed(context, splits={**context.study["splits"], "repeats": 3})
    assert "each of 3 repeats" in _text(_lists(repeated)["TRIPOD+AI"], "12g")
    assert "after every epoch too" in _text(_lists(_trained(context, "abmil", trace=True))["TRIPOD+AI"], "12g")
    assert "once" not in _text(_lists(context)["TRIPOD+AI"], "12g")


def test_sites_are_told_as_the_audit_found_them(context: ReportContext) -> None:
    apart = [{**fold, "shared_site_patients": 0.0} for fold in context.leakage["folds"]]
    none = _lists(dataclasses.replace(context, leakage={**context.leakage, "folds": apart}))["TRIPOD+AI"]
    assert _text(none, "12d").startswith("No site is on both sides") and "in training too" not in _text(none, "26")
    published = _changed(context, splits={**context.study["splits"], "published": "folds"})
    assert "100% of the test patients" in _text(_lists(published)["TRIPOD+AI"], "26")
