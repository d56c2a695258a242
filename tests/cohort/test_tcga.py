"""Barcodes, folders, and cohorts of TCGA from its own tables."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from histostudy.cohort.barcodes import parse_barcode
from histostudy.cohort.folder import find_files, slide_id_of, slides_of_folder
from histostudy.cohort.outcomes import outcome_of
from histostudy.cohort.tables import read_cohort
from histostudy.cohort.tcga import build_tcga, collapse_stage
from histostudy.errors import ConfigError, TableError
from histostudy.tasks import Classification, Expression, Survival


def test_barcodes() -> None:
    barcode = parse_barcode("TCGA-05-4250-01Z-00-DX1.90f67fdf-dff9-46ca-af71-0978d7c221ba")
    assert barcode is not None and barcode.patient == "TCGA-05-4250" and barcode.site == "05"
    assert (barcode.sample, barcode.vial, barcode.portion, barcode.slide) == ("01", "Z", "00", "DX1")
    assert barcode.diagnostic and not barcode.normal
    frozen = parse_barcode("TCGA-CR-7395-01A-01-TS1")
    assert frozen is not None and not frozen.diagnostic
    normal = parse_barcode("tcga-cr-7395-11A")
    assert normal is not None and normal.normal and normal.patient == "TCGA-CR-7395"
    for text in ("TCGA-05", "P01", "TCGA-05-42500", "XTCGA-05-4250", "TCGA-05-4250-"):
        assert parse_barcode(text) is None


def test_stages() -> None:
    found = [collapse_stage(s) for s in ("Stage I", "Stage IA", "Stage IIIC", "Stage IV", "Stage IVB", "Stage IA2")]
    assert found == ["I", "I", "III", "IV", "IV", "I"]
    assert {collapse_stage(s) for s in ("Stage X", "Stage 0", "I/II NOS", None, "[Discrepancy]", "IS")} == {None}


def test_only_known_suffixes_are_taken_off() -> None:
    assert slide_id_of(Path("TCGA-05-4250-01Z-00-DX1.90F6.svs")) == "TCGA-05-4250-01Z-00-DX1.90F6"
    assert slide_id_of(Path("a.ome.tiff")) == "a" and slide_id_of(Path("B.H5")) == "B"
    assert slide_id_of(Path("notes.txt")) is None and slide_id_of(Path(".svs")) is None


def test_folder(tmp_path: Path) -> None:
    for name in ("x/P1_a.svs", "x/P1_b.svs", "P2_a.svs", "readme.txt", ".hidden/P3.svs"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    table = slides_of_folder(tmp_path, tmp_path / "out" / "slides.csv", r"^(P\d+)_")
    assert table.to_dict("list") == {
        "slide_id": ["P1_a", "P1_b", "P2_a"],
        "patient_id": ["P1", "P1", "P2"],
        "path": ["../x/P1_a.svs", "../x/P1_b.svs", "../P2_a.svs"],
    }
    assert slides_of_folder(tmp_path)["patient_id"].tolist() == ["P1_a", "P1_b", "P2_a"]
    with pytest.raises(ConfigError, match="no group"):
        slides_of_folder(tmp_path, patient="P")
    with pytest.raises(ConfigError, match="no regular expression"):
        slides_of_folder(tmp_path, patient="(")
    with pytest.raises(TableError, match="does not match"):
        slides_of_folder(tmp_path, patient="^(P1)_")
    (tmp_path / "P1_a.h5").touch()
    with pytest.raises(TableError, match="two files of slide 'P1_a'"):
        find_files(tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(TableError, match="no slides and no features"):
        find_files(tmp_path / "none")


CDR = """bcr_patient_barcode,type,age_at_initial_pathologic_diagnosis,gender,race,ajcc_pathologic_tumor_stage,\
clinical_stage,histological_type,histological_grade,initial_pathologic_dx_year,\
OS,OS.time,DSS,DSS.time,DFI,DFI.time,PFI,PFI.time,Redaction
TCGA-AA-0001,COAD,50.0,FEMALE,WHITE,Stage IIB,[Not Applicable],Colon,G2,2001.0,1.0,100.0,,,,,0.0,9.0,
TCGA-AA-0002,COAD,[Not Available],MALE,[Unknown],[Not Applicable],Stage IVA,Colon,GX,2002.0,0.0,0.0,0.0,0.0,,,,,
TCGA-05-0003,READ,61.0,MALE,ASIAN,Stage X,[Not Available],Rectum,High Grade,2003.0,0.0,,0.0,5.0,,,0.0,7.0,
TCGA-05-0004,COAD,62.0,MALE,WHITE,Stage I,,Colon,G1,2003.0,0.0,50.0,0.0,5.0,,,0.0,7.0,Redacted
"""


def make_folder(tmp_path: Path) -> tuple[Path, Path]:
    folder = tmp_path / "features"
    folder.mkdir()
    for name in (
        "TCGA-AA-0001-01Z-00-DX1.A1", "TCGA-AA-0001-01Z-00-DX2.A2", "TCGA-AA-0002-01Z-00-DX1.B1",
        "TCGA-05-0003-01A-01-TS1.C1", "TCGA-05-0003-01Z-00-DX1.C2", "TCGA-05-0004-01Z-00-DX1.D1",
        "TCGA-05-0005-11A-00-DX1.E1", "TCGA-05-0006-01Z-00-DX1.F1", "other",
    ):  # fmt: skip
        (folder / f"{name}.h5").touch()
    cdr = tmp_path / "cdr.csv"
    cdr.write_text(CDR)
    return folder, cdr


def test_build_small(tmp_path: Path) -> None:
    folder, cdr = make_folder(tmp_path)
    (tmp_path / "mut.tsv").write_text(
        "SAMPLE_ID\tSTUDY_ID\tTP53\tKRAS\nTCGA-AA-0001-01\tx\tWT\tG12C\nTCGA-AA-0001-06\tx\tR175H\tNS\n"
        "TCGA-AA-0002-01\tx\tNS\t\nTCGA-05-0003-01\tx\tWT\tWT\nTCGA-AA-0002-11\tx\tR1X\tWT\n"
    )
    (tmp_path / "sub.csv").write_text(
        "TCGA Participant Barcode,MSI Status,Colorectal CMS\nTCGA-AA-0001,MSI-H,CMS1\nTCGA-AA-0002,MSI-L,\n"
    )
    (tmp_path / "rna.csv").write_text("id,G1\nTCGA-AA-0001-06,7\nTCGA-AA-0001-01,5\nTCGA-ZZ-9999-01,1\n")
    out = tmp_path / "out"
    made = build_tcga(
        folder, cdr, tmp_path / "mut.tsv", tmp_path / "sub.csv", tmp_path / "rna.csv", ["TP53", "KRAS"], out
    )
    patients = pd.read_csv(out / "patients.csv", dtype=str).set_index("patient_id")
    assert list(patients.index) == ["TCGA-05-0003", "TCGA-05-0006", "TCGA-AA-0001", "TCGA-AA-0002"]
    one = patients.loc["TCGA-AA-0001"].dropna().to_dict()
    assert one == {
        "site": "AA", "project": "COAD", "age": "50", "sex": "female", "race": "white", "stage": "II", "grade": "G2",
        "histology": "Colon", "year": "2001", "os_days": "100", "os_event": "1", "pfi_days": "9", "pfi_event": "0",
        "msi_status": "MSI-H", "cms": "CMS1", "msi_high": "1", "mut_TP53": "1", "mut_KRAS": "1",
    }  # fmt: skip
    two = patients.loc["TCGA-AA-0002"].dropna().to_dict()
    assert two["stage"] == "IV" and two["msi_high"] == "0" and two["os_days"] == "0"
    assert {"age", "race", "grade", "mut_TP53", "mut_KRAS"}.isdisjoint(two)
    assert patients.loc["TCGA-05-0003", ["site", "grade", "mut_TP53"]].tolist() == ["05", "high", "0"]
    assert patients.loc["TCGA-05-0006"].dropna().to_dict() == {"site": "05"}
    assert "dfi_days" not in patients  # known of nobody
    assert pd.read_csv(out / "expression.csv").to_dict("list") == {"patient_id": ["TCGA-AA-0001"], "G1": [5]}
    assert made.flow.as_dict()["steps"] == [
        {"step": "files", "slides": 9, "patients": 7, "excluded": []},
        {"step": "tumour slides", "slides": 6, "patients": 5, "excluded": [
            {"reason": "normal tissue", "slides": 1, "patients": 1},
            {"reason": "not named by a TCGA barcode", "slides": 1, "patients": 1},
            {"reason": "frozen section", "slides": 1, "patients": 0}]},
        {"step": "in the cohort", "slides": 5, "patients": 4, "excluded": [
            {"reason": "patient redacted by TCGA", "slides": 1, "patients": 1}]},
    ]  # fmt: skip
    assert json.loads((out / "flow.json").read_text()) == made.flow.as_dict()
    cohort = read_cohort(out / "slides.csv", out / "patients.csv")
    assert len(cohort.slides) == 5 and all(Path(p).is_file() for p in cohort.slides["path"])
    both = build_tcga(folder, cdr, out=tmp_path / "both", diagnostic_only=False, projects=["READ"])
    assert both.slides["slide_id"].str.contains("TS1").sum() == 1 and list(both.patients["project"]) == ["READ"]


def test_bad_tcga(tmp_path: Path) -> None:
    folder, cdr = make_folder(tmp_path)
    with pytest.raises(TableError, match="no project LUNG"):
        build_tcga(folder, cdr, out=tmp_path / "o", projects=["LUNG"])
    (tmp_path / "mut.tsv").write_text("SAMPLE_ID\tTP53\nTCGA-AA-0001-01\tWT\n")
    with pytest.raises(TableError, match="did you mean 'TP53'"):
        build_tcga(folder, cdr, tmp_path / "mut.tsv", genes=["TP5"], out=tmp_path / "o")
    (tmp_path / "mut.tsv").write_text("SAMPLE_ID\tTP53\nS1\tWT\n")
    with pytest.raises(TableError, match="row 2 column SAMPLE_ID: 'S1' is no TCGA barcode"):
        build_tcga(folder, cdr, tmp_path / "mut.tsv", out=tmp_path / "o")
    cdr.write_text(CDR.replace("100.0", "soon"))
    with pytest.raises(TableError, match=r"cdr.csv row 2 column OS.time: 'soon' is not"):
        build_tcga(folder, cdr, out=tmp_path / "o")
    cdr.write_text("bcr_patient_barcode,type\na,b\n")
    with pytest.raises(TableError, match="no column 'OS'"):
        build_tcga(folder, cdr, out=tmp_path / "o")
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "a.svs").touch()
    with pytest.raises(TableError, match="none of 1 files is a tumour slide"):
        build_tcga(plain, cdr, out=tmp_path / "o")
    assert not (tmp_path / "o").exists()  # nothing half-written


@pytest.fixture(scope="module")
def real(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, object]:
    """Cohort of all slides with HIPT bags, built from TCGA's own tables."""
    tcga, work = shared_data / "tcga", tmp_path_factory.mktemp("tcga")
    folder = work / "features"
    folder.mkdir()
    for slide_id in pd.read_csv(tcga / "hipt_index.csv", dtype=str)["slide_id"]:
        (folder / f"{slide_id}.h5").touch()
    made = build_tcga(
        folder, tcga / "tcga_cdr.csv", tcga / "tcga_mutations_1066genes.tsv.gz",
        tcga / "tcga_gi_molecular_subtypes.csv", tcga / "hist2rna" / "pam50_gene_expression.csv",
        ["TP53", "CDH1", "PIK3CA", "BAP1"], work / "out",
    )  # fmt: skip
    return work / "out", made


