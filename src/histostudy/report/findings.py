"""The key findings, in sentences, from the tables: what was reached, against what, how surely."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from histostudy.report.numbers import CHANCE, MAIN_METRIC, interval, known, metric_name, number, p_value

if TYPE_CHECKING:
    import pandas as pd

CONTROLS = ("prior", "clinical")


def main_rows(metrics: pd.DataFrame, kind: str) -> pd.DataFrame:
    """The rows of a task's main metric, one a model (of expression: the mean over genes)."""
    rows = metrics[metrics["metric"] == MAIN_METRIC[kind]]
    if "gene" in rows:
        rows = rows[rows["gene"].isna() | rows["gene"].isin(["", "all"])]
    return rows


def key_findings(
    study: Mapping[str, Any], metrics: Mapping[str, pd.DataFrame], comparison: Mapping[str, pd.DataFrame]
) -> list[str]:
    """A sentence or three a task.

    The model named is the study's reference, chosen before the results were seen; the highest of the others is
    named as such, with its paired difference, for the highest of several is high by luck too.

    Parameters
    ----------
    study : mapping
        The resolved study.
    metrics, comparison : mapping of str to DataFrame
        Tables by task.

    Returns
    -------
    list of str
    """
    findings = []
    reference = (study.get("compare") or {}).get("reference")
    level = round(100 * float((study.get("compare") or {}).get("confidence", 0.95)))
    for task in study.get("tasks") or []:
        table = metrics.get(task["name"])
        if table is None or len(main_rows(table, task["kind"])) == 0:
            continue
        rows = main_rows(table, task["kind"]).set_index("model")
        sentence = _reference_sentence(task, rows, reference, level)
        sentence += _best_sentence(rows, reference, comparison.get(task["name"]), MAIN_METRIC[task["kind"]])
        if "clinical" in rows.index and known(rows.loc["clinical", "estimate"]):
            sentence += f" The clinical covariates alone reach {number(rows.loc['clinical', 'estimate'], 2)}."
        findings.append(sentence)
    return findings


def _reference_sentence(task: Mapping[str, Any], rows: pd.DataFrame, reference: str | None, level: int) -> str:
    metric = MAIN_METRIC[task["kind"]]
    models = [m for m in rows.index if m not in CONTROLS]
    shown = reference if reference in rows.index else (models or list(rows.index))[0]
    row = rows.loc[shown]
    over = "a mean " if task["kind"] == "expression" else ""
    sentence = f"{task['name']}: the model {shown} reaches {over}{metric_name(metric)} of {number(row['estimate'], 2)}"
    if span := interval(row["low"], row["high"], 2):
        sentence += f" ({level}% CI {span})"
    sentence += _of_whom(row)
    chance = CHANCE.get(metric)
    if chance is not None and known(row["low"]) and float(row["low"]) <= chance <= float(row["high"]):
        sentence += ", not told apart from chance"
    return sentence + "."


def _of_whom(row: pd.Series) -> str:
    if not known(row.get("n")):
        return ""
    text = f" in {int(row['n']):,} patients"
    if known(row.get("events")):
        text += f" with {int(row['events']):,} events"
    return text


def _best_sentence(rows: pd.DataFrame, reference: str | None, comparison: pd.DataFrame | None, metric: str) -> str:
    """The highest model, where it is not the reference, and its difference from it."""
    models = rows[[m not in CONTROLS and known(e) for m, e in rows["estimate"].items()]]
    if len(models) < 2:
        return ""
    best = str(models["estimate"].astype(float).idxmax())
    if best == reference:
        return f" It is the highest of {len(models)} models."
    sentence = f" The highest of {len(models)} models is {best} with {number(models.loc[best, 'estimate'], 2)}"
    if comparison is not None and len(comparison):
        found = comparison[(comparison["model"] == best) & (comparison["reference"] == reference)]
        if "metric" in found:
            found = found[found["metric"] == metric]
        if len(found):
            row = found.iloc[0]
            span = interval(row["low"], row["high"], 2, sign=True)
            sentence += f" (difference {number(row['difference'], 2, sign=True)}, {span}"
            sentence += f", adjusted p {p_value(row['p_adjusted'])})"
    return sentence + "."
