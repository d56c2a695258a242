"""Outcomes of the four kinds of task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import TypeAdapter

from histostudy.cohort.columns import Columns
from histostudy.cohort.outcomes import Outcome, outcome_of
from histostudy.cohort.tables import read_patients
from histostudy.errors import TableError
from histostudy.tasks import Task

TASK: TypeAdapter[Any] = TypeAdapter(Task)


def outcome(tmp_path: Path, text: str, **task: Any) -> Outcome:
    path = tmp_path / "patients.csv"
    path.write_text(text, encoding="utf-8")
    return outcome_of(TASK.validate_python({"name": "t", **task}), read_patients(path), path)


def test_classification(tmp_path: Path) -> None:
    text = "patient_id,grade,age,sex\nc,low,50,f\na,high,,m\nb,NA,60,\nd,high,70,m\n"
    made = outcome(tmp_path, text, kind="classification", target="grade", adjust=["age", "sex"])
    assert made.patient_ids.tolist() == ["a", "c", "d"] and made.classes == ["high", "low"]
    assert made.y.tolist() == [0, 1, 0] and made.excluded == {"b": "no grade"}
    assert made.adjust["age"].tolist()[1:] == [50, 70] and np.isnan(made.adjust["age"].iloc[0])
    assert made.adjust.index.tolist() == ["a", "c", "d"] and made.adjust["sex"].tolist() == ["m", "f", "m"]
    assert made.rows(["d", "a"]).tolist() == [2, 0]
    with pytest.raises(KeyError):
        made.rows(["b"])
    flipped = outcome(tmp_path, text, kind="classification", target="grade", positive="high")
    assert flipped.classes == ["low", "high"] and flipped.y.tolist() == [1, 0, 1]


def test_whole_numbers_are_one_class_however_written(tmp_path: Path) -> None:
    made = outcome(tmp_path, "patient_id,x\na,1\nb,1.0\nc,0\n", kind="classification", target="x")
    assert made.classes == ["0", "1"] and made.y.tolist() == [1, 1, 0]


def test_columns_that_are_numbers_already() -> None:
    table = pd.DataFrame({"patient_id": ["b", "a", "c"], "x": [1, 0, 1], "v": [0.5, np.nan, 2.0]})
    made = outcome_of(TASK.validate_python({"name": "t", "kind": "classification", "target": "x"}), table)
    assert made.classes == ["0", "1"] and made.patient_ids.tolist() == ["a", "b", "c"]
    made = outcome_of(TASK.validate_python({"name": "t", "kind": "regression", "target": "v"}), table)
    assert made.y.tolist() == [0.5, 2.0] and made.excluded == {"a": "no v"}


def test_survival(tmp_path: Path) -> None:
    text = "patient_id,t,e\na,400,1\nb,0,0\nc,0,1\nd,,1\ne,10,\nf,12.5,0:LIVING\ng,9,true\n"
    made = outcome(tmp_path, text, kind="survival", time="t", event="e", horizons=[365])
    assert made.patient_ids.tolist() == ["a", "c", "f", "g"]
    assert made.time is not None and made.event is not None
    assert made.time.tolist() == [400, 0, 12.5, 9] and made.event.tolist() == [True, True, False, True]
    assert made.excluded == {"b": "no follow-up (censored on day 0)", "d": "no t", "e": "no e"}


def test_regression_and_expression(tmp_path: Path) -> None:
    made = outcome(tmp_path, "patient_id,v\na,1\nb,-2.5\nc,\n", kind="regression", target="v")
    assert made.y.tolist() == [1, -2.5]
    genes = tmp_path / "genes.csv"
    genes.write_text("patient_id,G1,G2,flat,G3\nb,3,7,1,1\na,0,1,1,\nz,1,1,1,1\nd,1,3,1,2\n")
    text = "patient_id,v\na,1\nb,2\nc,3\nd,4\n"
    made = outcome(tmp_path, text, kind="expression", table=genes, genes=["G2", "flat", "G1"])
    assert made.genes == ["G2", "G1"] and made.patient_ids.tolist() == ["a", "b", "d"]
    np.testing.assert_allclose(made.y, [[1, 0], [3, 2], [2, 1]])
    assert made.excluded == {"c": "not in the expression table"}
    made = outcome(tmp_path, text, kind="expression", table=genes, log=False)
    assert made.patient_ids.tolist() == ["b", "d"] and made.genes == ["G1", "G2", "G3"]
    assert made.excluded == {"a": "a gene is missing", "c": "not in the expression table"}


@pytest.mark.parametrize(
    ("text", "task", "match"),
    [
        ("c\nx\nx\n", {"kind": "classification", "target": "c"}, "column c: all 2 patients are 'x', the only class"),
        ("c\nx\ny\n", {"kind": "classification", "target": "cc"}, "no column 'cc'; did you mean 'c'"),
        ("c\nNA\n\n", {"kind": "classification", "target": "c"}, "no patient of this cohort has the outcome"),
        ("c\nx\ny\n", {"kind": "classification", "target": "c", "positive": "z"}, "its classes are x, y"),
        ("c\nx\ny\nz\n", {"kind": "classification", "target": "c", "positive": "z"}, "two classes"),
        ("t,e\n9,1\nlong,0\n", {"kind": "survival", "time": "t", "event": "e"}, "row 3 column t: 'long' is not a time"),
        ("t,e\n9,1\n-1,0\n", {"kind": "survival", "time": "t", "event": "e"}, "row 3 column t: a time of -1 days"),
        ("t,e\n9,1\n5,2\n", {"kind": "survival", "time": "t", "event": "e"}, "row 3 column e: '2' is no event"),
        ("t,e\n999,0\n5,0\n", {"kind": "survival", "time": "t", "event": "e"}, "none of 2 patients has an event"),
        ("t,e\n36,0\n5,1\n", {"kind": "survival", "time": "t", "event": "e"}, "are these months or years"),
        ("v\n1\nx\n", {"kind": "regression", "target": "v"}, "row 3 column v: 'x' is not a number"),
        ("v\n1\n1\n", {"kind": "regression", "target": "v"}, "every patient has 1"),
        (
            "c,a\nx,\ny,\n",
            {"kind": "classification", "target": "c", "adjust": ["a"]},
            "column a: every cell is missing",
        ),
    ],
)
def test_bad_outcomes(tmp_path: Path, text: str, task: dict[str, Any], match: str) -> None:
    header, *rows = text.rstrip("\n").split("\n")
    text = f"patient_id,{header}\n" + "".join(f"p{i},{row}\n" for i, row in enumerate(rows))
    with pytest.raises(TableError, match=match) as caught:
        outcome(tmp_path, text, **task)
    assert "patients.csv" in str(caught.value) and caught.value.todo


@pytest.mark.parametrize(
    ("genes", "task", "match"),
    [
        ("patient_id,G\na,-1\n", {}, "row 2 column G: expression of -1 cannot be logged"),
        ("patient_id,G\na,1\na,2\n", {}, "row 3 column patient_id: 'a' is in row 2 too"),
        ("patient_id,G\na,x\n", {}, "row 2 column G: 'x' is not a number"),
        ("patient_id,G\nq,1\n", {}, "no patient of this cohort"),
        ("patient_id,ESR1\na,1\n", {"genes": ["ESR2"]}, "did you mean 'ESR1'"),
        ("patient_id,G\na,1\nb,1\n", {}, "every gene is constant"),
    ],
)
def test_bad_expression(tmp_path: Path, genes: str, task: dict[str, Any], match: str) -> None:
    table = tmp_path / "expression.csv"
    table.write_text(genes)
    with pytest.raises(TableError, match=match):
        outcome(tmp_path, "patient_id\na\nb\n", kind="expression", table=table, **task)


WHERE = "patient_id,cancer,stage,v\na,BLCA,1,1\nb,BRCA,2,2\nc,BLCA,,3\nd,BLCA,2,4\ne,LUAD,2,\n"


def test_where_keeps_the_patients_with_the_values() -> None:
    table = pd.DataFrame({"patient_id": list("dbac"), "cancer": ["X", "Y", "X", None], "v": [4.0, 2, 1, 3]})
    made = outcome_of(
        TASK.validate_python({"name": "t", "kind": "regression", "target": "v", "where": {"cancer": "X"}}), table
    )
    assert made.patient_ids.tolist() == ["a", "d"] and made.y.tolist() == [1, 4]
    assert made.excluded == {"b": "not cancer X", "c": "not cancer X"}


def test_where_takes_numbers_lists_and_several_columns(tmp_path: Path) -> None:
    regression = {"kind": "regression", "target": "v", "adjust": ["stage"]}
    made = outcome(tmp_path, WHERE, **regression, where={"cancer": ["BLCA", "BRCA"]})
    assert made.patient_ids.tolist() == ["a", "b", "c", "d"]
    assert made.excluded == {"e": "not cancer BLCA or BRCA"}  # not "no v": he was never in the task
    assert made.adjust.index.tolist() == ["a", "b", "c", "d"]
    made = outcome(tmp_path, WHERE, **regression, where={"cancer": ["BLCA", "BRCA"], "stage": 2})
    assert made.patient_ids.tolist() == ["b", "d"]
    assert made.excluded["a"] == made.excluded["c"] == "not stage 2" and made.excluded["e"].startswith("not cancer")


@pytest.mark.parametrize(
    ("where", "match"),
    [
        ({"cancr": "BLCA"}, "patients.csv: no column 'cancr'; did you mean 'cancer'"),
        ({"cancer": "KIRC"}, "patients.csv column cancer: no patient of task 't' is KIRC; it has BLCA, BRCA, LUAD"),
        ({"stage": [7, 8]}, "column stage: no patient of task 't' is 7 or 8"),
        ({"cancer": "LUAD"}, "no patient of this cohort has the outcome of task 't'"),
    ],
)
def test_wrong_where_is_one_line(tmp_path: Path, where: dict[str, Any], match: str) -> None:
    with pytest.raises(TableError, match=match) as caught:
        outcome(tmp_path, WHERE, kind="regression", target="v", where=where)
    assert "\n" not in str(caught.value)


def test_permuted_outcomes_keep_their_values_and_leave_their_patients(tmp_path: Path) -> None:
    rows = "".join(f"p{i:03d},{100 + i},{i % 3 == 0:d},{'ab'[i % 2]},{i % 7}\n" for i in range(90))
    text = "patient_id,t,e,c,age\n" + rows
    keys = {"kind": "survival", "time": "t", "event": "e", "horizons": [120], "adjust": ["age"]}
    plain = outcome(tmp_path, text, **keys)
    null, again, other = (outcome(tmp_path, text, **keys, permute=seed) for seed in (1, 1, 2))
    assert null.time is not None and null.event is not None and again.time is not None and other.time is not None
    assert sorted(null.time) == sorted(plain.y) and (null.time == null.y).all()
    assert ((null.time - 100) % 3 == 0).tolist() == null.event.tolist()  # time and event stay together
    assert (null.time != plain.time).mean() > 0.9
    assert (null.time == again.time).all() and (null.time != other.time).any()
    assert null.adjust.equals(plain.adjust) and null.patient_ids.tolist() == plain.patient_ids.tolist()
    classes = outcome(tmp_path, text, kind="classification", target="c", permute=0)
    assert classes.classes == ["a", "b"] and classes.y.sum() == 45
    assert abs(np.corrcoef(classes.y, np.arange(90) % 2)[0, 1]) < 0.3


def test_permuted_where_shuffles_among_the_task_alone(tmp_path: Path) -> None:
    made = outcome(tmp_path, WHERE, kind="regression", target="v", where={"cancer": "BLCA"}, permute=3)
    assert sorted(made.y) == [1, 3, 4]


def test_many_columns_at_once_are_what_they_are_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("patient_id,A,B,C,D\na,1, 2.5 ,NA,inf\nb,,1e3,[Not Available],1\nc,3,-0,7,x\n")
    columns = Columns(read_patients(path), path)
    for names in (["A", "B"], ["B", "C", "A"]):
        np.testing.assert_array_equal(columns.block(names), np.column_stack([columns.numbers(n) for n in names]))
    with pytest.raises(TableError, match="t.csv row 2 column D: 'inf' is not a number"):
        columns.block(["A", "D"])
    with pytest.raises(TableError, match="t.csv: no column 'E'"):
        columns.block(["A", "E"])
