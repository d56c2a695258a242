"""Reading, checking and joining the two tables."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from histostudy.cohort.tables import ROW, join, read_cohort, read_patients, read_slides, read_table
from histostudy.errors import TableError


def put(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_ids_stay_text_and_rows_are_sorted(tmp_path: Path) -> None:
    slides = read_slides(put(tmp_path, "s.csv", "slide_id,patient_id\n010,1\n001,01\n1,1\n"))
    assert list(slides["slide_id"]) == ["001", "010", "1"]
    assert list(slides["patient_id"]) == ["01", "1", "1"]
    assert list(slides[ROW]) == [3, 2, 4]
    assert slides["mpp"].isna().all() and (slides["path"] == "").all()


@pytest.mark.parametrize("text", ["a;b\n1;2\n", "a\tb\n1\t2\n", "\ufeffa,b\r\n1,2\r\n", "\n a , b \n\n 1 , 2 \n,\n"])
def test_dialects_of_spreadsheets(tmp_path: Path, text: str) -> None:
    table = read_table(put(tmp_path, "t.csv", text))
    assert list(table.columns) == ["a", "b", ROW] and table.loc[0, ["a", "b"]].tolist() == ["1", "2"]


def test_gzip_and_parquet(tmp_path: Path) -> None:
    (tmp_path / "t.tsv.gz").write_bytes(gzip.compress(b"a\tb\n01\tNA\n"))
    table = read_table(tmp_path / "t.tsv.gz")
    assert table["a"].tolist() == ["01"] and table["b"].isna().all()
    table.to_parquet(tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet")["a"].tolist() == ["01"]


def test_row_numbers_survive_line_breaks_in_cells(tmp_path: Path) -> None:
    table = read_table(put(tmp_path, "t.csv", 'a,b\n"x\ny",1\nz,2\n'))
    assert table[ROW].tolist() == [2, 4]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "empty"),
        ("slide_id,patient_id\n", "no rows"),
        ("slide,patient_id\na,b\n", r"no column 'slide_id'; did you mean 'slide'\?"),
        ("slide_id,patient_id,patient_id\na,b,c\n", "two columns are called 'patient_id'"),
        ("slide_id,patient_id\na,b,c\n", "row 2: 3 cells below 2 columns"),
        ('slide_id,patient_id\n"a,b\n', "check the quotes"),
        ("slide_id,patient_id\n../x,b\n", r"row 2 column slide_id: '\.\./x' cannot be a slide_id"),
        ("slide_id,patient_id\na,b\nc,..\n", "row 3 column patient_id: '..' cannot be a patient_id"),
        ("slide_id,patient_id\na,\n", "row 2 column patient_id: no patient_id"),
        ("slide_id,patient_id\na,b\nc,d\na,b\n", "row 4 column slide_id: 'a' is in row 2 too"),
        ("slide_id,patient_id\na,b\na,c\n", r"another 'patient_id' \('b', here 'c'\)"),
        ("slide_id,patient_id,mpp\na,b,fine\n", "row 2 column mpp: 'fine' is not a size"),
        ('slide_id,patient_id,mpp\na,b,"0,5"\n', "write decimals with a point"),
        ("slide_id,patient_id,mpp\na,b,-1\n", "mpp of -1"),
        ("slide_id,patient_id,mpp\na,b,inf\n", "is not a size"),
    ],
)
def test_bad_slide_tables(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(TableError, match=match) as caught:
        read_slides(put(tmp_path, "slides.csv", text))
    assert "slides.csv" in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.todo


def test_missing_file_folder_and_wrong_encoding(tmp_path: Path) -> None:
    put(tmp_path, "patients.csv", "x")
    with pytest.raises(TableError, match=r"no such file; did you mean 'patients.csv'\?"):
        read_patients(tmp_path / "patient.csv")
    with pytest.raises(TableError, match="no folder"):
        read_patients(tmp_path / "no" / "patients.csv")
    with pytest.raises(TableError, match="is a folder"):
        read_patients(tmp_path)
    (tmp_path / "book.csv").write_bytes(b"a,b\nM\xfcller,1\n")
    with pytest.raises(TableError, match="row 2: not UTF-8"):
        read_table(tmp_path / "book.csv")


def test_a_patient_with_two_labels(tmp_path: Path) -> None:
    path = put(tmp_path, "p.csv", "patient_id,age,subtype\na,50,LUAD\nb,60,LUSC\na,50,LUSC\n")
    with pytest.raises(TableError, match=r"p.csv row 4 .*'a' is in row 2 too, with another 'subtype' \('LUAD', here"):
        read_patients(path)


def test_paths_beside_the_table_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cwd = tmp_path / "cwd"
    put(tmp_path, "data/one.svs", "")
    for name in ("one.svs", "two.svs"):
        put(cwd, name, "")
    monkeypatch.chdir(cwd)
    monkeypatch.setenv("SLIDES", str(cwd))
    table = put(
        tmp_path,
        "data/s.csv",
        "slide_id,patient_id,path\na,p,one.svs\nb,p,two.svs\nc,p,$SLIDES/one.svs\nd,p,gone.svs\ne,p,$UNSET/e.svs\n",
    )
    slides = read_slides(table)
    paths = slides["path"].tolist()
    assert paths == [
        str(tmp_path / "data/one.svs"),
        "two.svs",
        str(cwd / "one.svs"),
        str(tmp_path / "data/gone.svs"),
        "$UNSET/e.svs",
    ]
    assert slides["path_given"].tolist() == ["one.svs", "two.svs", "$SLIDES/one.svs", "gone.svs", "$UNSET/e.svs"]


def test_join_counts_everybody(tmp_path: Path) -> None:
    slides = put(
        tmp_path, "s.csv",
        "slide_id,patient_id,site,exclude\na1,a,x,\na2,a,x,blurred\nb1,b,y,yes\nc1,c,x,no\nd1,d,x,0\nd2,d,y,\n",
    )  # fmt: skip
    patients = put(tmp_path, "p.csv", "patient_id,age\na,1\nb,2\nd,4\ne,5\n")
    cohort = read_cohort(slides, patients)
    assert list(cohort.slides["slide_id"]) == ["a1", "d1", "d2"]
    assert list(cohort.patients["patient_id"]) == ["a", "d"]
    assert cohort.patients["site"].tolist()[0] == "x" and cohort.patients["site"].isna().tolist() == [False, True]
    assert cohort.flow.as_dict()["steps"] == [
        {"step": "tables", "slides": 6, "patients": 5, "excluded": []},
        {
            "step": "excluded in the slide table", "slides": 4, "patients": 4,
            "excluded": [
                {"reason": "marked in the slide table", "slides": 1, "patients": 1},
                {"reason": "blurred", "slides": 1, "patients": 0},
            ],
        },
        {
            "step": "joined", "slides": 3, "patients": 2,
            "excluded": [
                {"reason": "patient not in the patient table", "slides": 1, "patients": 1},
                {"reason": "patient without a slide", "slides": 0, "patients": 1},
            ],
        },
    ]  # fmt: skip


def test_join_without_a_patient_table_and_with_strangers(tmp_path: Path) -> None:
    slides = read_slides(put(tmp_path, "s.csv", "slide_id,patient_id\na,p\nb,q\n"))
    assert join(slides).patients["patient_id"].tolist() == ["p", "q"]
    patients = read_patients(put(tmp_path, "p.csv", "patient_id,age\nx,1\n"))
    with pytest.raises(
        TableError, match="p.csv: no slide has a patient in this table; compare the ids: slides have p, q"
    ):
        join(slides, patients, source="p.csv")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from(["", "yes", "pen"])), min_size=1, max_size=20),
    st.sets(st.sampled_from("abcdefgh"), min_size=1),
)
def test_the_flow_adds_up(tmp_path: Path, rows: list[tuple[str, str]], known: set[str]) -> None:
    text = "".join(f"s{i},{p},{e}\n" for i, (p, e) in enumerate(rows))
    slides = read_slides(put(tmp_path, "s.csv", "slide_id,patient_id,exclude\n" + text))
    patients = read_patients(put(tmp_path, "p.csv", "patient_id,age\n" + "".join(f"{p},1\n" for p in sorted(known))))
    try:
        cohort = join(slides, patients)
    except TableError:
        return
    steps = cohort.flow.as_dict()["steps"]
    for before, after in zip(steps, steps[1:], strict=False):
        for key in ("slides", "patients"):
            assert before[key] - after[key] == sum(e[key] for e in after["excluded"])
    assert steps[-1]["slides"] == len(cohort.slides) and steps[-1]["patients"] == len(cohort.patients)
    assert set(cohort.slides["patient_id"]) == set(cohort.patients["patient_id"])


def test_a_cohort_of_tables_keeps_every_patient(tmp_path: Path) -> None:
    path = put(tmp_path, "p.csv", "patient_id,age\nb,2\n01,1\n")
    cohort = read_cohort(None, path)
    assert cohort.patients["patient_id"].tolist() == ["01", "b"] and cohort.source == str(path)
    assert len(cohort.slides) == 0 and {"slide_id", "patient_id", "path", "mpp", ROW} <= set(cohort.slides)
    assert cohort.flow.as_dict()["steps"] == [{"step": "patients", "slides": 0, "patients": 2, "excluded": []}]
    with pytest.raises(TableError, match=r"p.csv row 3 column patient_id: 'b' is in row 2 too"):
        read_cohort(None, put(tmp_path, "p.csv", "patient_id,age\nb,2\nb,2\n"))
