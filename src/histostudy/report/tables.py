"""The tables of the page, as texts: flow, Table 1, splits, slides."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from histostudy.report.context import ReportContext
from histostudy.report.numbers import DASH, count, known, number

if TYPE_CHECKING:
    import pandas as pd

PARTS = {"train": "Training", "val": "Inner validation", "test": "Test"}
#: Columns of the slide table, in order: name, header, digits (None: text), factor.
SLIDE_COLUMNS: tuple[tuple[str, str, int | None, float], ...] = (
    ("slide_id", "Slide", None, 1), ("patient_id", "Patient", None, 1), ("site", "Site", None, 1),
    ("status", "Status", None, 1), ("reason", "Reason", None, 1), ("detail", "Detail", None, 1),
    ("mpp", "mpp", 4, 1), ("mpp_source", "mpp from", None, 1), ("vendor", "Vendor", None, 1),
    ("width_px0", "Width, px", 0, 1), ("height_px0", "Height, px", 0, 1),
    ("tissue_area_um2", "Tissue, mm\N{SUPERSCRIPT TWO}", 2, 1e-6),
    ("pen_area_um2", "Pen, mm\N{SUPERSCRIPT TWO}", 2, 1e-6),
    ("sections", "Sections", 0, 1), ("n_tiles", "Tiles", 0, 1),
)  # fmt: skip


def flow_boxes(flow: Mapping[str, Any]) -> dict[str, Any]:
    """Steps of the study flow and what each left out; slides are left unsaid where the study has none."""
    given = flow.get("steps") or []
    slides = any(int(s.get("slides") or 0) for s in given)

    def counts(row: Mapping[str, Any]) -> list[str]:
        return [count(row["slides"], "slide")] * slides + [count(row["patients"], "patient")]

    steps = [
        {
            "step": s["step"], "counts": counts(s),
            "excluded": [{"reason": e["reason"], "counts": counts(e)} for e in s.get("excluded") or []],
        }
        for s in given
    ]  # fmt: skip
    tasks = [
        {
            "name": name, "patients": count(t["patients"], "patient"),
            "events": count(t["events"], "event") if known(t.get("events")) else "",
            "excluded": [f"{e['reason']}: {count(e['patients'], 'patient')}" for e in t.get("excluded") or []],
        }
        for name, t in (flow.get("tasks") or {}).items()
    ]  # fmt: skip
    return {"steps": steps, "tasks": tasks}


def table_one(table: pd.DataFrame) -> dict[str, Any]:
    """Table 1 with a variable's name on its first row only."""
    names = {"variable": "", "level": "", "smd": "SMD", "missing": "Missing", "overall": "Overall"}
    rows, before = [], None
    for row in table.to_dict("records"):
        cells = [str(v) if known(v) else "" for v in row.values()]
        first = row.get("variable") != before
        before = row.get("variable")
        rows.append({"first": first, "cells": cells if first else ["", *cells[1:]]})
    return {"columns": [names.get(str(c), str(c)) for c in table.columns], "rows": rows}


def splits_and_leakage(context: ReportContext) -> dict[str, Any] | None:
    """Patients a part and fold, and what the audit found."""
    if context.splits is None and context.leakage is None:
        return None
    out: dict[str, Any] = {"ok": None, "problems": [], "checks": [], "columns": [], "rows": [], "slides": True}
    if context.leakage is not None:
        out["slides"] = context.leakage.get("slides") != 0
        out["ok"] = bool(context.leakage.get("ok"))
        out["problems"] = [str(p) for p in context.leakage.get("problems") or []]
        out["checks"] = _checks(context.leakage)
    folds = (context.leakage or {}).get("folds") or _folds(context.splits)
    if folds:
        repeats = len({f["repeat"] for f in folds}) > 1
        sites = any(known(f.get("shared_site_patients")) for f in folds)
        tasks = list(dict.fromkeys(task for f in folds for task in f.get("balance") or {}))
        parts = [p for p in PARTS if any(p in f for f in folds)]
        out["columns"] = [*(["Repeat"] if repeats else []), "Fold", *(PARTS[p] for p in parts)]
        out["columns"] += ["Tested at a site trained on"] * sites + [f"Test: {task}" for task in tasks]
        for fold in folds:
            row = [str(fold["repeat"])] * repeats + [str(fold["fold"]), *(f"{int(fold[p]):,}" for p in parts)]
            if sites:
                share = fold.get("shared_site_patients")
                row.append(f"{100 * float(share):.0f}%" if share is not None else DASH)
            out["rows"].append(row + [_balance(fold, task) for task in tasks])
    return out


