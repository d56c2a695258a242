"""A task's metrics in two tables: main ones first, the rest folded, nothing lost."""

from __future__ import annotations

import pandas as pd

from histostudy.report.metric_tables import metric_tables

SURVIVAL = [
    "brier@1095", "ibs", "c_harrell_rank", "auroc_td@1095", "c_uno", "auroc_td@365", "calibration_slope", "ibs_skill",
    "observed_expected@365", "c_harrell",
]  # fmt: skip


def describe(model: str) -> dict[str, object]:
    return {"name": model, "control": model == "prior", "chips": []}


def rows(known: dict[str, list[str]]) -> pd.DataFrame:
    return pd.DataFrame([
        {"model": model, "metric": metric, "estimate": 0.5, "low": 0.4, "high": 0.6}
        for model, metrics in known.items() for metric in metrics
    ])  # fmt: skip


def test_survival_has_its_main_metrics_first():
    main, rest = metric_tables(rows({"prior": SURVIVAL, "a": SURVIVAL}), "survival", describe)
    assert [m["name"] for m in main["metrics"]] == [
        "C (Harrell)", "C (Uno)", "AUROC at 365 d", "AUROC at 1,095 d", "Integrated Brier", "Integrated Brier skill",
        "Calibration slope",
    ]  # fmt: skip
    assert not main["folded"]
    assert rest["folded"]
    assert len(main["metrics"]) + len(rest["metrics"]) == len(SURVIVAL)
    assert [m["name"] for m in rest["metrics"] if m["lower"]] == ["Brier score at 1,095 d"]
    assert [m["name"] for m in main["models"]] == ["prior", "a"]
    assert all(len(m["cells"]) == len(t["metrics"]) for t in (main, rest) for m in t["models"])


def test_what_no_model_has_takes_no_room():
    risk_only = ["c_harrell", "c_uno", "auroc_td@365", "c_harrell_rank"]
    main, rest = metric_tables(rows({"prior": SURVIVAL, "a": risk_only}), "survival", describe)
    assert [m["name"] for m in main["metrics"]] == ["C (Harrell)", "C (Uno)", "AUROC at 365 d"]
    assert "Integrated Brier" in [m["name"] for m in rest["metrics"]]
    dash = rest["models"][1]["cells"][[m["name"] for m in rest["metrics"]].index("Integrated Brier")]
    assert dash == {"value": "\N{EN DASH}", "span": ""}


def test_controls_alone_and_other_kinds_are_one_table():
    (only,) = metric_tables(rows({"prior": ["c_harrell", "ibs"]}), "survival", describe)
    assert [m["name"] for m in only["metrics"]] == ["C (Harrell)", "Integrated Brier"]
    (only,) = metric_tables(rows({"a": ["r2", "pearson", "mae", "skill"]}), "expression", describe)
    assert len(only["metrics"]) == 4
