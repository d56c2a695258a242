"""A task's metrics as tables of a page: what a reader looks for first, and the rest folded away."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from histostudy.report.numbers import DASH, LOWER_IS_BETTER, METRICS, interval, known, metric_name, metric_order, number

if TYPE_CHECKING:
    import pandas as pd

#: Metrics of a kind that stand in its first table, with those at a time named without it; all of other kinds.
FIRST: dict[str, tuple[str, ...]] = {
    "survival": ("c_harrell", "c_uno", "auroc_td", "ibs", "ibs_skill", "calibration_slope"),
}


def metric_tables(rows: pd.DataFrame, kind: str, describe: Callable[[str], Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One table, or two of which the second is folded.

    A metric that no model has (S(t) is not predicted by those made elsewhere) does not take room in the first table.

    Parameters
    ----------
    rows : DataFrame
        model, metric, estimate, low, high; one row a model and metric.
    kind : str
        Kind of the task.
    describe : callable
        Of a model: its name, whether it is a control, its chips.

    Returns
    -------
    list of dict
        metrics (name, lower), models (what `describe` says, and cells), folded.
    """
    models = list(dict.fromkeys(rows["model"]))
    order = sorted(rows["metric"].unique(), key=metric_order)
    about = {model: dict(describe(model)) for model in models}
    studied = rows[[not about[m]["control"] and known(e) for m, e in zip(rows["model"], rows["estimate"], strict=True)]]
    there = set((studied if len(studied) else rows)["metric"])
    first = [m for m in order if m in there and (kind not in FIRST or m.partition("@")[0] in FIRST[kind])]
    cells = rows.set_index(["model", "metric"])
    tables = [(first, False), ([m for m in order if m not in first], True)]
    return [
        {
            "metrics": [{"name": metric_name(m), "lower": m.partition("@")[0] in LOWER_IS_BETTER} for m in shown],
            "models": [about[model] | {"cells": [_cell(cells, model, m) for m in shown]} for model in models],
            "folded": folded,
        }
        for shown, folded in tables
        if shown
    ]


def _cell(cells: pd.DataFrame, model: str, metric: str) -> dict[str, str]:
    if (model, metric) not in cells.index:
        return {"value": DASH, "span": ""}
    row = cells.loc[(model, metric)]
    digits = METRICS.get(metric, ("", 3))[1]
    return {"value": number(row["estimate"], digits), "span": interval(row["low"], row["high"], digits)}
