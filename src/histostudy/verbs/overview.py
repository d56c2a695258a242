"""The verb that sets all models of a study beside each other over all its tasks."""

from __future__ import annotations

from pathlib import Path

from histostudy.files import write_table
from histostudy.layout import Layout
from histostudy.studyfile import load_study


def overview_of_study(study_file: Path) -> None:
    """Write the table of all models over all tasks, and their ranks."""
    import pandas as pd

    from histostudy.evaluation.overview import model_table, rank_table

    study = load_study(study_file)
    layout = Layout(study)
    kinds = {task.name: task.kind for task in study.tasks}
    metrics, comparison = (
        {task: pd.read_csv(layout.home / folder / f"{task}.csv") for task in kinds}
        for folder in ("metrics", "comparison")
    )
    runs = {
        task: {m: pd.read_parquet(layout.runs(task, m) / "runs.parquet") for m in study.model_names(task)}
        for task in kinds
    }
    table = model_table(kinds, metrics, comparison, runs, {task: study.reference_of(task) for task in kinds})
    write_table(layout.overview("models"), table)
    write_table(layout.overview("ranks"), rank_table(table))
