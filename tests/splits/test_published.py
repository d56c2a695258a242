"""Published folds and the audit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from histostudy.errors import SplitError
from histostudy.files import write_json, write_table
from histostudy.splits.audit import audit
from histostudy.splits.folds import make_splits
from histostudy.splits.published import read_published
from histostudy.study import Splits

PATIENTS = pd.DataFrame({"patient_id": ["p1", "p2", "p3", "p4", "p5"], "site": list("aabbc")})
SLIDES = pd.DataFrame(
    {"slide_id": ["s1a", "s1b", "s2", "s3", "s4", "s5"], "patient_id": ["p1", "p1", "p2", "p3", "p4", "p5"]}
).assign(path="")


def clam(folder: Path, k: int, **columns: Sequence[str]) -> Path:
    folder.mkdir(exist_ok=True)
    frame = pd.DataFrame({name: pd.Series(list(ids), dtype=object) for name, ids in columns.items()})
    frame.to_csv(folder / f"splits_{k}.csv")
    return folder


def part_of(splits: pd.DataFrame, fold: int = 0) -> dict[str, str]:
    rows = splits[splits["fold"] == fold]
    return dict(zip(rows["patient_id"], rows["part"], strict=True))


def test_slide_ids_and_a_patient_on_two_sides(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = clam(tmp_path / "f", 0, train=["s1a.svs", "s2", "s3", "gone"], val=["s4"], test=["s1b"])
    (folder / "splits_0_bool.csv").write_text(",train,val,test\ns1a,True,False,False\n")
    splits = read_published(folder, PATIENTS, SLIDES)
    assert part_of(splits) == {"p1": "test", "p2": "train", "p3": "train", "p4": "val"}
    (note,) = splits.attrs["published"]
    assert note["on_two_sides"] == {"train_and_test": 1}
    assert (note["listed"], note["known"], note["unknown"], note["not_listed"], note["drawn_val"]) == (6, 5, 1, 1, 0)
    assert "leaks: 1 to 1 test patients" in caplog.text and "1 to 1 listed ids are not in the cohort" in caplog.text
    report = audit(splits, PATIENTS, SLIDES)
    assert report["ok"] and report["published"] == [note]
    assert report["tested"] == {"once": False, "never": 4, "more_than_once": 0, "repeats": 1}
    json.dumps(report, allow_nan=False)
    with pytest.raises(SplitError, match="splits_0.csv: patient p1 is in train and in test"):
        read_published(folder, PATIENTS, SLIDES, overlap="refuse")


def test_without_a_test_part_val_is_tested(tmp_path: Path) -> None:
    folder = clam(tmp_path / "f", 10, train=["p1", "p2", "p3"], val=["p4", "p5"])
    clam(folder, 2, train=["p3", "p4", "p5"], val=["p1", "p2"])
    splits = make_splits(PATIENTS, [], Splits(published=folder), 0, SLIDES)
    assert sorted(set(splits["fold"])) == [2, 10]  # by number, not by name
    assert {p for p, q in part_of(splits, 10).items() if q == "test"} == {"p4", "p5"}
    assert sorted(part_of(splits, 10)[p] for p in ("p1", "p2", "p3")) == ["train", "train", "val"]
    assert [n["val_is_test"] for n in splits.attrs["published"]] == [True, True]
    assert audit(splits, PATIENTS, SLIDES)["tested"]["never"] == 1
    assert splits.equals(make_splits(PATIENTS[::-1], [], Splits(published=folder), 0, SLIDES))


def test_our_own_and_stamp(tmp_path: Path) -> None:
    patients = pd.DataFrame({"patient_id": [f"p{i}" for i in range(20)]})
    drawn = make_splits(patients, [], Splits(folds=4, repeats=2), 0)
    write_table(tmp_path / "splits.csv", drawn)
    for path in (tmp_path, tmp_path / "splits.csv"):
        pd.testing.assert_frame_equal(read_published(path, patients), drawn)
    (tmp_path / "splits.csv").write_text("repeat,fold,patient_id,part\n0,0,p1,exam\n")
    with pytest.raises(SplitError, match="'exam' is no part"):
        read_published(tmp_path, patients)
    (tmp_path / "splits.csv").write_text("repeat,fold,patient_id,part\n0,x,p1,test\n")
    with pytest.raises(SplitError, match="whole numbers"):
        read_published(tmp_path, patients)
    stamp = tmp_path / "stamp"
    write_json(
        stamp / "splits.json", {"splits": [{"train_patients": ["p1", "p2", "p3", "p4"], "test_patients": ["p5"]}]}
    )
    found = read_published(stamp, PATIENTS)
    assert sorted(found["part"]) == ["test", "train", "train", "train", "val"] and part_of(found)["p5"] == "test"
    write_json(stamp / "splits.json", {"folds": []})
    with pytest.raises(SplitError, match="not STAMP's splits"):
        read_published(stamp, PATIENTS)


def test_folds_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(SplitError, match="no folds here"):
        read_published(tmp_path, PATIENTS)
    folder = clam(tmp_path / "f", 0, train=["s1a"], val=["s2"], test=["gone"])
    with pytest.raises(SplitError, match=r"splits_0.csv: no test patient of this cohort \(1 ids listed\)"):
        read_published(folder, PATIENTS, SLIDES)
    clam(folder, 0, train=["x1"], val=["x2"], test=["x3"])
    with pytest.raises(SplitError, match=r"none of its 3 ids is in the cohort .*x1.*the cohort has p1"):
        read_published(folder, PATIENTS, SLIDES)
    clam(folder, 0, train=["s1a"], val=["s2"], test=["s1b"])
    with pytest.raises(SplitError, match="no train patient"):
        read_published(folder, PATIENTS, SLIDES)
    clam(folder, 0, left=["s1a"], right=["s2"])
    with pytest.raises(SplitError, match="not the columns train, val, test"):
        read_published(folder, PATIENTS, SLIDES)


def test_the_audit_finds_leaks() -> None:
    rows = [("p1", "train"), ("p1", "test"), ("p2", "train"), ("p3", "val"), ("p4", "test"), ("q", "train")]
    splits = pd.DataFrame([(0, 0, p, q) for p, q in rows], columns=["repeat", "fold", "patient_id", "part"])
    slides = SLIDES.assign(path=["a", "b", "same", "c", "same", "d"])
    report = audit(splits, PATIENTS, slides, preserve="site")
    assert not report["ok"] and report["patients_on_two_sides"] == 1
    assert report["problems"] == [
        "1 patients are not in the cohort: q",
        "repeat 0 fold 0: 1 patients in train and test: p1",
        "repeat 0 fold 0: 1 slide files of patients in train and in test: same",
        "repeat 0 fold 0: 2 values of site on both sides: a, b",
    ]
    assert report["folds"][0]["shared_site_patients"] == 1.0 and report["folds"][0]["test_slides"] == 3
    again = audit(splits[::-1], PATIENTS[::-1], slides[::-1])
    assert again["splits_sha256"] == report["splits_sha256"] and again["patients_sha256"] == report["patients_sha256"]


def test_the_folds_of_the_hipt_paper(shared_data: Path) -> None:
    tcga = shared_data / "tcga"
    slides = pd.read_csv(tcga / "hipt_index.csv", dtype=str)
    slides = slides[slides["cohort"].isin(["LUAD", "LUSC"])].assign(path="")
    patients = slides[["patient_id"]].drop_duplicates().sort_values("patient_id", ignore_index=True)
    patients["site"] = patients["patient_id"].str.slice(5, 7)
    splits = read_published(tcga / "hipt_subtyping_splits" / "tcga_lung", patients, slides)
    report = audit(splits, patients, slides)
    assert report["ok"] and len(report["folds"]) == 10
    notes = splits.attrs["published"]
    # as published, patients are on both sides in every one of the ten folds
    assert [n["on_two_sides"]["train_and_test"] for n in notes] == [7, 12, 8, 10, 4, 6, 7, 8, 9, 12]
    assert all(n["unknown"] <= 80 for n in notes), [n["unknown"] for n in notes]
    assert not report["tested"]["once"] and report["tested"]["more_than_once"] > 200  # drawn anew, not a partition
    assert all(f["shared_site_patients"] > 0.9 for f in report["folds"])
    with pytest.raises(SplitError, match="splits_0.csv: patient TCGA-.* is in"):
        read_published(tcga / "hipt_subtyping_splits" / "tcga_lung", patients, slides, overlap="refuse")
    survival = read_published(tcga / "hipt_survival_splits" / "tcga_luad", patients)
    assert all(n["val_is_test"] for n in survival.attrs["published"])
    assert survival[survival["part"] == "test"]["patient_id"].is_unique


def test_published_folds_are_used_again_in_each_repeat(tmp_path: Path) -> None:
    folder = clam(tmp_path / "f", 0, train=["p1", "p2", "p3"], val=["p4", "p5"])
    clam(folder, 1, train=["p3", "p4", "p5"], val=["p1", "p2"])
    splits = make_splits(PATIENTS, [], Splits(published=folder, repeats=6), 0, SLIDES)
    assert splits.groupby(["repeat", "fold"]).ngroups == 12
    one = read_published(folder, PATIENTS, SLIDES)
    assert splits[splits["repeat"] == 0].reset_index(drop=True).equals(one)
    inner = {fold: set() for fold in (0, 1)}
    for (_, fold), rows in splits.groupby(["repeat", "fold"]):
        tested = {"p4", "p5"} if fold == 0 else {"p1", "p2"}
        assert set(rows.loc[rows["part"] == "test", "patient_id"]) == tested
        inner[fold] |= set(rows.loc[rows["part"] == "val", "patient_id"])
    assert all(len(found) > 1 for found in inner.values())  # the inner part is drawn anew


def test_published_repeats_stay_as_they_are(tmp_path: Path) -> None:
    patients = pd.DataFrame({"patient_id": [f"p{i}" for i in range(20)]})
    drawn = make_splits(patients, [], Splits(folds=4, repeats=2), 0)
    write_table(tmp_path / "splits.csv", drawn)
    pd.testing.assert_frame_equal(read_published(tmp_path, patients, repeats=5), drawn)
