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
#: Slides of the table that have a picture beside them, at most: the page of ten thousand stays some megabytes.
PICTURED = 1000
#: Feature files of another tool that are asked for their encoder, spread over the cohort.
ASKED = 16


def write_report(study_file: Path) -> None:
    """Write ``report.html`` of a study, and the files of ``reporting`` beside it."""
    import pandas as pd

    from histostudy.figures import FIGURES
    from histostudy.figures.contact_sheet import shown_of
    from histostudy.layout import Layout
    from histostudy.plan import Plan
    from histostudy.provenance import versions
    from histostudy.report.context import FigureItem, ReportContext
    from histostudy.report.page import render_report
    from histostudy.report.reporting import reporting_files
    from histostudy.verbs.figures import planned_figures
    from histostudy.verbs.planted import read_tables

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
    for row in [] if slides is None else shown_of(slides, PICTURED).to_dict("records"):
        name = row.get("thumbnail")
        if isinstance(name, str) and name and (layout.slides / name).is_file():
            thumbnails[row["slide_id"]] = _small(layout.slides / name)
    metrics = tables("metrics")
    encoders, layouts, asked = _stated(study, slides)
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
        curves={task.name: read_tables(layout.curves(task.name)) for task in study.tasks if task.kind == "survival"},
        follow_up=_follow_up(study, layout),
        encoders=encoders,
        layouts=layouts,
        asked=asked,
    )
    for name, text in reporting_files(context).items():
        write_text(layout.reporting / name, text)
    write_text(home / "report.html", render_report(context))


def _stated(study: Study, slides: pd.DataFrame | None) -> tuple[list[str], list[str], str]:
    """Encoders that another tool's feature files name, their layouts, and how many were read; of our own none."""
    from histostudy.features.layouts import read_header

    if study.features.precomputed is None or study.cohort.simulate is not None or slides is None:
        return [], [], ""
    good = slides[slides["status"] == "ok"].sort_values("slide_id")
    encoders: dict[str, None] = {}
    read = 0
    for row in good.iloc[:: max(1, len(good) // ASKED)].to_dict("records"):
        if Path(row["path"]).is_file():
            read += 1
            name = read_header(row["path"], row["layout"]).identity.get("encoder")
            encoders |= dict.fromkeys([str(name)] if name else [])
    return sorted(encoders), sorted(set(good["layout"].astype(str))), f"{read:,} of {len(good):,} files read"


def _follow_up(study: Study, layout: Layout) -> dict[str, float]:
    """Median follow-up of each survival task, days: of the time to censoring, an event ending it (Schemper 1996)."""
    import pandas as pd
    from sksurv.nonparametric import kaplan_meier_estimator

    found = {}
    for task in study.tasks:
        path = layout.predictions(task.name, "prior")
        if task.kind != "survival" or not path.is_file():
            continue
        rows = pd.read_parquet(path, columns=["patient_id", "time", "event"]).drop_duplicates("patient_id")
        if rows["event"].astype(bool).all():
            continue
        days, still = kaplan_meier_estimator(~rows["event"].astype(bool).to_numpy(), rows["time"].to_numpy())
        if (still <= 0.5).any():
            found[task.name] = float(days[still <= 0.5][0])
    return found


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