def _folds(splits: pd.DataFrame | None) -> list[dict[str, Any]]:
    """Patients a part and fold, counted."""
    if splits is None or len(splits) == 0:
        return []
    sizes = splits.groupby(["repeat", "fold", "part"])["patient_id"].nunique().unstack(fill_value=0)
    parts = [p for p in PARTS if p in sizes]
    return [
        {"repeat": r, "fold": f, **{p: int(sizes.loc[(r, f), p]) for p in parts}}
        for r, f in sizes.index.to_flat_index()
    ]


def _balance(fold: Mapping[str, Any], task: str) -> str:
    """Classes, events or mean of a task in a fold's test part: `6 alpha, 7 beta`."""
    test = ((fold.get("balance") or {}).get(task) or {}).get("test") or {}
    rest = {k: v for k, v in test.items() if k != "n"}
    if not rest:
        return f"n {test['n']:,}" if "n" in test else DASH
    if set(rest) == {"mean"}:
        return f"mean {number(rest['mean'], 1)}"
    if set(rest) == {"events"}:
        return count(rest["events"], "event")
    return ", ".join(f"{n:,} {name}" for name, n in rest.items())


def _checks(leakage: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The audit's single values, by name; lists are counted, tables left to the file."""
    out = []
    for key, value in leakage.items():
        name = str(key).replace("_", " ")
        if key in ("ok", "problems", "folds") or value is None or (key == "slides" and not value):
            continue
        if key == "tested" and isinstance(value, Mapping):
            out.append(("each patient tested once a repeat", "yes" if value.get("once") else _tested(value)))
        elif isinstance(value, Mapping):
            continue
        elif isinstance(value, bool):
            out.append((name, "yes" if value else "no"))
        elif isinstance(value, list | tuple):
            if not any(isinstance(v, Mapping) for v in value):
                out.append((name, ", ".join(map(str, value[:8])) + (" ..." if len(value) > 8 else "") or "none"))
        elif isinstance(value, float):
            out.append((name, number(value, 3)))
        else:
            out.append((name, f"{value:,}" if isinstance(value, int) else str(value)))
    return out


def _tested(value: Mapping[str, Any]) -> str:
    return f"no: {value.get('never', 0):,} never, {value.get('more_than_once', 0):,} more than once"


def slide_table(context: ReportContext) -> dict[str, Any]:
    """The slide table: cells with a text to read and a value to sort by."""
    table = context.slides
    assert table is not None
    shown = [c for c in SLIDE_COLUMNS if c[0] in table and table[c[0]].map(known).any()]
    rows = []
    for row in table.sort_values("slide_id").to_dict("records"):
        cells = []
        for key, _, digits, factor in shown:
            value = row[key]
            if digits is None:
                cells.append({"text": str(value) if known(value) else "", "sort": ""})
            else:
                scaled = float(value) * factor if known(value) else None
                cells.append({"text": number(scaled, digits), "sort": "" if scaled is None else f"{scaled:.10g}"})
        image = context.thumbnails.get(row["slide_id"])
        uri = "data:image/jpeg;base64," + base64.b64encode(image).decode("ascii") if image else ""
        rows.append({"status": str(row["status"]), "cells": cells, "thumbnail": uri})
    status = table["status"].value_counts()
    return {
        "columns": [{"name": h, "key": k, "numeric": d is not None} for k, h, d, _ in shown],
        "rows": rows,
        "thumbnails": len(context.thumbnails),
        "unpictured": sum(row["status"] == "ok" and not row["thumbnail"] for row in rows),
        "status": [(str(s), f"{int(n):,}") for s, n in sorted(status.items(), key=lambda i: (i[0] != "ok", i[0]))],
    }


def plain_table(table: pd.DataFrame) -> dict[str, Any]:
    """Any small table: numbers to the right, names with a capital."""
    numeric = [table[c].dtype.kind in "iuf" for c in table.columns]

    def text(value: Any) -> str:
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, float):
            return f"{value:.3g}".replace("-", "\N{MINUS SIGN}") if known(value) else DASH
        return f"{value:,}" if isinstance(value, int) else str(value) if known(value) else DASH

    columns = [{"name": _title(str(c)), "numeric": n} for c, n in zip(table.columns, numeric, strict=True)]
    return {"columns": columns, "rows": [[text(v) for v in row.values()] for row in table.to_dict("records")]}


def _title(name: str) -> str:
    text = name.replace("_", " ")
    return text[:1].upper() + text[1:]
