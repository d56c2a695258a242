"""Study tables from the files that papers published: outcomes, folds, released risks, omics, spots.

Each function reads a folder that the user names and writes tables a study file can point at; nothing is shipped.
Sources: MCAT (Chen et al., ICCV 2021), OTSurv (MICCAI 2025), PORPOISE (Chen et al., Cancer Cell 2022), hist2RNA
(Mondol et al., Cancers 2023), HER2ST (Andersson et al., Nature Communications 2021).
"""

from __future__ import annotations

import gzip
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from histostudy.cohort.folder import relative
from histostudy.cohort.released import days, events, ids, numbers, one_row, read_counts, sites, tested_in, wide
from histostudy.cohort.tables import ROW, read_table
from histostudy.cohort.tcga import collapse_stage
from histostudy.errors import TableError
from histostudy.files import atomic, write_table

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

MCAT_MODELS = {
    "SNNsm": "snn", "DSsm": "deepsets", "AMILsm": "abmil", "MIFCNsm": "deepattnmisl",
    "DSsm_concat": "deepsets_concat", "DSsm_bilinear": "deepsets_bilinear",
    "AMILsm_concat": "abmil_concat", "AMILsm_bilinear": "abmil_bilinear",
    "MIFCNsm_concat": "deepattnmisl_concat", "MIFCNsm_bilinear": "deepattnmisl_bilinear", "MCATsm": "mcat",
}  # fmt: skip
#: Suffixes of the omics columns of MCAT and PORPOISE, and the table each becomes.
OMICS = {"_rnaseq": "rna", "_cnv": "cnv", "_mut": "mut"}
#: HER2ST: scale of the images, um a pixel, and distance of neighbouring spots.
HER2ST_MPP, SPOT_PITCH_UM = 0.69, 200.0


def build_mcat(source: str | Path, out: str | Path) -> None:
    """MCAT's released out-of-fold risks of eleven models in five cancers, and the genomics of three of them.

    Writes ``patients.csv`` (patient_id, cancer, site, fold, os_days, os_event), ``predictions/<model>.csv``
    (patient_id, fold, risk) and, for each cancer with a genomic table, ``<cancer>/patients.csv`` (its patients, with
    age, sex and histology), ``<cancer>/genomics.csv`` and ``<cancer>/groups.csv`` (group, column: the functional
    groups of ``signatures.csv``; a gene may be in several, one in none is left out of all).

    Parameters
    ----------
    source : str or Path
        Holds ``published_risks.csv.gz`` and, for the genomics, ``tcga_<cancer>_all_clean.csv.zip``,
        ``signatures.csv`` and ``splits/tcga_<cancer>/splits_<k>.csv``.
    out : str or Path
        Folder of the tables.

    Raises
    ------
    TableError
        If models disagree about a patient, a patient is in two cancers, or the genomics are of other patients, folds
        or outcomes than the risks.
    """
    import pandas as pd

    source, out = Path(source), Path(out)
    path = source / "published_risks.csv.gz"
    risks = ids(read_table(path, ("model", "cohort", "fold", "patient_id", "risk", "os_months", "censored")), path)
    for column in ("risk", "os_months", "fold"):
        numbers(risks, column, path)
    if unknown := sorted(set(risks["model"]) - set(MCAT_MODELS)):
        raise TableError(f"no model {unknown[0]!r} in MCAT's table", where=path, todo="use the released risks")
    facts = ["patient_id", "cohort", "fold", "os_months", "censored"]
    patients = one_row(risks[[*facts, ROW]], path)
    patients = pd.DataFrame({
        "patient_id": patients["patient_id"], "cancer": patients["cohort"], "site": sites(patients["patient_id"]),
        "fold": patients["fold"], "os_days": days(patients["os_months"]),
        "os_event": events(patients, "censored", path),
    })  # fmt: skip
    write_table(out / "patients.csv", patients)
    for name, frame in risks.groupby("model"):
        if frame["patient_id"].duplicated().any() or len(frame) != len(patients):
            raise TableError(f"{name} does not predict each patient once", where=path, todo="use the released risks")
        frame = frame.sort_values("patient_id")[["patient_id", "fold", "risk"]]
        write_table(out / "predictions" / f"{MCAT_MODELS[str(name)]}.csv", frame)
    for cancer in sorted(set(patients["cancer"])):
        table = source / f"tcga_{cancer}_all_clean.csv.zip"
        if table.is_file():
            _genomics(source, table, cancer, patients, out / cancer)
    logger.info("%s: %d patients, %d models", out, len(patients), risks["model"].nunique())


