"""All models over all tasks, as a table of the page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from histostudy.report.numbers import DASH, interval, known, metric_name, number

if TYPE_CHECKING:
    import pandas as pd


def overview_table(table: pd.DataFrame, ranks: pd.DataFrame) -> dict[str, Any]:
    """A row a model in the order of the ranks, a column a task.

    Parameters
    ----------
    table, ranks : DataFrame
        As `histostudy.evaluation.overview` makes them.

    Returns
    -------
    dict
        tasks (name, metric), reference, note, timed (whether seconds are known), and models: name, rank, cells (value,
        span, difference), seconds, parameters. A model that some task lacks stands last, without a rank.
    """
    tasks = list(dict.fromkeys(table["task"]))
    ranked = ranks.set_index("model")["mean_rank"]
    names = [*ranked.index, *(m for m in dict.fromkeys(table["model"]) if m not in ranked.index)]
    rows = table.set_index(["task", "model"])
    costs = table.groupby("model")[["seconds", "parameters"]].median()
    references = table["reference"].dropna()
    return {
        "tasks": [(t, metric_name(str(table.loc[table["task"] == t, "metric"].iloc[0]))) for t in tasks],
        "reference": " or ".join(dict.fromkeys(references.astype(str))),
        "note": _note(ranks),
        "timed": bool(costs["seconds"].notna().any()),
        "models": [
            {
                "name": model,
                "rank": number(ranked[model], 1) if model in ranked.index else DASH,
                "cells": [_cell(rows.loc[(t, model)]) if (t, model) in rows.index else _cell(None) for t in tasks],
                "seconds": number(costs.at[model, "seconds"], 1),
                "parameters": f"{int(costs.at[model, 'parameters']):,}"
                if known(costs.at[model, "parameters"])
                else DASH,
            }
            for model in names
        ],
    }


def _cell(row: pd.Series | None) -> dict[str, str]:
    if row is None:
        return {"value": DASH, "span": "", "difference": ""}
    difference = ""
    if known(row["difference"]):
        sign = "+" if row["difference"] > 0 else ""
        difference = (
            f"{sign}{number(row['difference'], 3)} {interval(row['difference_low'], row['difference_high'], 3)}"
        )
        difference += "*" if row["p_adjusted"] < 0.05 else ""
    return {"value": number(row["estimate"], 3), "span": interval(row["low"], row["high"], 3), "difference": difference}


def _note(ranks: pd.DataFrame) -> str:
    """What the ranks say as a whole."""
    first = ranks.iloc[0]
    if not known(first["critical_difference"]):
        return ""
    return (
        f"Mean ranks over {int(first['tasks'])} tasks: Friedman p {number(first['friedman_p'], 3)}; two models less "
        f"than {number(first['critical_difference'], 1)} apart are not told apart (Nemenyi)."
    )
