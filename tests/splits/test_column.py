"""Folds of a column of the patient table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from histostudy.cohort.outcomes import outcome_of
from histostudy.cohort.tables import read_patients
from histostudy.errors import SplitError
from histostudy.splits.column import folds_of_column
from histostudy.splits.folds import make_splits
from histostudy.study import Splits
from histostudy.tasks import Classification


def cohort(n: int = 60) -> pd.DataFrame:
    rows = np.arange(n)
    fold = [str(i % 3 + 1) + (".0" if i % 2 else "") for i in rows]  # as pandas and spreadsheets mix them
    return pd.DataFrame(
        {"patient_id": [f"p{i:02d}" for i in rows], "fold": fold, "y": np.array(["a", "b", "b"])[rows // 4 % 3]}
    )


def test_every_patient_is_tested_in_his_fold_once_a_repeat() -> None:
    patients = cohort()
    splits = make_splits(patients[::-1], [], Splits(column="fold", repeats=2, inner=0.25), seed=0)
    assert list(splits.columns) == ["repeat", "fold", "patient_id", "part"]
    tested = splits[splits["part"] == "test"]
    assert len(splits) == 2 * 3 * 60 and len(tested) == 2 * 60
    wanted = dict(zip(patients["patient_id"], patients["fold"].astype(float), strict=True))
    assert all(wanted[p] == fold for p, fold in zip(tested["patient_id"], tested["fold"], strict=True))
    sizes = splits.groupby(["repeat", "fold", "part"]).size().unstack()
    assert (sizes["val"] == 10).all() and (sizes["train"] == 30).all()
    assert splits.equals(make_splits(patients, [], Splits(column="fold", repeats=2, inner=0.25), seed=0))


def test_inner_parts_are_drawn_anew_in_each_repeat_and_by_the_seed() -> None:
    def inner(repeat: int, seed: int) -> set[str]:
        splits = folds_of_column(cohort(), [], Splits(column="fold", repeats=2), seed)
        return set(splits.query("repeat == @repeat and fold == 1 and part == 'val'")["patient_id"])

    assert inner(0, 0) != inner(1, 0) and inner(0, 0) != inner(0, 1) and inner(0, 0) == inner(0, 0)


def test_inner_parts_are_balanced_by_the_outcome() -> None:
    patients = cohort()
    outcome = outcome_of(Classification(name="t", kind="classification", target="y"), patients)
    splits = folds_of_column(patients, [outcome], Splits(column="fold", inner=0.2), 0)
    for fold in (1, 2, 3):
        rows = splits[(splits["fold"] == fold) & (splits["part"] == "val")]
        classes = patients.set_index("patient_id").loc[rows["patient_id"], "y"]
        assert abs((classes == "b").mean() - (patients["y"] == "b").mean()) < 0.13


def test_a_patient_without_a_number_takes_no_part() -> None:
    patients = cohort()
    patients.loc[[3, 7], "fold"] = [None, "NA"]
    splits = folds_of_column(patients, [], Splits(column="fold"), 0)
    assert set(patients["patient_id"]) - set(splits["patient_id"]) == {"p03", "p07"}


@pytest.mark.parametrize(
    ("text", "column", "match"),
    [
        ("patient_id,fold\na,1\nb,2\n", "folds", "patients.csv: no column 'folds'; splits.column names a column"),
        ("patient_id,fold\na,1\nb,first\n", "fold", "patients.csv row 3 column fold: 'first' is no fold"),
        ("patient_id,fold\nc,1\nb,1.5\n", "fold", "patients.csv row 3 column fold: '1.5' is no fold"),
        ("patient_id,fold\nc,1\nb,1\n", "fold", "patients.csv column fold: 1 fold only"),
        ("patient_id,fold\nc,\nb,\n", "fold", "patients.csv column fold: 0 fold only"),
        ("patient_id,fold\nc,1\nb,inf\n", "fold", "patients.csv row 3 column fold: 'inf' is no fold"),
    ],
)
def test_bad_columns_are_one_line(tmp_path: Path, text: str, column: str, match: str) -> None:
    path = tmp_path / "patients.csv"
    path.write_text(text)
    with pytest.raises(SplitError, match=match) as caught:
        folds_of_column(read_patients(path), [], Splits(column=column), 0)
    assert "\n" not in str(caught.value) and caught.value.todo


def test_a_published_split_into_train_and_test_is_one_fold() -> None:
    patients = cohort()
    patients["fold"] = np.where(np.arange(60) < 15, "Test", "train")
    splits = make_splits(patients, [], Splits(column="fold", inner=0.2), seed=0)
    assert set(splits["fold"]) == {0} and splits["patient_id"].is_unique
    assert sorted(splits.query("part == 'test'")["patient_id"]) == patients["patient_id"][:15].tolist()
    assert splits["part"].value_counts().to_dict() == {"train": 36, "test": 15, "val": 9}
    patients["fold"] = "train"
    with pytest.raises(SplitError, match="train and test"):
        make_splits(patients, [], Splits(column="fold"), seed=0)