def test_real_tables(real: tuple[Path, object], shared_data: Path) -> None:
    out, _ = real
    cohort = read_cohort(out / "slides.csv", out / "patients.csv")
    patients = cohort.patients
    assert (
        len(cohort.slides)
        + sum(
            e["slides"]
            for s in real[1].flow.as_dict()["steps"]
            for e in s["excluded"]  # type: ignore[attr-defined]
        )
        == 3132
    )
    lung = patients[patients["project"].isin(["LUAD", "LUSC"])]
    index = pd.read_csv(shared_data / "tcga/hipt_index.csv", dtype=str)
    expected = set(index.loc[index["cohort"].isin(["LUAD", "LUSC"]), "patient_id"])
    assert set(lung["patient_id"]) <= expected and len(expected) == 911
    assert len(lung) == 911, sorted(expected - set(lung["patient_id"]))
    made = outcome_of(Classification(name="s", kind="classification", target="project"), lung)
    assert made.classes == ["LUAD", "LUSC"] and len(made) == 911
    cohort_of = dict(zip(index["patient_id"], index["cohort"], strict=True))
    assert all(cohort_of[p] == made.classes[int(k)] for p, k in zip(made.patient_ids, made.y, strict=True))
    # the labels of the HIPT paper say the same
    labels = pd.read_csv(shared_data / "tcga/hipt_subtyping_labels/tcga_lung_subset.csv.zip", dtype=str)
    paper = labels.drop_duplicates("case_id").set_index("case_id")["oncotree_code"]
    ours = lung.set_index("patient_id")["project"]
    assert (ours.reindex(paper.index) == paper).all()
    colon = patients[patients["project"].isin(["COAD", "READ"])]
    made = outcome_of(Classification(name="m", kind="classification", target="msi_high", positive="1"), colon)
    assert 400 <= len(made) <= 459 and made.y.sum() > 40
    breast = patients[patients["project"] == "BRCA"]
    made = outcome_of(Expression(name="pam50", kind="expression", table=out / "expression.csv"), breast)
    redacted = real[1].flow.as_dict()["steps"][-1]["excluded"]  # type: ignore[attr-defined]
    assert redacted == [{"reason": "patient redacted by TCGA", "slides": 6, "patients": 5}]
    assert made.y.shape == (990 - 3, 50)  # three of them are of BRCA, with expression
    kidney = patients[patients["project"] == "KIRC"]
    made = outcome_of(Survival(name="os", kind="survival", time="os_days", event="os_event"), kidney)
    assert made.event is not None and len(made) + len(made.excluded) == len(kidney)


def test_real_clinical_resource(shared_data: Path, tmp_path: Path) -> None:
    cdr = shared_data / "tcga" / "tcga_cdr.csv"
    everybody = pd.read_csv(cdr, dtype=str)
    folder = tmp_path / "slides"
    folder.mkdir()
    for patient in everybody["bcr_patient_barcode"]:
        (folder / f"{patient}-01Z-00-DX1.svs").touch()
    made = build_tcga(folder, cdr, out=tmp_path / "out")
    patients = made.patients
    assert len(patients) == 3305 - everybody["Redaction"].notna().sum()
    redacted = everybody["Redaction"].notna()
    times = everybody.loc[~redacted, "OS.time"].astype(float)
    assert (
        patients["os_days"].isna().sum() == times.isna().sum()
        and (patients["os_days"] == 0).sum() == (times == 0).sum()
    )
    assert everybody["OS.time"].isna().sum() == 18 and (everybody["OS.time"].astype(float) == 0).sum() == 42
    assert set(patients["stage"].dropna()) == {"I", "II", "III", "IV"}
