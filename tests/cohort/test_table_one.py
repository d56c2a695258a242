"""Table 1 and the flow of a study."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from histostudy.cohort.flow import Flow
from histostudy.cohort.outcomes import outcome_of
from histostudy.cohort.table_one import columns_of, table_one
from histostudy.tasks import Classification, Survival


def make_patients(n: int = 40) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    text = pd.DataFrame(
        {
            "patient_id": [f"P{i:02d}" for i in range(n)],
            "age": [str(a) for a in rng.integers(40, 90, n)],
            "sex": rng.choice(["female", "male"], n),
            "site": [f"S{i % 12:02d}" for i in range(n)],
            "subtype": ["LUAD", "LUSC"] * (n // 2),
            "os_days": [str(d) for d in rng.integers(1, 4000, n)],
            "os_event": [str(e) for e in rng.integers(0, 2, n)],
        }
    ).astype("str")
    text.loc[[1, 5], "age"] = np.nan
    return text


def test_by_class() -> None:
    patients = make_patients()
    patients.loc[0, "subtype"] = np.nan
    outcomes = [
        outcome_of(Classification(name="s", kind="classification", target="subtype", adjust=["age"]), patients),
        outcome_of(Survival(name="os", kind="survival", time="os_days", event="os_event"), patients),
    ]
    assert columns_of(patients, outcomes) == ["age", "sex", "site", "subtype", "os_days", "os_event"]
    table = table_one(patients, outcomes)
    assert list(table.columns) == ["variable", "level", "missing", "overall", "LUAD", "LUSC", "no label"]
    n = table[table["variable"] == "n"].iloc[0]
    assert (n["overall"], n["LUAD"], n["LUSC"], n["no label"]) == ("40", "19", "20", "1")
    age = table[table["variable"] == "age"].iloc[0]
    values = pd.to_numeric(patients["age"]).dropna()
    low, mid, high = np.percentile(values, [25, 50, 75])
    assert age["missing"] == "2" and age["overall"] == f"{mid:.1f} [{low:.1f},{high:.1f}]"
    sex = table[table["variable"] == "sex"].set_index("level")["overall"]
    females = (patients["sex"] == "female").sum()
    assert sex["female"] == f"{females} ({100 * females / 40:.1f})"
    assert table[table["variable"] == "site"]["level"].tolist()[-1].startswith("other (") or (
        "other (5)" in table[table["variable"] == "site"]["level"].tolist()
    )
    assert set(table[table["variable"] == "os_event"]["level"]) == {"0", "1"}
    assert table.equals(table_one(patients.sample(frac=1, random_state=3), outcomes))


def test_two_classes_have_a_standardised_difference() -> None:
    patients = make_patients()
    outcome = outcome_of(Classification(name="s", kind="classification", target="subtype"), patients)
    table = table_one(patients, [outcome])
    assert list(table.columns)[-3:] == ["LUAD", "LUSC", "smd"]
    ages = pd.to_numeric(patients["age"])
    a, b = ages[patients["subtype"] == "LUAD"].dropna(), ages[patients["subtype"] == "LUSC"].dropna()
    expected = (b.mean() - a.mean()) / np.sqrt((a.var() + b.var()) / 2)
    found = float(table.loc[table["variable"] == "age", "smd"].iloc[0])
    assert abs(abs(found) - abs(expected)) < 0.01


def test_overall_and_bare() -> None:
    patients = make_patients()
    assert list(table_one(patients).columns) == ["variable", "level", "missing", "overall"]
    bare = table_one(patients[["patient_id"]])
    assert bare.to_dict("records") == [{"variable": "n", "level": "", "missing": "", "overall": "40"}]


def test_flow_through_stages_and_tasks(tmp_path: Path) -> None:
    slides = pd.DataFrame({"slide_id": ["a1", "a2", "b1", "c1"], "patient_id": ["a", "a", "b", "c"]})
    flow = Flow()
    flow.start("tables", slides)
    index = slides.assign(status=["ok", "failed", "failed", "ok"], reason=["", "no_mpp", "unreadable", ""])
    flow.index("slides", index, {"no_mpp": "scale not known"})
    patients = pd.DataFrame({"patient_id": ["a", "b", "c", "d"], "x": ["0", "1", np.nan, "1"]})
    flow.task(outcome_of(Classification(name="t", kind="classification", target="x"), patients))
    assert flow.slides == ["a1", "c1"] and flow.patients == ["a", "c"]
    flow.write(tmp_path / "flow.json")
    written = json.loads((tmp_path / "flow.json").read_text())
    assert written["steps"][1] == {
        "step": "slides", "slides": 2, "patients": 2,
        "excluded": [
            {"reason": "unreadable", "slides": 1, "patients": 1},
            {"reason": "scale not known", "slides": 1, "patients": 0},
        ],
    }  # fmt: skip
    assert written["tasks"]["t"] == {"patients": 1, "events": None, "excluded": [{"reason": "no x", "patients": 1}]}
