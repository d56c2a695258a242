"""Two versions of a study side by side: one HTML page that needs nothing beside itself."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from histostudy.report.context import FigureItem
from histostudy.report.numbers import (
    DASH,
    LOWER_IS_BETTER,
    METRICS,
    count,
    interval,
    known,
    listed,
    metric_name,
    metric_order,
    number,
)
from histostudy.report.page import figure_uri, render_template

if TYPE_CHECKING:
    import pandas as pd

ABSENT = "not there"
#: What is said of two intervals, from the strongest on: text of the chip, its colour.
VERDICTS = {
    "apart": ("intervals apart", "poor"),
    "outside": ("outside the other\N{RIGHT SINGLE QUOTATION MARK}s interval", ""),
}
#: Rows of a list of names or commits that are shown.
MOST = 100


@dataclass
class StudyVersion:
    """A version of a study, as far as it is compared; what a version does not have is empty.

    Parameters
    ----------
    name : str
        Such as ``v1``.
    commit : str
        Short hash of its commit.
    parameters : mapping
        The study file, resolved where the version has that.
    environment : mapping of str to str
        Names and versions of software.
    metrics : DataFrame, optional
        task, model, metric, estimate, low, high, n, events; one row a task, model and metric.
    flow : mapping
        As `cohort_flow.json`.
    tables : mapping of str to str
        Hashes of the tables and folders that the study reads.
    pipeline : mapping of str to tuple of str and int
        Hash and bytes of each dependency and output of its stages in ``dvc.lock``.
    slides : mapping of str to str, optional
        Of each slide what it is: status and fingerprint. None where it is not known.
    figures : mapping of str to FigureItem
        By the stem of their file.
    """

    name: str
    commit: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    metrics: pd.DataFrame | None = None
    flow: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, str] = field(default_factory=dict)
    pipeline: Mapping[str, tuple[str, int | None]] = field(default_factory=dict)
    slides: Mapping[str, str] | None = None
    figures: Mapping[str, FigureItem] = field(default_factory=dict)


@dataclass
class CodeChange:
    """What changed in the code between two versions.

    Parameters
    ----------
    commits : sequence of tuple
        Version that has it, short hash, author, subject; the newest first.
    files : sequence of tuple
        File, lines added, lines removed (None for a binary file).
    """

    commits: Sequence[tuple[str, str, str, str]] = ()
    files: Sequence[tuple[str, int | None, int | None]] = ()


def render_versions(study: str, one: StudyVersion, two: StudyVersion, code: CodeChange) -> str:
    """Render the comparison of two versions.

    Parameters
    ----------
    study : str
        The study's name.
    one, two : StudyVersion
        The versions; changes are `two` minus `one`.
    code : CodeChange
        What lies between them.

    Returns
    -------
    str
        A whole HTML document without a reference to any other file or host. The same for the same versions.
    """
    parameters = _changed(flatten(one.parameters), flatten(two.parameters))
    environment = _changed(one.environment, two.environment)
    tasks = _tasks(one.metrics, two.metrics)
    figures = _figures(one, two)
    page: dict[str, Any] = {
        "title": study, "one": one.name, "two": two.name,
        "commits": [(v.name, v.commit) for v in (one, two) if v.commit],
        "parameters": parameters, "environment": environment,
        "flow": _flow(one.flow, two.flow),
        "tables": _hashes({k: (v, None) for k, v in one.tables.items()}, {k: (v, None) for k, v in two.tables.items()}),
        "pipeline": _hashes(one.pipeline, two.pipeline),
        "slides": _slides(one, two),
        "tasks": tasks, "figures": figures,
        "log": list(code.commits[:MOST]), "commits_left": max(0, len(code.commits) - MOST),
        "files": [(f, number(a, 0), number(r, 0)) for f, a, r in code.files],
    }  # fmt: skip
    page["cards"] = _cards(page)
    return render_template("versions.html.j2", page)


def flatten(value: Any, key: str = "") -> dict[str, str]:
    """Dotted keys and texts of nested parameters; a list of named things is keyed by their names.

    Parameters
    ----------
    value : object
        Plain data, as of a YAML file.
    key : str
        Put before every key.
    """
    if isinstance(value, list) and value and all(isinstance(v, Mapping) and "name" in v for v in value):
        value = {str(v["name"]): {k: x for k, x in v.items() if k != "name"} for v in value}
    if isinstance(value, Mapping) and value:
        pairs = [flatten(v, f"{key}.{k}" if key else str(k)) for k, v in value.items()]
        return {k: v for pair in pairs for k, v in pair.items()}
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return {key: text} if key else {}


def verdict(one: Mapping[str, Any], two: Mapping[str, Any]) -> str:
    """What can be seen of two estimates and their intervals; no test.

    Returns
    -------
    str
        ``apart``: the intervals do not overlap; ``outside``: an estimate is outside the other's interval; else empty.
    """
    if not all(known(row.get(key)) for row in (one, two) for key in ("estimate", "low", "high")):
        return ""
    if one["high"] < two["low"] or two["high"] < one["low"]:
        return "apart"
    inside = one["low"] <= two["estimate"] <= one["high"] and two["low"] <= one["estimate"] <= two["high"]
    return "" if inside else "outside"


def _union(one: Iterable[str], two: Iterable[str]) -> list[str]:
    return list(dict.fromkeys([*one, *two]))


def _changed(one: Mapping[str, str], two: Mapping[str, str]) -> list[tuple[str, str, str]]:
    keys = [key for key in _union(one, two) if one.get(key) != two.get(key)]
    return [(key, one.get(key, ABSENT), two.get(key, ABSENT)) for key in keys]


def _hashes(
    one: Mapping[str, tuple[str, int | None]], two: Mapping[str, tuple[str, int | None]]
) -> list[dict[str, Any]]:
    """Names with their hashes and bytes in both, those that differ first."""
    nothing: tuple[str, int | None] = (ABSENT, None)
    rows = []
    for name in _union(one, two):
        given = (one.get(name, nothing), two.get(name, nothing))
        cells = [(digest.removesuffix(".dir"), size_text(size)) for digest, size in given]
        rows.append({"name": name, "cells": cells, "same": one.get(name) == two.get(name)})
    return sorted(rows, key=lambda row: row["same"])


def size_text(size: int | None) -> str:
    """Bytes as a reader says them: `87.9 MB`; nothing where they are not known."""
    if size is None:
        return ""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return count(size, "byte")


def _flow(one: Mapping[str, Any], two: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Slides and patients of each step, patients and events of each task, and what was left out, with the change."""
    left, right = _flow_counts(one), _flow_counts(two)
    rows = []
    for key in _union(left, right):
        a, b = left.get(key), right.get(key)
        change = number(b - a, 0, sign=True) if a is not None and b is not None and a != b else ""
        rows.append({"what": key, "cells": (number(a, 0), number(b, 0)), "change": change, "same": a == b})
    return rows


