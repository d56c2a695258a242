"""The study's page: gathers what the stages wrote and renders it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from histostudy.files import read_json, write_text
from histostudy.studyfile import load_study, resolve

if TYPE_CHECKING:
    import pandas as pd

    from histostudy.layout import Layout
    from histostudy.study import Study

#: Figures that take the whole width of the page.
WIDE = frozenset({
    "contact_sheet", "metrics_forest", "top_tiles", "cohort_flow", "modalities", "subtypes", "subtype_survival",
    "cox_forest", "km_pooled", "kaplan_meier", "epoch_choice", "genes", "gene_scatter", "spatial_gene",
    "model_overview", "stain_audit",
})  # fmt: skip


def write_report(study_file: Path) -> None:
    """Write ``report.html`` of a study."""
    import pandas as pd

    from histostudy.figures import FIGURES
    from histostudy.layout import Layout
    from histostudy.plan import Plan
    from histostudy.provenance import versions
    from histostudy.report.context import FigureItem, ReportContext
    from histostudy.report.page import render_report
    from histostudy.verbs.figures import planned_figures

    study = load_study(study_file)
    layout = Layout(study)
    home = layout.home

    def tables(folder: str) -> dict[str, pd.DataFrame]:
        return {task.name: pd.read_csv(home / folder / f"{task.name}.csv") for task in study.tasks}

    figures = []
    for planned in planned_figures(study):
        # images inside an SVG make it many times larger than the PNG
        heavy = planned.figure in ("contact_sheet", "attention_map", "top_tiles", "segmentation_overlay")
        path = home / "figures" / f"{planned.stem}{'.png' if heavy else '.svg'}"
        caption = FIGURES[planned.figure].spec.caption
        wide = planned.figure in WIDE
        figures.append(FigureItem.of(path, planned.title, caption, task=planned.task, wide=wide))
    slides = None
    if study.has_slides:
        slides = pd.read_parquet(layout.features_table if study.uses_tissue else layout.slides_table)
    thumbnails = {}
    for row in [] if slides is None else slides.to_dict("records"):
        name = row.get("thumbnail")
        if isinstance(name, str) and name and (layout.slides / name).is_file():
            thumbnails[row["slide_id"]] = _small(layout.slides / name)
    metrics = tables("metrics")
    context = ReportContext(
        study=resolve(study),
        flow=read_json(home / "cohort_flow.json"),
        table_one=pd.read_csv(home / "table_one.csv", dtype=str, keep_default_na=False),
        splits=pd.read_csv(home / "splits.csv", dtype={"patient_id": str}) if study.tasks else None,
        leakage=read_json(home / "leakage.json") if study.tasks else None,
        metrics=metrics,
        comparison=tables("comparison"),
        overview=pd.read_csv(layout.overview("models")) if study.tasks else None,
        ranks=pd.read_csv(layout.overview("ranks")) if study.tasks else None,
        sequence=pd.read_csv(layout.sequence("metrics")) if study.sequence else None,
        stain=pd.read_csv(layout.audit("audit")) if "stain" in study.audit else None,
        figures=figures,
        slides=slides,
        thumbnails=thumbnails,
        planted=_planted(study, layout, metrics) if study.cohort.simulate else None,
        software=versions.software(),
        data=versions.data([Path(path) for path in Plan(study, layout).data_files]),
    )
    write_text(home / "report.html", render_report(context))


def _planted(study: Study, layout: Layout, metrics: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """What was planted in a simulated cohort, and what the study found of it."""
    from histostudy.verbs.planted import planted_and_found, read_tables

    curves = {task.name: read_tables(layout.curves(task.name)) for task in study.tasks}
    return planted_and_found(study, layout.source / "truth.json", metrics, curves)


def _small(path: Path, side: int = 160) -> bytes:
    """A thumbnail small enough for a table, as JPEG."""
    import io

    from PIL import Image

    with Image.open(path) as image:
        image.thumbnail((side, side))
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
