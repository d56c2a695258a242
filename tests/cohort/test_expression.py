"""Expression of patients and of spots: library size, genes of largest variance, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from histostudy.cohort.outcomes import Outcome, outcome_of, spot_outcome
from histostudy.errors import TableError
from histostudy.tasks import Expression

COUNTS = "patient_id,A,B,C\na,10,30,60\nb,40,40,120\nc,1,2,7\n"


def of_patients(tmp_path: Path, text: str = COUNTS, ids: str = "abc", **keys: Any) -> Outcome:
    table = tmp_path / "expression.csv"
    table.write_text(text)
    task = Expression(name="g", kind="expression", table=table, **keys)
    return outcome_of(task, pd.DataFrame({"patient_id": list(ids)}))


def test_library_divides_by_the_total_of_all_genes_of_the_row(tmp_path: Path) -> None:
    made = of_patients(tmp_path, library=True, log=False, genes=["A", "B"])
    totals = np.array([100.0, 200, 10])  # C counts too, though it is not predicted
    wanted = np.array([[10, 30], [40, 40], [1, 2]]) / totals[:, None] * 10_000
    assert made.genes == ["A", "B"]
    np.testing.assert_allclose(made.y, wanted)
    logged = of_patients(tmp_path, library=True, genes=["A", "B"])
    np.testing.assert_allclose(logged.y, np.log2(1 + wanted))


def test_the_scaled_counts_of_a_patient_do_not_depend_on_the_others(tmp_path: Path) -> None:
    alone = of_patients(tmp_path, ids="ab", library=True, log=False)
    assert alone.genes == ["A", "B"]  # C is 60 of 100 in both
    np.testing.assert_allclose(alone.y, of_patients(tmp_path, library=True, log=False, genes=["A", "B"]).y[:2])


def test_top_keeps_the_genes_of_largest_variance_in_their_order(tmp_path: Path) -> None:
    made = of_patients(tmp_path, "patient_id,flat,A,B,C\na,5,1,9,3\nb,5,2,0,0\nc,5,1,4,3\n", log=False, top=2)
    assert made.genes == ["B", "C"]
    np.testing.assert_allclose(made.y, [[9, 3], [0, 0], [4, 3]])
    # counted after the log, in which the large counts of B vary less than A
    made = of_patients(tmp_path, "patient_id,A,B\na,0,900\nb,7,1000\nc,0,1100\n", top=1)
    assert made.genes == ["A"]


def test_a_first_column_of_another_name_holds_the_ids(tmp_path: Path) -> None:
    assert of_patients(tmp_path, COUNTS.replace("patient_id", "sample")).patient_ids.tolist() == ["a", "b", "c"]


SPOTS = pd.DataFrame(
    {"spot_id": ["t2", "s1", "s0", "z9", "t1"], "slide_id": ["t", "s", "s", "z", "t"], "x_px0": 0.0, "y_px0": 0.0}
)


def of_spots(tmp_path: Path, text: str, **keys: Any) -> Outcome:
    table = tmp_path / "spots_expression.csv"
    table.write_text(text)
    task = Expression(name="g", kind="expression", level="spot", table=table, log=False, **keys)
    return spot_outcome(task, SPOTS, {"s": "p1", "t": "p2"})


def test_spots_are_units_of_the_patients_whose_slides_they_are_on(tmp_path: Path) -> None:
    made = of_spots(tmp_path, "spot_id,A,B\nt1,1,2\ns1,3,4\nz9,5,6\nt2,7,\ns0,0,1\nq,9,9\n")
    assert made.patient_ids.tolist() == ["s0", "s1", "t1"]  # z is no slide of the cohort, t2 lacks a gene
    np.testing.assert_allclose(made.y, [[0, 1], [3, 4], [1, 2]])
    assert made.patient_of == {"s0": "p1", "s1": "p1", "t1": "p2"}
    assert made.adjust.index.tolist() == ["s0", "s1", "t1"] and made.genes == ["A", "B"]
    assert made.rows(["t1"]).tolist() == [2]


def test_genes_of_a_spot_stay_together_when_permuted(tmp_path: Path) -> None:
    text = "spot_id,A,B\ns0,1,10\ns1,2,20\nt1,3,30\nt2,4,40\n"
    orders = [of_spots(tmp_path, text, permute=seed).y for seed in range(5)]
    for y in orders:
        assert sorted(y[:, 0]) == [1, 2, 3, 4] and (y[:, 1] == 10 * y[:, 0]).all()
    assert len({tuple(y[:, 0]) for y in orders}) > 1
    assert (of_spots(tmp_path, text, permute=2).y == orders[2]).all()


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (
            "spot_id,A\nq,1\n",
            "no spot of this cohort is in it with all 1 genes; its first id is 'q', the cohort's 's0'",
        ),
        ("spot_id,A\ns0,1\ns0,2\n", "row 3 column spot_id: 's0' is in row 2 too"),
        ("spot_id,A\ns0,1\ns1,much\n", "row 3 column A: 'much' is not a number"),
        ("spot_id\ns0\n", "no genes"),
        ("spot_id,A\ns0,2\ns1,2\n", "every gene is constant"),
    ],
)
def test_bad_tables_of_spots(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(TableError, match=match) as caught:
        of_spots(tmp_path, text)
    assert "spots_expression.csv" in str(caught.value) and "\n" not in str(caught.value) and caught.value.todo


def test_no_spot_on_a_slide_of_the_cohort_is_one_line(tmp_path: Path) -> None:
    table = tmp_path / "expression.csv"
    table.write_text("spot_id,A\ns0,1\n")
    task = Expression(name="g", kind="expression", level="spot", table=table)
    with pytest.raises(TableError, match="no spot of this cohort"):
        spot_outcome(task, SPOTS, {"other": "p"})