def _genomics(source: Path, path: Path, cancer: str, patients: pd.DataFrame, out: Path) -> None:
    """Genomics, groups and patients of one of MCAT's cancers."""
    clinical, omics = _clean_table(path)
    clinical = clinical.merge(tested_in(source / "splits" / f"tcga_{cancer}"), on="patient_id", how="left")
    known = patients[patients["cancer"] == cancer].reset_index(drop=True)
    for column in ("patient_id", "fold", "os_days", "os_event"):
        if clinical[column].tolist() != known[column].tolist():
            raise TableError(
                f"{column} differs from the released risks", where=path, todo="use tables and risks of one release"
            )
    write_table(out / "patients.csv", known.merge(clinical[["patient_id", "age", "sex", "histology"]], on="patient_id"))
    write_table(out / "genomics.csv", omics)
    _write_groups(out / "groups.csv", _signatures(source), omics.columns[1:], source / "signatures.csv")


def _signatures(source: Path) -> dict[str, set[str]]:
    """Genes of each functional group of ``signatures.csv``, a column a group."""
    table = read_table(source / "signatures.csv")
    return {str(c): set(table[c].dropna()) for c in table.columns.drop(ROW)}


def _write_groups(path: Path, groups: Mapping[str, set[str]], columns: Sequence[str], source: Path) -> None:
    import pandas as pd

    rows = [(group, c) for group, genes in groups.items() for c in sorted(columns) if c.rsplit("_", 1)[0] in genes]
    if not rows:
        raise TableError("no gene of these groups has a column", where=source, todo="columns are named <gene>_rnaseq")
    write_table(path, pd.DataFrame(rows, columns=["group", "column"]))


def build_porpoise(source: str | Path, out: str | Path, cohort: str) -> None:
    """Omics, outcomes and the five published folds of a cohort of PORPOISE.

    Writes ``patients.csv`` (patient_id, site, age, sex, histology, fold, os_days, os_event), ``rna.csv``, ``cnv.csv``
    and ``mut.csv`` (patient_id and columns named ``<gene>_<kind>``) as far as the cohort has them, each with its
    ``<kind>_groups.csv`` (group, column), and ``folds.csv`` (repeat, fold, patient_id, part; the part that they call
    val is tested).

    Parameters
    ----------
    source : str or Path
        Holds ``tcga_<cohort>_all_clean.csv.zip``, ``signatures.csv`` and ``splits/tcga_<cohort>/splits_<k>.csv``.
    out : str or Path
        Folder of the tables.
    cohort : str
        Such as ``kirc``.

    Raises
    ------
    TableError
        If rows of one patient differ, or the folds are not of these patients.
    """
    import pandas as pd

    source, out, cohort = Path(source), Path(out), cohort.lower()
    path = source / f"tcga_{cohort}_all_clean.csv.zip"
    patients, omics = _clean_table(path)
    folder = source / "splits" / f"tcga_{cohort}"
    tested = tested_in(folder)
    if sorted(tested["patient_id"]) != patients["patient_id"].tolist():
        raise TableError(f"its folds are not of the patients of {path.name}", where=folder, todo="use one release")
    patients = patients.merge(tested, on="patient_id")
    write_table(out / "patients.csv", patients)
    for suffix, name in OMICS.items():
        columns = [c for c in omics.columns if c.endswith(suffix)]
        if columns:
            write_table(out / f"{name}.csv", omics[["patient_id", *columns]])
            _write_groups(out / f"{name}_groups.csv", _signatures(source), columns, source / "signatures.csv")
    parts = [
        patients[["patient_id"]].assign(fold=k, part=np.where(patients["fold"] == k, "test", "train"))
        for k in sorted(set(patients["fold"]))
    ]
    folds = pd.concat(parts, ignore_index=True).assign(repeat=0)
    write_table(out / "folds.csv", folds[["repeat", "fold", "patient_id", "part"]])
    logger.info("%s: %d patients of %s", out, len(patients), cohort)


