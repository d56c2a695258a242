"""The verb that puts a study's metrics into one small file, for git and for `dvc metrics`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from histostudy.files import write_json, write_table
from histostudy.layout import Layout
from histostudy.studyfile import load_study

COLUMNS = ["task", "model", "metric", "estimate", "low", "high", "n", "events"]


def summarise_metrics(study_file: Path) -> None:
    """Write ``results/summary/<study>.csv``, and the same as ``.json``, nested by task, model and metric.

    Of a task of many genes or classes the row of all of them is taken.
    """
    import pandas as pd

    study = load_study(study_file)
    layout = Layout(study)
    tables = [_whole(pd.read_csv(layout.home / "metrics" / f"{task.name}.csv")) for task in study.tasks]
    table = pd.concat(tables)[COLUMNS] if tables else pd.DataFrame(columns=COLUMNS)
    write_table(layout.summary.with_name(f"{study.study}.csv"), table)
    nested: dict[str, Any] = {}
    for row in table.to_dict("records"):
        found = {key: round(float(row[key]), 6) for key in ("estimate", "low", "high") if pd.notna(row[key])}
        nested.setdefault(row["task"], {}).setdefault(row["model"], {})[row["metric"]] = found
    write_json(layout.summary.with_name(f"{study.study}.json"), nested)


def _whole(table: Any) -> Any:
    """Rows that stand for the whole task."""
    for column, whole in (("gene", "all"), ("class", "mean")):
        if column in table:
            table = table[table[column] == whole]
    return table
