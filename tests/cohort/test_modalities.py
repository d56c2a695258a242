"""Tables beside the slides: which columns, whose rows, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from histostudy.cohort.modalities import ModalityTable, read_modalities, read_modality
from histostudy.cohort.tables import read_patients
from histostudy.errors import TableError
from histostudy.study import Modality

PATIENTS = "patient_id,age,sex,grade,days\na,50,m,low,10\nb,60,f,NA,20\nc,,f,high,30\nd,70,,low,40\n"


def read(tmp_path: Path, text: str | None = None, **keys: Any) -> ModalityTable:
    path = tmp_path / "patients.csv"
    path.write_text(PATIENTS)
    if text is not None:
        keys["table"] = tmp_path / "rna.csv"
        keys["table"].write_text(text)
    if "groups" in keys:
        text, keys["groups"] = keys["groups"], tmp_path / "groups.csv"
        keys["groups"].write_text(text)
    return read_modality("rna", Modality(**keys), read_patients(path), path)


def test_columns_of_the_patient_table_with_text_as_levels(tmp_path: Path) -> None:
    made = read(tmp_path, columns=["age", "sex", "grade"])
    assert made.columns == ["age", "sex=f", "sex=m", "grade=high", "grade=low"]
    assert made.patient_ids == ["a", "b", "c", "d"] and made.groups == {}
    nan = np.nan
    np.testing.assert_array_equal(
        made.values, [[50, 0, 1, 0, 1], [60, 1, 0, nan, nan], [nan, 1, 0, 1, 0], [70, nan, nan, 0, 1]]
    )


def test_a_table_of_its_own_takes_all_numbers_of_the_cohorts_patients(tmp_path: Path) -> None:
    made = read(tmp_path, "sample,G2,note,G1\nd,1,x,2\nz,9,y,9\na,,y,5\nb,,z,\n")
    assert made.columns == ["G2", "G1"] and made.name == "rna"
    assert made.patient_ids == ["d", "a"]  # z is a stranger, b's row is empty, c has none
    np.testing.assert_array_equal(made.values, [[1, 2], [np.nan, 5]])


def test_patterns_pick_columns_in_the_order_of_the_table(tmp_path: Path) -> None:
    text = "patient_id,mut_B,cnv_A,mut_A,rna_A\na,1,2,3,4\nb,5,6,7,8\n"
    assert read(tmp_path, text, columns=["rna_?", "mut_*"]).columns == ["mut_B", "mut_A", "rna_A"]
    assert read(tmp_path, text, columns=["mut_A", "mut_*"]).columns == ["mut_B", "mut_A"]


def test_log_and_groups(tmp_path: Path) -> None:
    groups = "group,column\nlate,G2\nearly,G1\nlate,G1\nother,G9\n"
    made = read(tmp_path, "patient_id,G1,G2\na,0,7\nb,3,1\n", log=True, groups=groups)
    np.testing.assert_allclose(made.values, [[0, 3], [2, 1]])
    assert made.groups == {"late": ["G2", "G1"], "early": ["G1"]}


def test_all_modalities_of_a_study(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(PATIENTS)
    patients = read_patients(tmp_path / "p.csv")
    made = read_modalities({"a": Modality(columns=["age"]), "d": Modality(columns=["days"])}, patients, "p.csv")
    assert {name: table.columns for name, table in made.items()} == {"a": ["age"], "d": ["days"]}
    assert made["a"].patient_ids == ["a", "b", "d"]  # c's age is missing


@pytest.mark.parametrize(
    ("text", "keys", "match"),
    [
        ("patient_id,G\na,1\na,2\n", {}, "rna.csv: patient 'a' is there twice"),
        ("patient_id,G\nx,1\n", {}, "rna.csv: modality 'rna': no patient of this cohort is in it"),
        ("patient_id,G\na,NA\nb,\n", {}, "rna.csv: modality 'rna': every cell is missing"),
        ("patient_id,G\na,-2\n", {"log": True}, "rna.csv: modality 'rna': negative values cannot be logged"),
        ("patient_id,G\na,1\n", {"columns": ["H*"]}, r"rna.csv: modality 'rna': no column 'H\*'; it has G"),
        ("patient_id,G\na,1\n", {"groups": "group,column\nx,H\n"}, "groups.csv: no column of the modality is in any"),
        ("patient_id,G\na,1\n", {"groups": "pathway,column\nx,G\n"}, "groups.csv: no column 'group'"),
        ("patient_id,G\na,inf\nb,1\n", {}, "rna.csv.*column G.*'inf'"),
        ("patient_id\na\n", {}, "rna.csv"),
        (None, {"columns": ["agee"]}, "patients.csv: modality 'rna': no column 'agee'; it has age, sex"),
    ],
)
def test_bad_modalities_are_one_line(tmp_path: Path, text: str | None, keys: dict[str, Any], match: str) -> None:
    with pytest.raises(TableError, match=match) as caught:
        read(tmp_path, text, **keys)
    assert "\n" not in str(caught.value) and caught.value.todo