def _flow_counts(flow: Mapping[str, Any]) -> dict[str, int]:
    steps = flow.get("steps") or []
    units = (["slides"] if any(step.get("slides") for step in steps) else []) + ["patients"]
    out: dict[str, int] = {}
    for step in steps:
        for reason in step.get("excluded") or []:
            what = f"{step['step']}, left out: {reason['reason']}"
            out |= {f"{what}: {unit}": int(reason[unit]) for unit in units}
        out |= {f"{step['step']}: {unit}": int(step[unit]) for unit in units}
    for name, task in (flow.get("tasks") or {}).items():
        out |= {f"task {name}: {u}": int(task[u]) for u in ("patients", "events") if known(task.get(u))}
    return out


def _slides(one: StudyVersion, two: StudyVersion) -> dict[str, Any] | None:
    """Slides that only one of the versions has, and those that changed."""
    if one.slides is None or two.slides is None:
        return None
    lists = [
        (f"only in {two.name}", [s for s in two.slides if s not in one.slides]),
        (f"only in {one.name}", [s for s in one.slides if s not in two.slides]),
        ("another file or status", [s for s in two.slides if s in one.slides and one.slides[s] != two.slides[s]]),
    ]
    shown = [
        (what, count(len(ids), "slide"), sorted(ids)[:MOST], max(0, len(ids) - MOST)) for what, ids in lists if ids
    ]
    counts = (number(len(one.slides), 0), number(len(two.slides), 0))
    return {"counts": counts, "total": count(len(one.slides), "slide"), "lists": shown}


def _tasks(one: pd.DataFrame | None, two: pd.DataFrame | None) -> list[dict[str, Any]]:
    """Of each task the metrics that differ, and the number of those that do not."""
    tables = [_rows(one), _rows(two)]
    keys = list(dict.fromkeys([*tables[0], *tables[1]]))
    models = list(dict.fromkeys(key[1] for key in keys))
    out = []
    for task in dict.fromkeys(key[0] for key in keys):
        mine = [key for key in keys if key[0] == task]
        mine.sort(key=lambda key: (models.index(key[1]), metric_order(key[2])))
        pairs = [(key, tables[0].get(key), tables[1].get(key)) for key in mine]
        rows = [_metric(key, a, b) for key, a, b in pairs if not _equal(a, b)]
        out.append({
            "name": task, "n": _sizes(pairs), "rows": rows, "same": len(pairs) - len(rows),
        })  # fmt: skip
    return out