def build_otsurv(source: str | Path, out: str | Path) -> None:
    """OTSurv's released out-of-fold risks of disease-specific survival, with age, sex and stage.

    Writes ``patients.csv`` (patient_id, cancer, site, fold, age, sex, stage, dss_days, dss_event, os_days, os_event)
    and ``predictions/otsurv.csv`` (patient_id, fold, risk). Stage is 1 to 4, the higher of the pathologic and the
    clinical one, letters dropped; STAD has neither covariates nor overall survival.

    Parameters
    ----------
    source : str or Path
        Holds ``published_risks.csv`` and ``patients_and_folds.csv``.
    out : str or Path
        Folder of the tables.

    Raises
    ------
    TableError
        If rows of one patient differ, a patient is in two cohorts, or the two files are of other patients.
    """
    import pandas as pd

    source, out = Path(source), Path(out)
    path, risk_path = source / "patients_and_folds.csv", source / "published_risks.csv"
    stages, age = ["ajcc_pathologic_tumor_stage", "clinical_stage"], "age_at_initial_pathologic_diagnosis"
    outcomes = ["dss_survival_days", "dss_censorship", "os_survival_days", "os_censorship"]
    table = read_table(path, ["cohort", "test_fold", "case_id", age, "sex", *stages, *outcomes])
    table = ids(table.rename(columns={"case_id": "patient_id"}), path)
    table = one_row(table.drop(columns="slide_id", errors="ignore"), path)
    for column in (age, "dss_survival_days", "os_survival_days"):
        numbers(table, column, path)
    levels = {None: np.nan, "I": 1.0, "II": 2.0, "III": 3.0, "IV": 4.0}
    stage = pd.DataFrame({c: [levels[collapse_stage(cell)] for cell in table[c]] for c in stages}).max(axis=1)
    patients = pd.DataFrame({
        "patient_id": table["patient_id"], "cancer": table["cohort"], "site": sites(table["patient_id"]),
        "fold": table["test_fold"], "age": table[age], "sex": table["sex"].map({"F": "female", "M": "male"}),
        "stage": stage.astype("Int64"),
        "dss_days": table["dss_survival_days"], "dss_event": events(table, "dss_censorship", path),
        "os_days": table["os_survival_days"], "os_event": events(table, "os_censorship", path),
    })  # fmt: skip
    risks = read_table(risk_path, ("fold", "sample_id", "risk")).rename(columns={"sample_id": "patient_id"})
    numbers(risks, "risk", risk_path)
    risks = risks.sort_values("patient_id", ignore_index=True)
    for column in ("patient_id", "fold"):
        if risks[column].tolist() != patients[column].tolist():
            raise TableError(f"not each {column} of {path.name} once", where=risk_path, todo="use one release of both")
    write_table(out / "patients.csv", patients)
    write_table(out / "predictions" / "otsurv.csv", risks[["patient_id", "fold", "risk"]])
    logger.info("%s: %d patients", out, len(patients))


