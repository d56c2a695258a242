"""Tables of published studies: the numbers they printed come out of them."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from histostudy.cohort.outcomes import outcome_of
from histostudy.cohort.papers import build_her2st, build_hist2rna, build_mcat, build_otsurv, build_porpoise
from histostudy.cohort.released import read_counts
from histostudy.cohort.tables import read_patients
from histostudy.errors import TableError
from histostudy.tasks import Survival

#: Harrell's c of MCAT's Table 1 (mean over five folds): the released risks give 51 of the 55 cells.
CANCERS = ["blca", "brca", "gbmlgg", "luad", "ucec"]
MCAT = {
    "snn": [0.541, 0.466, 0.598, 0.539, 0.493], "deepsets": [0.500, 0.500, 0.498, 0.496, 0.500],
    "abmil": [0.536, 0.564, 0.787, 0.559, 0.625], "deepattnmisl": [0.504, 0.524, 0.734, 0.548, 0.597],
    "deepsets_concat": [0.604, 0.521, 0.803, 0.616, 0.598], "deepsets_bilinear": [0.589, 0.522, 0.809, 0.558, 0.593],
    "abmil_concat": [0.605, 0.551, 0.816, 0.563, 0.614], "abmil_bilinear": [0.567, 0.536, 0.812, 0.578, 0.562],
    "deepattnmisl_concat": [0.611, 0.545, 0.805, 0.595, 0.615],
    "deepattnmisl_bilinear": [0.575, 0.577, 0.813, 0.551, 0.586], "mcat": [0.624, 0.580, 0.817, 0.620, 0.622],
}  # fmt: skip
#: What the four other cells give. Released risks are rounded to seven digits, where saturated models (risk near -4)
#: tie; the printed value lies within what breaking those ties can give.
OFF = {
    ("deepsets", "luad"): 0.497, ("abmil_concat", "brca"): 0.552, ("deepattnmisl_concat", "brca"): 0.543,
    ("deepattnmisl_bilinear", "brca"): 0.574,
}  # fmt: skip
MCAT_SIZES = {"blca": (373, 169), "brca": (956, 130), "gbmlgg": (569, 187), "luad": (453, 158), "ucec": (480, 75)}
#: n, events, c of OTSurv, c of age, sex and stage.
OTSURV = {
    "BLCA": (359, 113, 0.637, 0.675), "BRCA": (868, 60, 0.621, 0.752), "COADREAD": (296, 37, 0.667, 0.700),
    "KIRC": (340, 58, 0.750, 0.855), "LUAD": (412, 99, 0.638, 0.664), "STAD": (318, 84, 0.565, None),
}  # fmt: skip


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype={"patient_id": str})


def fold_mean(table: pd.DataFrame, time: str, event: str, risk: str = "risk") -> float:
    from sksurv.metrics import concordance_index_censored as c

    folds = [c(f[event] == 1, f[time], f[risk], tied_tol=1e-8)[0] for _, f in table.groupby("fold")]
    assert len(folds) == 5
    return float(np.mean(folds))


def tie_bounds(folder: Path, patients: pd.DataFrame, model: str, cancer: str) -> tuple[float, float]:
    """Fold means of c if every pair of tied risks were discordant, or concordant."""
    from sksurv.metrics import concordance_index_censored as c

    table = read(folder / "predictions" / f"{model}.csv").merge(patients, on=["patient_id", "fold"])
    mine = table[table["cancer"] == cancer].groupby("fold")
    counts = np.array([c(f["os_event"] == 1, f["os_days"], f["risk"], tied_tol=1e-8)[1:4] for _, f in mine])
    right, total = counts[:, 0], counts.sum(1)
    return float((right / total).mean()), float(((right + counts[:, 2]) / total).mean())


@pytest.fixture(scope="module")
def mcat(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mcat")
    build_mcat(shared_data / "papers" / "mcat", out)
    return out


def test_mcat_gives_all_cells_of_its_table(mcat: Path) -> None:
    patients = read(mcat / "patients.csv")
    assert len(patients) == 2831 and patients["patient_id"].is_unique
    assert patients.groupby("cancer")["os_event"].agg(["size", "sum"]).apply(tuple, axis=1).to_dict() == MCAT_SIZES
    assert sorted(p.stem for p in (mcat / "predictions").iterdir()) == sorted(MCAT)
    found = {}
    for model in MCAT:
        table = read(mcat / "predictions" / f"{model}.csv").merge(patients, on=["patient_id", "fold"], validate="1:1")
        assert len(table) == 2831
        found[model] = [fold_mean(table[table["cancer"] == c], "os_days", "os_event") for c in CANCERS]
    found = {model: np.round(values, 3).tolist() for model, values in found.items()}
    odd = {(m, c): v for m in MCAT for c, v, t in zip(CANCERS, found[m], MCAT[m], strict=True) if v != t}
    assert odd == OFF
    for (model, cancer), _ in OFF.items():
        low, high = tie_bounds(mcat, patients, model, cancer)
        assert low < MCAT[model][CANCERS.index(cancer)] < high


def test_mcat_genomics_are_of_the_published_folds(mcat: Path, shared_data: Path) -> None:
    source = shared_data / "papers" / "mcat"
    patients = read(mcat / "patients.csv").set_index("patient_id")
    for cancer, rna, cnv in (("blca", 2814, 248), ("luad", 2812, 284), ("ucec", 0, 123)):
        genomics, mine = read(mcat / cancer / "genomics.csv"), read(mcat / cancer / "patients.csv")
        assert genomics["patient_id"].tolist() == mine["patient_id"].tolist() and len(mine) == MCAT_SIZES[cancer][0]
        assert sum(c.endswith("_rnaseq") for c in genomics) == rna and sum(c.endswith("_cnv") for c in genomics) == cnv
        assert genomics.notna().all(axis=None)
        for k in range(5):
            tested = pd.read_csv(source / "splits" / f"tcga_{cancer}" / f"splits_{k}.csv")["val"].dropna()
            assert set(mine.loc[mine["fold"] == k, "patient_id"]) == set(tested)
        assert mine["fold"].tolist() == patients.loc[mine["patient_id"], "fold"].tolist()
        groups = read(mcat / cancer / "groups.csv")
        assert groups["group"].nunique() == 6 and set(groups["column"]) <= set(genomics.columns)
    sizes = read(mcat / "blca" / "groups.csv").groupby("group", sort=False).size().tolist()
    assert sizes == [94, 334, 521, 468, 1496, 479]


def test_outcomes_are_read_as_any_other(mcat: Path) -> None:
    task = Survival(name="os", kind="survival", time="os_days", event="os_event")
    outcome = outcome_of(task, read_patients(mcat / "blca" / "patients.csv"))
    assert len(outcome.patient_ids) == 373 and outcome.time is not None
    # 24.11 months, exactly
    assert outcome.time[list(outcome.patient_ids).index("TCGA-2F-A9KO")] == 24.11 * 30.4375


@pytest.fixture(scope="module")
def otsurv(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("otsurv")
    build_otsurv(shared_data / "papers" / "otsurv", out)
    return out


def test_otsurv_gives_its_table(otsurv: Path) -> None:
    patients = read(otsurv / "patients.csv")
    assert len(patients) == 2593 and patients["patient_id"].is_unique
    assert set(patients["stage"].dropna()) == {1, 2, 3, 4} and set(patients["sex"].dropna()) == {"female", "male"}
    table = read(otsurv / "predictions" / "otsurv.csv").merge(patients, on=["patient_id", "fold"], validate="1:1")
    for cancer, (n, events, c, _) in OTSURV.items():
        mine = table[table["cancer"] == cancer]
        assert (len(mine), mine["dss_event"].sum()) == (n, events)
        found = fold_mean(mine, "dss_days", "dss_event")
        # KIRC is printed .750, the released risks (without a tie) give .7505
        assert round(found, 3) == c or (cancer == "KIRC" and round(found, 4) == 0.7505)
    # folds keep sites apart
    assert table.groupby(["cancer", "site"])["fold"].nunique().max() == 1


@pytest.mark.parametrize("cancer", [c for c in OTSURV if OTSURV[c][3]])
def test_age_sex_and_stage_predict_as_the_notes_say(otsurv: Path, cancer: str) -> None:
    from histostudy.training.controls import clinical_run
    from histostudy.training.guard import TestPart

    task = Survival(name="dss", kind="survival", time="dss_days", event="dss_event", adjust=["age", "sex", "stage"])
    patients = read_patients(otsurv / "patients.csv")
    patients = patients[patients["cancer"] == cancer].reset_index(drop=True)
    outcome = outcome_of(task, patients)
    fold = patients.set_index("patient_id")["fold"]
    parts = []
    for k in sorted(set(fold)):
        test = TestPart(outcome, fold.index[fold == k].tolist())
        frame = clinical_run(outcome, fold.index[fold != k].tolist(), test, seed=0).predictions
        parts.append(frame.assign(fold=int(k)))
    assert round(fold_mean(pd.concat(parts), "time", "event"), 3) == OTSURV[cancer][3]


def test_hist2rna(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "tcga" / "hist2rna"
    build_hist2rna(source, tmp_path)
    patients, expression = read(tmp_path / "patients.csv"), read(tmp_path / "expression.csv")
    assert expression.shape == (1093, 51) and patients["patient_id"].tolist() == expression["patient_id"].tolist()
    predicted = read(tmp_path / "predictions" / "hist2rna.csv")
    assert predicted.shape == (5, 51) and patients["released"].sum() == 5
    # the table is linear: log2(1 + x) of it is the truth that they released beside their prediction
    truth = pd.read_csv(source / "published_results" / "true_gene_expressions.csv", index_col=0)
    mine = np.log2(1 + expression.set_index("patient_id").loc[truth.index, truth.columns])
    np.testing.assert_allclose(mine, truth, atol=1e-4)
    released = pd.read_csv(source / "published_results" / "test_result_across_patient.csv", skiprows=5).iloc[:, 0]
    ranks = predicted.set_index("patient_id").loc[truth.index].set_axis(truth.columns, axis=1)
    across = [ranks.loc[p].corr(truth.loc[p], method="spearman") for p in truth.index]
    np.testing.assert_allclose(across, released, atol=1e-3)


def test_her2st(shared_data: Path, tmp_path: Path) -> None:
    import openslide

    build_her2st(shared_data, tmp_path, min_share=0.5)
    slides, spots = read(tmp_path / "slides.csv"), read(tmp_path / "spots.csv")
    genes = pd.read_csv(tmp_path / "spot_expression.csv.gz")
    assert slides["slide_id"].tolist() == ["HER2ST-C2", "HER2ST-C3", "HER2ST-C4"]
    assert spots.groupby("slide_id").size().tolist() == [187, 180, 184]
    for row in slides.itertuples():
        slide = openslide.OpenSlide((tmp_path / str(row.path)).resolve())
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(row.mpp)
        mine = spots[spots["slide_id"] == row.slide_id]
        assert (
            mine["x_px0"].between(0, slide.dimensions[0]).all() and mine["y_px0"].between(0, slide.dimensions[1]).all()
        )
    assert genes["spot_id"].tolist() == spots["spot_id"].tolist() and genes.shape[1] > 1500
    values = genes.drop(columns="spot_id").to_numpy()
    assert values.dtype.kind == "i" and ((values > 0).mean(0) >= 0.5).all()
    with gzip.open(shared_data / "her2st" / "counts" / "C2.tsv.gz", "rt") as stream:
        header, row = next(stream).rstrip("\n").split("\t")[1:], next(stream).rstrip("\n").split("\t")
    count = dict(zip(header, map(int, row[1:]), strict=True))
    mine = genes.set_index("spot_id").loc[f"HER2ST-C2@{row[0]}"]
    assert all(mine[g] == count[g] for g in genes.columns[1:])
    assert spots.set_index("spot_id").loc[f"HER2ST-C2@{row[0]}", "total"] == sum(count.values())


def test_porpoise(shared_data: Path, tmp_path: Path) -> None:
    build_porpoise(shared_data / "tcga" / "porpoise", tmp_path, "kirc")
    patients, folds = read(tmp_path / "patients.csv"), read(tmp_path / "folds.csv")
    assert len(patients) == 345 and patients["sex"].isna().sum() == 1
    for name, columns in (("rna", 1556), ("cnv", 937), ("mut", 10)):
        table = read(tmp_path / f"{name}.csv")
        assert table.shape == (345, columns + 1) and table["patient_id"].tolist() == patients["patient_id"].tolist()
    assert len(folds) == 5 * 345 and folds.groupby("patient_id")["part"].agg(lambda p: (p == "test").sum()).eq(1).all()
    from histostudy.splits.published import read_published

    splits = read_published(tmp_path / "folds.csv", patients)
    assert splits.groupby("fold")["part"].agg(lambda p: (p == "test").sum()).tolist() == [69] * 5


# what follows needs no data


def small_mcat(folder: Path) -> pd.DataFrame:
    risks = pd.DataFrame({
        "model": ["SNNsm"] * 4 + ["MCATsm"] * 4, "cohort": "blca", "fold": [0, 0, 1, 1] * 2,
        "patient_id": ["TCGA-2F-000" + c for c in "1234"] * 2, "risk": np.linspace(-2, 0, 8),
        "os_months": [24.11, 1, 2.5, 300] * 2, "censored": [0, 1, 0, 1] * 2,
    })  # fmt: skip
    folder.mkdir(exist_ok=True)
    risks.to_csv(folder / "published_risks.csv.gz", index=False)
    return risks


def add_genomics(folder: Path) -> pd.DataFrame:
    table = pd.DataFrame({
        "Unnamed: 0": range(5), "case_id": ["TCGA-2F-000" + c for c in "11234"], "slide_id": list("abcde"),
        "is_female": [1, 1, 0, 0, None], "oncotree_code": "BLCA", "age": [50, 50, 60, None, 70],
        "survival_months": [24.11, 24.11, 1, 2.5, 300], "censorship": [0, 0, 1, 0, 1],
        "TP53_mut": [1, 1, 0, 0, 1], "AKT1_cnv": [0, 0, -1, 2, 0], "TP53_rnaseq": [0.5, 0.5, 1, -1, 0], "XX_cnv": 0,
    })  # fmt: skip
    table.to_csv(folder / "tcga_blca_all_clean.csv.zip", index=False)
    pd.DataFrame({"Suppressors": ["TP53", "APC"], "Kinases": ["AKT1", None]}).to_csv(
        folder / "signatures.csv", index=False
    )
    splits = folder / "splits" / "tcga_blca"
    splits.mkdir(parents=True)
    ids = [f"TCGA-2F-000{c}" for c in "1234"]
    for k, tested in enumerate((ids[:2], ids[2:])):
        rest = [i for i in ids if i not in tested]
        pd.DataFrame({"train": rest, "val": tested}).to_csv(splits / f"splits_{k}.csv")
    return table


def test_small_mcat(tmp_path: Path) -> None:
    small_mcat(tmp_path / "in")
    add_genomics(tmp_path / "in")
    build_mcat(tmp_path / "in", tmp_path / "out")
    patients = (tmp_path / "out" / "patients.csv").read_text().splitlines()
    assert patients[:2] == ["patient_id,cancer,site,fold,os_days,os_event", "TCGA-2F-0001,blca,2F,0,733.848125,1"]
    out = tmp_path / "out" / "blca"
    genomics = read(out / "genomics.csv")
    assert genomics.columns.tolist() == ["patient_id", "TP53_mut", "AKT1_cnv", "TP53_rnaseq", "XX_cnv"]
    assert len(genomics) == 4  # two slides of one patient
    assert read(out / "groups.csv").to_numpy().tolist() == [
        ["Suppressors", "TP53_mut"], ["Suppressors", "TP53_rnaseq"], ["Kinases", "AKT1_cnv"],
    ]  # fmt: skip
    assert read(out / "patients.csv")["sex"].tolist()[:3] == ["female", "male", "male"]


@pytest.mark.parametrize(
    ("column", "row", "value", "message"),
    [
        ("cohort", 4, "brca", "column cohort: two values for patient TCGA-2F-0001"),
        ("censored", 4, 1, "column censored: two values for patient TCGA-2F-0001"),
        ("risk", 2, "high", "row 4 column risk: 'high' is not a number"),
        ("model", 0, "XX", "no model 'XX'"),
        ("patient_id", 3, "TCGA-2F-0003", "two values for patient TCGA-2F-0003"),
        ("patient_id", 3, "../x", "cannot be a patient_id"),
    ],
)  # fmt: skip
def test_bad_risks(tmp_path: Path, column: str, row: int, value: object, message: str) -> None:
    risks = small_mcat(tmp_path).astype({column: object})
    risks.loc[row, column] = value
    risks.to_csv(tmp_path / "published_risks.csv.gz", index=False)
    with pytest.raises(TableError, match=message) as error:
        build_mcat(tmp_path, tmp_path / "out")
    assert "\n" not in str(error.value)


def test_bad_genomics(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="no such file"):
        build_mcat(tmp_path, tmp_path / "out")
    small_mcat(tmp_path)
    table = add_genomics(tmp_path)
    path, fold = tmp_path / "tcga_blca_all_clean.csv.zip", tmp_path / "splits" / "tcga_blca" / "splits_0.csv"
    table.assign(TP53_mut=[1, 0, 0, 0, 1]).to_csv(path, index=False)
    with pytest.raises(TableError, match="column TP53_mut: two values for patient TCGA-2F-0001"):
        build_mcat(tmp_path, tmp_path / "out")
    table.assign(survival_months=[9, 9, 1, 2.5, 300]).to_csv(path, index=False)
    with pytest.raises(TableError, match="os_days differs"):
        build_mcat(tmp_path, tmp_path / "out")
    table.assign(AKT1_cnv=["a", "b", "c", "d", "e"]).to_csv(path, index=False)
    with pytest.raises(TableError, match="column AKT1_cnv: not all cells are numbers"):
        build_mcat(tmp_path, tmp_path / "out")
    table.to_csv(path, index=False)
    fold.write_text("train,val\nTCGA-2F-0001,TCGA-2F-0001\n")
    with pytest.raises(TableError, match="TCGA-2F-0001 is in train and in val"):
        build_mcat(tmp_path, tmp_path / "out")
    fold.write_text("train,val\nTCGA-2F-0003,TCGA-2F-0001\n")
    with pytest.raises(TableError, match="fold differs"):
        build_mcat(tmp_path, tmp_path / "out")
    with pytest.raises(TableError, match="not of the patients"):
        build_porpoise(tmp_path, tmp_path / "out", "blca")


def test_bad_counts(tmp_path: Path) -> None:
    path = tmp_path / "counts.tsv"
    for text, message in (
        ("\tA\tB\n1x1\t1\t2.5\n", "no whole number"), ("\tA\tB\n1x1\t1\n", "short"),
        ("\tA\tA\n1x1\t1\t2\n", "gene"), ("\tA\tB\n1x1\t1\t-1\n", "negative"), ("", "gene"),
        ("\tA\tB\n1x1\t1\t2\n1x2\t1\n", "short"),
    ):  # fmt: skip
        path.write_text(text)
        with pytest.raises(TableError, match=message):
            read_counts(path)
    path.write_text("\tA\tB\n1x1\t1\t2\n")
    assert read_counts(path).loc["1x1"].to_dict() == {"A": 1, "B": 2}


def test_other_bad_folders(tmp_path: Path) -> None:
    for build in (build_otsurv, build_hist2rna, build_her2st):
        with pytest.raises(TableError) as error:
            build(tmp_path, tmp_path / "out")
        assert "\n" not in str(error.value)
    (tmp_path / "pam50_gene_expression.csv").write_text("PATIENT_ID,A\nTCGA-3C-AAAU,1\nTCGA-3C-AAAU,2\n")
    with pytest.raises(TableError, match="TCGA-3C-AAAU is there twice"):
        build_hist2rna(tmp_path, tmp_path / "out")
