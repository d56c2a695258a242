"""The study's report: one HTML page that needs nothing beside itself."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from histostudy.evaluation.comparison import MAIN_METRIC
from histostudy.report.context import MEDIA, FigureItem, ReportContext
from histostudy.report.continual import continual_table
from histostudy.report.counts import counts_of, task_counts
from histostudy.report.findings import CONTROLS, key_findings, main_rows, shown_model, what_it_is
from histostudy.report.forest import forest_svg
from histostudy.report.methods import drawn, has_slides, methods_paragraphs
from histostudy.report.metric_tables import metric_tables
from histostudy.report.modelling import is_untrained, models_of
from histostudy.report.numbers import (
    CHANCE,
    count,
    interval,
    known,
    metric_name,
    number,
    p_value,
)
from histostudy.report.overview import overview_table
from histostudy.report.reporting import reporting_section
from histostudy.report.stain import audit_rows, audit_warning
from histostudy.report.tables import flow_boxes, plain_table, slide_table, splits_and_leakage, table_one
from histostudy.report.tasks import is_null, null_note, power_note, task_text, unit_of

if TYPE_CHECKING:
    import pandas as pd

KINDS = {
    "classification": "Classification", "survival": "Survival", "regression": "Regression",
    "expression": "Gene expression", "segmentation": "Segmentation",
    "tile_classification": "Labelled tiles",
}  # fmt: skip


def render_report(context: ReportContext) -> str:
    """Render the report.

    Parameters
    ----------
    context : ReportContext
        What to show; sections without content are left out.

    Returns
    -------
    str
        A whole HTML document without a reference to any other file or host. The same for the same context.
    """
    return render_template("report.html.j2", _page(context))


def render_template(name: str, page: Mapping[str, Any]) -> str:
    """A page of a template of this folder: everything in it is escaped, and what is missing is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("histostudy.report"),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name).render(page=page) + "\n"


def _page(context: ReportContext) -> dict[str, Any]:
    """All that the template shows, as text and lists of text."""
    study = context.study
    counts = counts_of(context)
    findings = context.findings
    if findings is None:
        findings = key_findings(study, context.metrics, context.comparison)
    methods = context.methods
    if methods is None:
        methods = methods_paragraphs(study, counts, context.software, task_counts(context))
    tasks = [_task(task, context) for task in study.get("tasks") or []]
    names = [str(task["name"]) for task in study.get("tasks") or []]
    page: dict[str, Any] = {
        "title": str(study.get("study", "study")),
        "lead": _lead(study, counts),
        "note": (study.get("cohort") or {}).get("note"),
        "simulated": drawn(study),
        "findings": [_headed(f, names) for f in findings],
        "tiles": _headline(context),
        "planted": plain_table(context.planted) if context.planted is not None else None,
        "flow": flow_boxes(context.flow) if context.flow else None,
        "table_one": table_one(context.table_one) if context.table_one is not None else None,
        "splits": splits_and_leakage(context),
        "overview": _overview(context),
        "sequence": plain_table(continual_table(context.sequence)) if context.sequence is not None else None,
        "stain": plain_table(audit_rows(context.stain)) if context.stain is not None else None,
        "stain_warning": audit_warning(context.stain) if context.stain is not None else "",
        "tasks": [t for t in tasks if t["tables"] or t["figures"]],
        "figures": [_figure(f) for f in context.figures if f.task is None],
        "slides": slide_table(context) if context.slides is not None else None,
        "methods": list(methods),
        "reporting": reporting_section(context),
        "software": sorted(context.software.items()),
        "data": plain_table(context.data) if context.data is not None else None,
        "study_text": _yaml(study),
    }
    page["contents"] = _contents(page)
    return page


def _headed(finding: str, names: list[str]) -> tuple[str, str]:
    """A finding's task, to be set in bold, and the rest."""
    head, colon, rest = finding.partition(": ")
    return (head, rest) if colon and head in names else ("", finding)


def _overview(context: ReportContext) -> dict[str, Any] | None:
    """All models over all tasks, where there are several of both."""
    table, ranks = context.overview, context.ranks
    if table is None or ranks is None or table["task"].nunique() < 2 or table["model"].nunique() < 3:
        return None
    return overview_table(table, ranks)


def _lead(study: Mapping[str, Any], counts: Mapping[str, int]) -> str:
    """One line under the title."""
    names = [("patients", "patient"), *([("slides", "slide"), ("tiles", "tile")] if has_slides(study) else [])]
    parts = [count(counts[k], word) for k, word in names if k in counts]
    cohort = (study.get("cohort") or {}).get("name")
    text = f"{'Synthetic cohort' if drawn(study) else 'Cohort'} {cohort}" if cohort else ""
    return ": ".join(t for t in (text, ", ".join(parts)) if t)


def _headline(context: ReportContext) -> list[dict[str, str]]:
    """The few numbers at the top: the reference model's main metric of each task that is no null."""
    reference = (context.study.get("compare") or {}).get("reference")
    out = []
    for task in context.study.get("tasks") or []:
        table = context.metrics.get(task["name"])
        rows = main_rows(table, task["kind"]) if table is not None and not is_null(task) else None
        if rows is None or len(rows) == 0:
            continue
        rows = rows.set_index("model")
        shown = shown_model(rows, reference)
        row, metric = rows.loc[shown], MAIN_METRIC[task["kind"]]
        if not known(row["estimate"]):
            continue
        out.append({
            "task": task["name"], "metric": metric_name(metric), "value": number(row["estimate"], 2),
            "span": interval(row["low"], row["high"], 2), "model": f"{what_it_is(context.study, shown)} {shown}",
            "note": "mean over genes" if task["kind"] == "expression" else "", "highest": _highest(rows, shown),
        })  # fmt: skip
    return out