def _rows(table: pd.DataFrame | None) -> dict[tuple[str, str, str], dict[str, Any]]:
    records: list[dict[str, Any]] = [] if table is None else table.to_dict("records")
    return {(str(r["task"]), str(r["model"]), str(r["metric"])): r for r in records}


def _equal(one: Mapping[str, Any] | None, two: Mapping[str, Any] | None) -> bool:
    if one is None or two is None:
        return False
    values = [[row.get(k) if known(row.get(k)) else None for k in ("estimate", "low", "high")] for row in (one, two)]
    return values[0] == values[1]


def _metric(key: tuple[str, str, str], one: Mapping[str, Any] | None, two: Mapping[str, Any] | None) -> dict[str, Any]:
    metric = key[2]
    digits = METRICS.get(metric, ("", 3))[1]
    cells = []
    for row in (one, two):
        span = interval(row.get("low"), row.get("high"), digits) if row else ""
        cells.append((number(row["estimate"], digits) if row else ABSENT, span))
    both = one is not None and two is not None and known(one["estimate"]) and known(two["estimate"])
    text, colour = VERDICTS.get(verdict(one, two) if one and two else "", ("", ""))
    return {
        "model": key[1], "metric": metric_name(metric), "lower": metric.partition("@")[0] in LOWER_IS_BETTER,
        "cells": cells, "change": number(two["estimate"] - one["estimate"], digits, sign=True)
        if both and one and two else DASH, "chip": text, "colour": colour,
    }  # fmt: skip


def _sizes(pairs: Sequence[tuple[Any, Mapping[str, Any] | None, Mapping[str, Any] | None]]) -> tuple[str, str]:
    """n and events of each version's metrics, with their range where they are not one number."""
    texts = []
    for which in (1, 2):
        rows = [pair[which] for pair in pairs if pair[which] is not None]
        parts = []
        for name in ("n", "events"):
            values = sorted({int(row[name]) for row in rows if row and known(row.get(name))})  # type: ignore[index]
            if values:
                span = f"{values[0]:,}" + (f" to {values[-1]:,}" if len(values) > 1 else "")
                parts.append(f"{name} {span}")
        texts.append(", ".join(parts))
    return texts[0], texts[1]


def _figures(one: StudyVersion, two: StudyVersion) -> dict[str, Any]:
    """Figures of one name side by side where they differ; names of those that do not, or that one version has."""
    stems = _union(one.figures, two.figures)
    same: list[str] = []
    pairs: list[dict[str, Any]] = []
    lone: list[dict[str, Any]] = []
    for stem in stems:
        a, b = one.figures.get(stem), two.figures.get(stem)
        figure = b or a
        assert figure is not None
        title = figure.title
        if a is not None and b is not None and a.data == b.data:
            same.append(title)
            continue
        shown = [(v.name, figure_uri(f) if f is not None else "") for v, f in ((one, a), (two, b))]
        (pairs if a is not None and b is not None else lone).append(
            {"title": title, "wide": figure.wide, "shown": shown}
        )
    return {"pairs": pairs, "lone": lone, "same": same, "total": len(stems), "same_text": listed(same)}


def _cards(page: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The few numbers at the top: value, what it counts, of how many."""
    rows = [row for task in page["tasks"] for row in task["rows"]]
    total = len(rows) + sum(task["same"] for task in page["tasks"])
    apart = sum(row["chip"] == VERDICTS["apart"][0] for row in rows)
    figures = page["figures"]
    cards = [
        (len(page["parameters"]), "parameters differ", ""),
        (len(rows), "metrics differ", f"of {total:,}; {count(apart, 'pair')} of intervals apart"),
        (len(figures["pairs"]) + len(figures["lone"]), "figures differ", f"of {figures['total']:,}"),
        (len(page["files"]), "files of code differ", ""),
    ]
    if page["slides"] is not None:
        before, after = page["slides"]["counts"]
        differ = sum(int(text.split()[0].replace(",", "")) for _, text, _, _ in page["slides"]["lists"])
        cards.insert(1, (differ, "slides differ", f"{before} in {page['one']}, {after} in {page['two']}"))
    return [(f"{value:,}", what, more) for value, what, more in cards]
