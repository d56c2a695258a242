"""The verbs that make and check a cohort's tables: ``histostudy cohort ...``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

cohort_app = typer.Typer(help="Make and check a cohort's tables.", no_args_is_help=True)
StudyFile = Annotated[Path, typer.Option("--study", help="Study file.", show_default=False)]


@cohort_app.command("summary")
def cohort_summary(study: StudyFile) -> None:
    """Write the flow of exclusions and Table 1 of a study."""
    from histostudy.verbs.tables import summarise

    summarise(study)


@cohort_app.command("folder")
def cohort_folder(
    folder: Annotated[Path, typer.Argument(help="Folder of slides, searched with its subfolders.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Table to write: slides.csv.")],
    patient: Annotated[str | None, typer.Option(help="Regular expression: its group in the id is the patient.")] = None,
) -> None:
    """Write slides.csv for a folder of slides."""
    from histostudy.cohort.folder import slides_of_folder
    from histostudy.files import write_table

    write_table(output, slides_of_folder(folder, output, patient))


@cohort_app.command("tcga")
def cohort_tcga(
    folder: Annotated[Path, typer.Argument(help="Folder of slides or features named by barcode.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write the tables into.")],
    cdr: Annotated[Path, typer.Option(help="TCGA clinical data resource, CSV.")],
    mutations: Annotated[Path | None, typer.Option(help="Gene by sample mutations, TSV.")] = None,
    subtypes: Annotated[Path | None, typer.Option(help="Molecular subtypes, CSV.")] = None,
    expression: Annotated[Path | None, typer.Option(help="Patient by gene expression, CSV.")] = None,
    gene: Annotated[list[str] | None, typer.Option(help="Gene whose mutation becomes a column; repeat.")] = None,
    project: Annotated[list[str] | None, typer.Option(help="Keep this project (LUAD); repeat. Default: all.")] = None,
) -> None:
    """Write slides.csv, patients.csv and expression.csv from TCGA's own tables."""
    from histostudy.cohort.tcga import build_tcga

    build_tcga(
        folder, cdr, mutations=mutations, subtypes=subtypes, expression=expression, genes=gene, out=output,
        projects=project,
    )  # fmt: skip


@cohort_app.command("published")
def cohort_published(
    name: Annotated[str, typer.Argument(help="mcat, otsurv, hist2rna, her2st or porpoise.")],
    source: Annotated[Path, typer.Argument(help="Folder with the released files.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write the tables into.")],
    cohort: Annotated[str | None, typer.Option(help="porpoise: the cohort, such as brca.")] = None,
) -> None:
    """Write study tables from what a paper released: patients, folds, predictions, omics."""
    from histostudy.cohort.papers import build_published

    build_published(name, source, output, cohort)


@cohort_app.command("benchmark")
def cohort_benchmark(
    table: Annotated[Path, typer.Argument(help="CSV of instances: label, bag, numbers; such as musk1.csv.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write the tables and features into.")],
) -> None:
    """Write tables and features of the classic benchmark bags of multiple-instance learning."""
    from histostudy.cohort.benchmarks import build_benchmark

    build_benchmark(table, output)