def _highest(rows: pd.DataFrame, shown: str) -> str:
    """The highest other model, as `abmil 0.94`, where it is higher than the one shown."""
    models = rows[[m not in CONTROLS and known(e) for m, e in rows["estimate"].items()]]
    if len(models) == 0:
        return ""
    best = str(models["estimate"].astype(float).idxmax())
    return "" if best == shown else f"{best} {number(models.loc[best, 'estimate'], 2)}"


def _task(task: Mapping[str, Any], context: ReportContext) -> dict[str, Any]:
    """A task's tables and figures."""
    name, kind = task["name"], task["kind"]
    reference = (context.study.get("compare") or {}).get("reference")
    table = context.metrics.get(name)
    out: dict[str, Any] = {
        "name": name, "kind": KINDS.get(kind, kind), "what": task_text(task), "unit": unit_of(task),
        "tables": [], "genes": None, "forest": "", "n": "", "notes": [null_note(task)] if is_null(task) else [],
        "comparison": [],
        "figures": [_figure(f) for f in context.figures if f.task == name],
    }  # fmt: skip
    if table is not None and len(table):
        main = main_rows(table, kind)
        whole = table
        if "gene" in table:
            whole = table[table["gene"].isna() | table["gene"].isin(["", "all"])]
            out["genes"] = _genes(table, reference)
        if "class" in table:
            whole = table[table["class"] == "mean"]
        out["tables"] = metric_tables(whole, kind, lambda model: _row_of(context.study, model, reference))
        metric = MAIN_METRIC[kind]
        if len(main):
            out["forest"] = forest_svg(main, metric_name(metric), CHANCE.get(metric), CONTROLS)
            out["n"] = _units(main, task)
            events = main.iloc[0].get("events")
            if kind == "survival" and known(events) and not is_null(task):
                out["notes"].append(power_note(int(events)))
    compared = context.comparison.get(name)
    if compared is not None and len(compared):
        out["comparison"] = [_comparison(row) for row in compared.to_dict("records")]
    return out


def _row_of(study: Mapping[str, Any], model: str, reference: str | None) -> dict[str, Any]:
    """How a model stands in the tables."""
    chips = ["reference"] * (model == reference)
    chips += ["made elsewhere"] * (what_it_is(study, model) == "predictions")
    chips += ["not trained"] * (model not in CONTROLS and is_untrained(models_of(study).get(model, {})))
    return {"name": model, "control": model in CONTROLS, "chips": chips}


def _units(rows: pd.DataFrame, task: Mapping[str, Any]) -> str:
    row = rows.iloc[0]
    text = count(row["n"], unit_of(task)) if known(row.get("n")) else ""
    text += f" of {count(row['patients'], 'patient')}" if known(row.get("patients")) else ""
    return text + (f", {count(row['events'], 'event')}" if known(row.get("events")) else "")


def _comparison(row: Mapping[str, Any]) -> dict[str, str]:
    return {
        "model": str(row["model"]), "reference": str(row["reference"]),
        "metric": metric_name(str(row.get("metric", ""))),
        "difference": number(row["difference"], 3, sign=True),
        "span": interval(row["low"], row["high"], 3, sign=True),
        "p": p_value(row["p"]), "p_adjusted": p_value(row["p_adjusted"]),
    }  # fmt: skip


def _genes(table: pd.DataFrame, reference: str | None, most: int = 50) -> dict[str, Any] | None:
    """Each gene's correlation of the reference model, best first."""
    rows = table[(table["metric"] == "pearson") & table["gene"].notna() & ~table["gene"].isin(["", "all"])]
    shown = reference if (rows["model"] == reference).any() else next(iter(rows["model"]), None)
    rows = rows[rows["model"] == shown].sort_values(["estimate", "gene"], ascending=[False, True])
    if len(rows) == 0:
        return None
    columns = [c for c in ("p", "q") if c in rows and rows[c].notna().any()]
    return {
        "model": str(shown),
        "total": len(rows),
        "columns": ["Gene", "Pearson r", "Interval", *columns],
        "rows": [
            [str(r["gene"]), number(r["estimate"]), interval(r["low"], r["high"]), *(p_value(r[c]) for c in columns)]
            for r in rows.head(most).to_dict("records")
        ],
    }


def _figure(figure: FigureItem) -> dict[str, Any]:
    return {"title": figure.title, "caption": figure.caption, "uri": figure_uri(figure), "wide": figure.wide}


def figure_uri(figure: FigureItem) -> str:
    """A figure as an address that holds its bytes."""
    return f"data:{MEDIA[figure.kind]};base64,{base64.b64encode(figure.data).decode('ascii')}"


def _contents(page: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Anchors and names of the sections that are there."""
    sections = [
        ("findings", "Key findings", page["findings"]), ("planted", "Planted and found", page["planted"]),
        ("flow", "Study flow", page["flow"]), ("table-one", "Patients", page["table_one"]),
        ("splits", "Splits", page["splits"]), ("overview", "All models", page["overview"]),
        ("results", "Results", page["tasks"]), ("sequence", "Tasks in sequence", page["sequence"]),
        ("stain", "Stain", page["stain"]),
        ("figures", "Figures", page["figures"]), ("slides", "Slides", page["slides"]),
        ("methods", "Methods", page["methods"]), ("reporting", "Reporting", page["reporting"]),
        ("references", "References", page["reporting"]["references"]),
        ("versions", "Versions", page["software"] or page["data"]), ("config", "Configuration", True),
    ]  # fmt: skip
    return [(anchor, name) for anchor, name, there in sections if there]


def _yaml(study: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(dict(study), sort_keys=False, allow_unicode=True, width=100)