def build_hist2rna(source: str | Path, out: str | Path) -> None:
    """Measured expression of the PAM50 genes in TCGA-BRCA, and hist2RNA's released prediction.

    Writes ``patients.csv`` (patient_id, site, released), ``expression.csv`` (patient_id and genes, linear RSEM: a task
    takes log2(1 + x)) and, where it is there, ``predictions/hist2rna.csv`` (patient_id, pred_<gene>, log2 scale).
    What the authors released is the output of their example of five patients (`released` = 1), not of the paper's
    test set: a worked example, and no evidence about the method.

    Parameters
    ----------
    source : str or Path
        Holds ``pam50_gene_expression.csv`` and ``published_results/predicted_gene_expressions.csv``.
    out : str or Path
        Folder of the tables.

    Raises
    ------
    TableError
        If a patient is there twice, or the prediction is of other patients or genes.
    """
    import pandas as pd

    source, out = Path(source), Path(out)
    path = source / "pam50_gene_expression.csv"
    expression = wide(path, "PATIENT_ID")
    columns = list(expression.columns)
    patients = pd.DataFrame({"patient_id": expression["patient_id"], "site": sites(expression["patient_id"])})
    released = source / "published_results" / "predicted_gene_expressions.csv"
    predicted = wide(released, None) if released.is_file() else expression.iloc[:0]
    for what, odd in (
        ("gene", sorted(set(predicted.columns) ^ set(columns))),
        ("patient", sorted(set(predicted["patient_id"]) - set(expression["patient_id"]))),
    ):
        if odd:
            raise TableError(f"{what} {odd[0]} is not in both", where=released, todo=f"compare with {path.name}")
    patients["released"] = patients["patient_id"].isin(predicted["patient_id"]).astype(int)
    write_table(out / "patients.csv", patients)
    write_table(out / "expression.csv", expression)
    if len(predicted):
        predicted = predicted[columns].rename(columns=lambda c: c if c == "patient_id" else f"pred_{c}")
        write_table(out / "predictions" / "hist2rna.csv", predicted)
    logger.info("%s: %d patients, %d of them predicted", out, len(expression), len(predicted))


def build_her2st(source: str | Path, out: str | Path, *, min_share: float = 0.1) -> None:
    """Spots of the HER2ST sections and their counts.

    Writes ``slides.csv`` (slide_id, patient_id, path, mpp), ``patients.csv`` (patient_id, fold), ``spots.csv``
    (spot_id, slide_id, x_px0, y_px0: centre, total: counts of all genes) and ``spot_expression.csv.gz`` (spot_id and
    genes, raw counts). The sections are of one patient: here each is a "patient", its number the fold that tests it,
    and what is learned need not hold for another patient. Spots without counts are left out.

    Parameters
    ----------
    source : str or Path
        Holds ``slides/her2st/HER2ST-<section>.svs``, ``her2st/spots/<section>_selection.tsv`` and
        ``her2st/counts/<section>.tsv.gz``.
    out : str or Path
        Folder of the tables.
    min_share : float
        Genes are kept that are in the table of every section and found in this share of the spots.

    Raises
    ------
    TableError
        If a file is missing, a count is none, or the spots do not fit the scale of the images.
    """
    import pandas as pd

    source, out = Path(source), Path(out)
    found = {
        m.group(1): p for p in sorted(source.glob("slides/her2st/*")) if (m := re.match(r"HER2ST-(\w+)\.", p.name))
    }
    if not found:
        raise TableError("no HER2ST-<section>.svs", where=source / "slides" / "her2st", todo="check the folder")
    spots, counts = [], []
    for section, slide in found.items():
        one, values = _section(source / "her2st", section, slide.stem)
        spots.append(one)
        counts.append(values)
    shared = [g for g in counts[0].columns if all(g in other.columns for other in counts[1:])]
    genes = pd.concat([values[shared] for values in counts], ignore_index=True)
    genes = genes.loc[:, (genes.to_numpy() > 0).mean(0) >= min_share]
    if genes.empty:
        raise TableError(f"no gene is found in {min_share:.0%} of the spots", where=source, todo="lower `min_share`")
    table = pd.concat(spots, ignore_index=True)
    slides = pd.DataFrame({
        "slide_id": [p.stem for p in found.values()], "patient_id": list(found),
        "path": [relative(p, out / "slides.csv") for p in found.values()], "mpp": HER2ST_MPP,
    })  # fmt: skip
    write_table(out / "slides.csv", slides)
    write_table(out / "patients.csv", pd.DataFrame({"patient_id": list(found), "fold": range(len(found))}))
    write_table(out / "spots.csv", table)
    lines = [",".join(["spot_id", *genes.columns])]
    lines += [
        f"{spot}," + ",".join(map(str, row))
        for spot, row in zip(table["spot_id"], genes.to_numpy().tolist(), strict=True)
    ]
    with atomic(out / "spot_expression.csv.gz") as temporary:  # without a time: the same bytes at every run
        temporary.write_bytes(gzip.compress("\n".join([*lines, ""]).encode(), 6, mtime=0))
    logger.info("%s: %d spots, %d of %d genes", out, len(table), genes.shape[1], len(shared))


