"""Cohorts of The Cancer Genome Atlas, from a folder of slides or features and TCGA's own tables.

The clinical resource (TCGA-CDR) is that of Liu et al., Cell 2018 (10.1016/j.cell.2018.02.052), mutations those
of cBioPortal's PanCancer Atlas studies (WT, a protein change, NS: not sequenced), molecular subtypes those of
Liu et al., Cancer Cell 2018 (10.1016/j.ccell.2018.03.010).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from histostudy.cohort.barcodes import parse_barcode
from histostudy.cohort.flow import Flow
from histostudy.cohort.folder import find_files, relative
from histostudy.cohort.tables import ROW, number, read_table
from histostudy.errors import TableError, at
from histostudy.files import write_table

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

OUTCOMES = ("OS", "DSS", "DFI", "PFI")
#: Without a list of genes: those mutated in at least this share, and number, of the sequenced patients.
MIN_MUTATED_SHARE, MIN_MUTATED = 0.05, 10


@dataclass(frozen=True)
class TcgaCohort:
    """What was built: the tables as written, and who was left out."""

    slides: pd.DataFrame
    patients: pd.DataFrame
    expression: pd.DataFrame | None
    flow: Flow


def build_tcga(
    folder: str | Path,
    cdr: str | Path,
    mutations: str | Path | None = None,
    subtypes: str | Path | None = None,
    expression: str | Path | None = None,
    genes: Sequence[str] | None = None,
    out: str | Path = ".",
    *,
    projects: Sequence[str] | None = None,
    diagnostic_only: bool = True,
) -> TcgaCohort:
    """Write ``slides.csv``, ``patients.csv``, with `expression` ``expression.csv``, and ``flow.json`` into `out`.

    Parameters
    ----------
    folder : str or Path
        Slides or features; the file names begin with slide barcodes.
    cdr : str or Path
        The clinical data resource.
    mutations, subtypes, expression : str or Path, optional
        Gene by sample; subtypes by patient; expression by patient or sample (first column).
    genes : sequence of str, optional
        Genes whose mutation becomes a column ``mut_<gene>``. Default: all that are mutated in at least 5 % (and
        10) of the cohort's sequenced patients. In `expression` all genes are kept: the task chooses.
    out : str or Path
        Folder of the tables.
    projects : sequence of str, optional
        Keep these projects (``LUAD``); default all.
    diagnostic_only : bool
        Leave out frozen sections.

    Returns
    -------
    TcgaCohort
        `patients` has `project`, `age` (years), `sex`, `race`, `stage` (I to IV), `grade`, `histology`, `year`,
        `site`, `<os|dss|dfi|pfi>_days` and `_event`, and what the other tables give (`msi_high`, `mut_TP53`).
        Cells nobody knows are empty.

    Raises
    ------
    TableError
        For a missing file or column, an outcome that is no number, a gene that the table has not, and when no
        file is named by a barcode.
    """
    import pandas as pd

    out = Path(out)
    slides, flow = _slides(Path(folder), out / "slides.csv", diagnostic_only)
    clinical, redacted = _clinical(Path(cdr))
    drop = {s: "patient redacted by TCGA" for s, p in _pairs(slides) if p in redacted}
    if projects is not None:
        project_of = dict(zip(clinical["patient_id"], clinical["project"], strict=True))
        wanted = {p.upper() for p in projects}
        unknown = wanted - set(clinical["project"])
        if unknown:
            raise TableError(
                f"no project {sorted(unknown)[0]}",
                where=at(cdr, column="type"),
                todo=f"it has {', '.join(sorted(set(clinical['project'].dropna())))}",
            )
        drop |= {s: "another project" for s, p in _pairs(slides) if project_of.get(p) not in wanted}
    flow.drop("in the cohort", drop)
    slides = slides[~slides["slide_id"].isin(drop)].reset_index(drop=True)
    if slides.empty:
        raise TableError("no slide is left", where=folder, todo="check `projects` and the folder")
    ids = sorted(set(slides["patient_id"]))
    patients = pd.DataFrame({"patient_id": pd.array(ids, dtype="str")})
    patients["site"] = [p.split("-")[1] for p in ids]
    patients = patients.merge(clinical, on="patient_id", how="left")
    lost = int(patients["project"].isna().sum())
    if lost:
        logger.warning("%d of %d patients are not in %s: their outcomes stay empty", lost, len(ids), cdr)
    if subtypes is not None:
        patients = patients.merge(_subtypes(Path(subtypes)), on="patient_id", how="left")
    if mutations is not None:
        patients = patients.merge(_mutations(Path(mutations), ids, genes), on="patient_id", how="left")
    patients = patients.dropna(axis=1, how="all")
    table = None if expression is None else _expression(Path(expression), ids)
    write_table(out / "slides.csv", slides)
    write_table(out / "patients.csv", patients)
    if table is not None:
        write_table(out / "expression.csv", table)
    flow.write(out / "flow.json")
    for step in flow.steps:
        for gone in step["excluded"]:
            logger.info("left out: %d slides, %d patients: %s", gone["slides"], gone["patients"], gone["reason"])
    logger.info("%s: %d slides of %d patients", out, len(slides), len(patients))
    return TcgaCohort(slides, patients, table, flow)


def _pairs(slides: pd.DataFrame) -> list[tuple[str, str]]:
    return list(zip(slides["slide_id"], slides["patient_id"], strict=True))


def _slides(folder: Path, table: Path, diagnostic_only: bool) -> tuple[pd.DataFrame, Flow]:
    import pandas as pd

    rows, reasons = [], {}
    for slide_id, path in find_files(folder).items():
        barcode = parse_barcode(slide_id)
        if barcode is None:
            reasons[slide_id] = "not named by a TCGA barcode"
        elif barcode.normal:
            reasons[slide_id] = "normal tissue"
        elif diagnostic_only and barcode.slide and not barcode.diagnostic:
            reasons[slide_id] = "frozen section"
        patient, site = (barcode.patient, barcode.site) if barcode else ("", "")
        rows.append((slide_id, patient, relative(path, table), site))
    slides = pd.DataFrame(rows, columns=["slide_id", "patient_id", "path", "site"])
    # a file without a barcode is a patient of his own in the flow
    everything = slides.assign(patient_id=slides["patient_id"].where(slides["patient_id"] != "", slides["slide_id"]))
    flow = Flow()
    flow.start("files", everything)
    flow.drop("tumour slides", reasons)
    slides = slides[~slides["slide_id"].isin(reasons)].reset_index(drop=True)
    if slides.empty:
        example = rows[0][0]
        raise TableError(
            f"none of {len(rows)} files is a tumour slide of TCGA (the first: {example!r}, "
            f"{next(iter(reasons.values()))})",
            where=folder,
            todo="files are named TCGA-XX-XXXX-01Z-00-DX1.<uuid>; frozen sections need `diagnostic_only` off",
        )
    return slides, flow


def collapse_stage(cell: object) -> str | None:
    """AJCC or FIGO stage as I, II, III or IV; None for X, 0, in situ and what nobody knows."""
    match = re.match(r"^stage\s+(IV|I{1,3})(?:[ABC]\d?|\d)?$", str(cell).strip(), re.IGNORECASE)
    return match.group(1).upper() if match else None


def _grade(cell: object) -> str | None:
    text = str(cell).strip()
    if re.match(r"^G[1-4]$", text, re.IGNORECASE):
        return text.upper()
    return {"low grade": "low", "high grade": "high"}.get(text.lower())


def _lower(cell: object) -> str | None:
    return cell.lower() if isinstance(cell, str) else None


def _clinical(path: Path) -> tuple[pd.DataFrame, set[str]]:
    import pandas as pd

    outcome_columns = [c for o in OUTCOMES for c in (o, f"{o}.time")]
    table = read_table(path, required=("bcr_patient_barcode", "type", *outcome_columns))
    duplicate = table["bcr_patient_barcode"].duplicated()
    if duplicate.any():
        first = table[duplicate].iloc[0]
        raise TableError(
            f"{first['bcr_patient_barcode']} is there twice",
            where=at(path, row=int(first[ROW]), column="bcr_patient_barcode"),
            todo="keep one row a patient",
        )
    out = pd.DataFrame({"patient_id": table["bcr_patient_barcode"].str.upper(), "project": table["type"]})
    plain: tuple[tuple[str, str, Callable[[object], str | None] | None], ...] = (
        ("sex", "gender", _lower),
        ("race", "race", _lower),
        ("grade", "histological_grade", _grade),
        ("histology", "histological_type", None),
    )
    if "age_at_initial_pathologic_diagnosis" in table:
        out["age"] = _numbers(table, "age_at_initial_pathologic_diagnosis", path)
    for name, column, change in plain:
        if column in table:
            cells = table[column] if change is None else [change(c) for c in table[column]]
            out[name] = pd.array(list(cells), dtype="str")
    stages = [c for c in ("ajcc_pathologic_tumor_stage", "clinical_stage") if c in table]
    if stages:
        # the clinical stage stands in where tumours are not staged by pathology (ovary, cervix, uterus)
        candidates = [[collapse_stage(c) for c in table[column]] for column in stages]
        found = [next((s for s in row if s), None) for row in zip(*candidates, strict=True)]
        out["stage"] = pd.array(found, dtype="str")
    if "initial_pathologic_dx_year" in table:
        out["year"] = _numbers(table, "initial_pathologic_dx_year", path)
    for outcome in OUTCOMES:
        days = _numbers(table, f"{outcome}.time", path)
        event = _numbers(table, outcome, path)
        negative = days < 0
        if negative.any():
            logger.warning("%s: %d negative times of %s taken as missing", path, int(negative.sum()), outcome)
        out[f"{outcome.lower()}_days"] = days.where(~negative)
        out[f"{outcome.lower()}_event"] = event
    redacted = set(out.loc[table["Redaction"].notna(), "patient_id"]) if "Redaction" in table else set()
    return out, redacted


def _numbers(table: pd.DataFrame, column: str, path: Path) -> pd.Series:
    """A text column as numbers: whole ones as Int64, so that a CSV says 2656 and not 2656.0."""
    import pandas as pd

    values = [
        number(c, path, r, column) if isinstance(c, str) else np.nan
        for c, r in zip(table[column], table[ROW], strict=True)
    ]
    series = pd.Series(values, dtype="float64", index=table.index)
    return series.astype("Int64") if (series.dropna() % 1 == 0).all() else series


_SUBTYPES = {
    "MSI Status": "msi_status",
    "Colorectal CMS": "cms",
    "Molecular_Subtype": "molecular_subtype",
    "Molecular Subtype": "molecular_subtype",
    "Hypermethylation category": "hypermethylation",
    "Left or right colon": "colon_side",
    "Gastric histological classification": "gastric_histology",
    "Leukocyte Fraction": "leukocyte_fraction",
    "ABSOLUTE Purity": "purity",
    "ABSOLUTE Ploidy": "ploidy",
    "WGD": "whole_genome_doublings",
}


def _subtypes(path: Path) -> pd.DataFrame:
    import pandas as pd

    table = read_table(path, required=("TCGA Participant Barcode",))
    out = pd.DataFrame({"patient_id": table["TCGA Participant Barcode"].str.upper()})
    for column, name in _SUBTYPES.items():
        if column in table and name not in out:
            out[name] = table[column]
    if "msi_status" in out:
        # MSI-low is counted with stable, as in the clinic
        known = {"MSI-H": "1", "MSI-L": "0", "MSS": "0"}
        out["msi_high"] = pd.array([known.get(str(c).upper()) for c in out["msi_status"]], dtype="str")
    return out.drop_duplicates("patient_id")


def _patients_of(samples: pd.Series, path: Path, column: str, rows: pd.Series) -> pd.DataFrame:
    """Patient and sample type of sample barcodes; the primary tumour (01) first."""
    import pandas as pd

    found = []
    for sample, row in zip(samples, rows, strict=True):
        barcode = parse_barcode(str(sample))
        if barcode is None:
            raise TableError(
                f"{sample!r} is no TCGA barcode", where=at(path, row=int(row), column=column), todo="as TCGA-05-4244-01"
            )
        found.append((barcode.patient, barcode.sample or "01", barcode.normal))
    return pd.DataFrame(found, columns=["patient_id", "sample", "normal"], index=samples.index)


def _mutations(path: Path, ids: list[str], genes: Sequence[str] | None) -> pd.DataFrame:
    """Columns ``mut_<gene>``: 1 mutated in any tumour sample, 0 in none, missing where not sequenced."""
    import pandas as pd

    table = read_table(path, required=("SAMPLE_ID",))
    table = table[table["SAMPLE_ID"].notna()]
    who = _patients_of(table["SAMPLE_ID"], path, "SAMPLE_ID", table[ROW])
    keep = who["patient_id"].isin(ids) & ~who["normal"]
    table, who = table[keep], who[keep]
    names = [c for c in table.columns if c not in ("SAMPLE_ID", "STUDY_ID", ROW)]
    for gene in genes or ():
        if gene not in names:
            close = get_close_matches(gene, names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {len(names)} genes"
            raise TableError(f"no gene {gene!r}", where=path, todo=hint)
    columns = {}
    for gene in names if genes is None else genes:
        cells = table[gene]
        sequenced = cells.notna() & (cells != "NS")
        mutated = (sequenced & (cells != "WT")).astype("float64").where(sequenced)
        columns[gene] = mutated.groupby(who["patient_id"]).max()
    frame = pd.DataFrame(columns)
    if genes is None and len(frame):
        mutated, sequenced = frame.sum(), frame.notna().sum()
        frame = frame.loc[:, (mutated >= MIN_MUTATED) & (mutated >= MIN_MUTATED_SHARE * sequenced)]
        logger.info("%s: %d of %d genes kept (mutated in 5%% or more)", path, frame.shape[1], len(names))
    frame = frame.astype("Int64").add_prefix("mut_")
    return frame.rename_axis("patient_id").reset_index()


def _expression(path: Path, ids: list[str]) -> pd.DataFrame:
    """Rows of the cohort's patients, one each: of several samples the primary tumour, then the first by name."""
    table = read_table(path)
    key = str(table.columns[0])
    if table[key].isna().any():
        row = int(table.loc[table[key].isna(), ROW].iloc[0])
        raise TableError("no barcode", where=at(path, row=row, column=key), todo="delete the row or fill it in")
    who = _patients_of(table[key], path, key, table[ROW])
    order = who.assign(name=table[key], rank=who["sample"] != "01").sort_values(["patient_id", "rank", "name"])
    order = order[order["patient_id"].isin(ids) & ~order["normal"]].drop_duplicates("patient_id")
    if order.empty:
        raise TableError("no patient of this cohort is in it", where=at(path, column=key), todo="check the table")
    chosen = table.loc[order.index].drop(columns=[ROW, key])
    chosen.insert(0, "patient_id", order["patient_id"])
    return chosen.reset_index(drop=True)
