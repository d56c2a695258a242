"""Predictions made elsewhere: read once, taken for the right run, refused where they are not out-of-fold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from training.trainingdata import outcome_for, study_of

from histostudy.cohort.foreign import ForeignPredictions
from histostudy.cohort.outcomes import Outcome
from histostudy.errors import TableError
from histostudy.training.guard import TestPart
from histostudy.training.stage import _foreign_run

IDS = ["p1", "p2", "p3", "p4"]
SURVIVAL = {"name": "os", "kind": "survival", "time": "t", "event": "e"}
KINDS: dict[str, dict[str, Any]] = {
    "survival": SURVIVAL,
    "classification": {"name": "os", "kind": "classification", "target": "y"},
    "regression": {"name": "os", "kind": "regression", "target": "y"},
    "expression": {"name": "os", "kind": "expression", "table": "."},
}


def truth(tmp_path: Path, kind: str = "survival") -> Outcome:
    study = study_of(KINDS[kind], {"m": {"aggregator": "mean"}}, tmp_path)
    values: dict[str, Any] = {"y": [1.0, 0, 1, 0]}
    if kind == "survival":
        values = {"time": [10.0, 20, 30, 40], "event": [True, False, True, True]}
    if kind == "classification":
        values["classes"] = ["no", "yes"]
    if kind == "expression":
        values = {"y": [[1.0, 2]] * 4, "genes": ["A", "B"]}
    return outcome_for(study, IDS, **values)


def foreign(tmp_path: Path, text: str, kind: str = "survival") -> ForeignPredictions:
    path = tmp_path / "risks.csv"
    path.write_text(text)
    return ForeignPredictions(path, truth(tmp_path, kind))


def of_run(made: ForeignPredictions, ids: list[str], repeat: int = 0, fold: int = 0) -> pd.DataFrame:
    return _foreign_run(made, repeat, fold, TestPart(made.outcome, ids)).predictions


def test_one_prediction_a_patient_serves_whichever_fold_tests_him(tmp_path: Path) -> None:
    made = foreign(tmp_path, "patient_id,risk,note\np4,4e0,x\np2,2,y\np1,-1,z\np3,3,\nq,9,\n")
    frame = of_run(made, ["p2", "p4"], fold=3)
    assert frame["patient_id"].tolist() == ["p2", "p4"] and frame["risk"].tolist() == [2, 4]
    assert list(frame.columns) == ["patient_id", "time", "event", "risk"]
    assert frame["time"].tolist() == [20, 40] and frame["event"].tolist() == [False, True]


def test_rows_of_the_run_alone_are_taken(tmp_path: Path) -> None:
    rows = [
        (task, r, f, p, 100 * r + 10 * f + i)
        for task in ("os", "pfi")
        for r in (0, 1)
        for f in (0, 1)
        for i, p in enumerate(IDS)
    ]
    text = "task,repeat,fold,patient_id,risk\n" + "".join(
        f"{t},{r},{f}.0,{p},{v if t == 'os' else -1}\n" for t, r, f, p, v in rows
    )
    made = foreign(tmp_path, text)
    assert of_run(made, ["p1", "p3"], repeat=1, fold=1)["risk"].tolist() == [110, 112]
    assert of_run(made, ["p2"], repeat=0, fold=1)["risk"].tolist() == [11]


def test_columns_of_each_kind_of_task(tmp_path: Path) -> None:
    made = foreign(tmp_path, "patient_id,prob_yes,prob_no\np1,.25,.75\n", "classification")
    assert of_run(made, ["p1"])[["truth", "prob_no", "prob_yes"]].to_numpy().tolist() == [["yes", 0.75, 0.25]]
    made = foreign(tmp_path, "patient_id,prediction\np1,7\n", "regression")
    assert of_run(made, ["p1"])["prediction"].tolist() == [7]
    made = foreign(tmp_path, "patient_id,pred_B,pred_A\np1,7,8\n", "expression")
    assert of_run(made, ["p1"])[["pred_A", "pred_B"]].to_numpy().tolist() == [[8, 7]]
    made = foreign(tmp_path, "patient_id,risk,surv_365,risk_median_train\np1,7,.5,3\n")
    assert of_run(made, ["p1"])[["risk", "surv_365", "risk_median_train"]].to_numpy().tolist() == [[7, 0.5, 3]]


@pytest.mark.parametrize(
    ("kind", "text", "match"),
    [
        ("survival", "patient_id,hazard\np1,1\n", "no column 'risk'; a survival task needs risk"),
        (
            "classification",
            "patient_id,prob_yes\np1,1\n",
            "no column 'prob_no'; a classification task needs prob_no, p",
        ),
        ("regression", "patient_id,risk\np1,1\n", "no column 'prediction'"),
        ("expression", "patient_id,pred_A\np1,1\n", "no column 'pred_B'"),
        ("survival", "patient,risk\np1,1\n", "no column 'patient_id'; did you mean 'patient'"),
        ("survival", "patient_id,task,risk\np1,pfi,1\n", "no row of task 'os'"),
        ("survival", "patient_id,fold,risk\np1,1,1\np2,one,1\n", "row 3 column fold: 'one' is not a number"),
        ("survival", "patient_id,repeat,risk\np1,,1\n", "row 2 column repeat: '' is not a number"),
    ],
)
def test_files_that_lack_something_are_one_line(tmp_path: Path, kind: str, text: str, match: str) -> None:
    with pytest.raises(TableError, match=match) as caught:
        foreign(tmp_path, text, kind)
    assert "risks.csv" in str(caught.value) and "\n" not in str(caught.value) and caught.value.todo


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("patient_id,risk\np1,1\np3,1\n", "1 of 2 patients of fold 1 are not in it, as p2"),
        ("patient_id,fold,risk\np1,1,1\np2,0,1\n", "1 of 2 patients of fold 1 are not in it, as p2"),
        ("patient_id,repeat,risk\np1,1,1\np2,1,1\n", "2 of 2 patients of fold 1 are not in it, as p1"),
        ("patient_id,risk\np1,1\np2,1\np2,2\n", "patient 'p2' is there twice; keep one row a fold"),
        ("patient_id,risk\np1,1\np2,\n", "risk of patient p2 is no number"),
        ("patient_id,risk\np1,high\np2,1\n", "risk of patient p1 is no number"),
        ("patient_id,risk\np1,inf\np2,1\n", "risk of patient p1 is no number"),
    ],
)
def test_runs_that_cannot_be_scored_are_one_line(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(TableError, match=match) as caught:
        of_run(foreign(tmp_path, text), ["p1", "p2"], fold=1)
    assert "risks.csv" in str(caught.value) and "\n" not in str(caught.value) and caught.value.todo
