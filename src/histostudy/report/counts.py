"""How many patients, slides, tiles and events a study has, from what is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from histostudy.report.context import ReportContext


def counts_of(context: ReportContext) -> dict[str, int]:
    """Patients, slides and tiles, from what is there."""
    counts = dict(context.counts)
    steps = (context.flow or {}).get("steps") or []
    if steps:
        counts.setdefault("slides_all", int(steps[0]["slides"]))
        counts.setdefault("slides", int(steps[-1]["slides"]))
        counts.setdefault("patients", int(steps[-1]["patients"]))
    if context.slides is not None:
        used = context.slides[context.slides["status"] == "ok"]
        counts.setdefault("slides", len(used))
        counts.setdefault("slides_all", len(context.slides))
        if "patient_id" in used:
            counts.setdefault("patients", int(used["patient_id"].nunique()))
        if "n_tiles" in used:
            counts.setdefault("tiles", int(used["n_tiles"].fillna(0).astype(int).sum()))
    if folds := (context.leakage or {}).get("folds"):
        counts.setdefault("folds", len({f["fold"] for f in folds}))
    elif context.splits is not None:
        counts.setdefault("folds", int(context.splits["fold"].nunique()))
    counts.setdefault("once", int(bool(((context.leakage or {}).get("tested") or {}).get("once"))))
    return counts


def task_counts(context: ReportContext) -> dict[str, dict[str, Any]]:
    """Patients and events of each task: those of its metrics, else those of the flow."""
    out = {name: dict(t) for name, t in ((context.flow or {}).get("tasks") or {}).items()}
    for name, table in context.metrics.items():
        if len(table) and "events" in table:
            out.setdefault(name, {})["events"] = table["events"].iloc[0]
    return out