def _section(folder: Path, section: str, slide_id: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Spots of a section that have counts, and the counts, row for row."""
    path, count_path = folder / "spots" / f"{section}_selection.tsv", folder / "counts" / f"{section}.tsv.gz"
    spots = read_table(path, ("x", "y", "new_x", "new_y", "pixel_x", "pixel_y", "selected"))
    spots = spots[spots["selected"] == "1"].reset_index(drop=True)
    for axis in "xy":
        values = {c: numbers(spots, f"{c}_{axis}", path).to_numpy(float) for c in ("new", "pixel")}
        mpp = SPOT_PITCH_UM / np.polyfit(values["new"], values["pixel"], 1)[0]
        if abs(mpp / HER2ST_MPP - 1) > 0.02:
            raise TableError(
                f"spots are {mpp:.3f} um a pixel apart, not {HER2ST_MPP}",
                where=path,
                todo="use the spots of these images",
            )
    counts = read_counts(count_path)
    name = spots["x"] + "x" + spots["y"]
    has = name.isin(counts.index)
    if not has.any():
        raise TableError("no spot of this table has counts", where=path, todo=f"compare with {count_path.name}")
    if not has.all():
        logger.info("%s: %d of %d spots have no counts", section, int((~has).sum()), len(has))
    spots, counts = spots[has], counts.loc[name[has]]
    out = spots.assign(spot_id=f"{slide_id}@" + name[has], slide_id=slide_id, total=counts.sum(axis=1).to_numpy())
    out = out.rename(columns={"pixel_x": "x_px0", "pixel_y": "y_px0"})
    return out[["spot_id", "slide_id", "x_px0", "y_px0", "total"]], counts


def _clean_table(path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A ``tcga_<cancer>_all_clean`` table, of slides, as patients (clinical columns) and omics, one row a patient."""
    import pandas as pd

    table = wide(path, "case_id", unique=False, suffixes=tuple(OMICS))
    needed = ["age", "is_female", "oncotree_code", "survival_months", "censorship"]
    for column in needed:
        if column not in table:
            raise TableError(f"no column {column!r}", where=path, todo="use the released table")
    omics = [c for c in table.columns if c.endswith(tuple(OMICS))]
    if not omics:
        raise TableError("no column of omics", where=path, todo="columns are named <gene>_rnaseq, _cnv or _mut")
    table = one_row(table[["patient_id", *needed, *omics]], path)
    sex = table["is_female"].map({1: "female", 0: "male"})
    patients = pd.DataFrame({
        "patient_id": table["patient_id"], "site": sites(table["patient_id"]), "age": table["age"], "sex": sex,
        "histology": table["oncotree_code"], "os_days": days(table["survival_months"]),
        "os_event": events(table, "censorship", path),
    })  # fmt: skip
    return patients, table[["patient_id", *omics]]


def build_published(name: str, source: str | Path, out: str | Path, cohort: str | None = None) -> None:
    """Prepare the tables of a paper by its name.

    Raises
    ------
    TableError
        If no paper has this name, or porpoise is given no cohort.
    """
    builders = {"mcat": build_mcat, "otsurv": build_otsurv, "hist2rna": build_hist2rna, "her2st": build_her2st}
    if name == "porpoise":
        if cohort is None:
            raise TableError("porpoise has several cohorts", todo="name one with --cohort, such as brca")
        build_porpoise(source, out, cohort)
        return
    if name not in builders:
        raise TableError(f"no paper {name!r}", todo=f"one of {', '.join([*builders, 'porpoise'])}")
    builders[name](source, out)
