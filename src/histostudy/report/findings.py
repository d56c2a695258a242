"""The key findings, in sentences, from the tables: what was reached, against what, how surely."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from histostudy.evaluation.comparison import MAIN_METRIC
from histostudy.report.modelling import is_foreign, models_of
from histostudy.report.numbers import CHANCE, count, interval, known, listed, metric_name, number, p_value
from histostudy.report.tasks import is_null, unit_of

if TYPE_CHECKING:
    import pandas as pd

CONTROLS = ("prior", "clinical", "colour")


def main_rows(metrics: pd.DataFrame, kind: str) -> pd.DataFrame:
    """The rows of a task's main metric, one a model (a mean over genes of expression, over classes of pixels)."""
    rows = metrics[metrics["metric"] == MAIN_METRIC[kind]]
    if "gene" in rows:
        rows = rows[rows["gene"].isna() | rows["gene"].isin(["", "all"])]
    if "class" in rows:
        rows = rows[rows["class"] == "mean"]
    return rows


def shown_model(rows: pd.DataFrame, reference: str | None) -> str:
    """The model that stands for a task: the reference, else the first, else the clinical control, else the prior.

    Parameters
    ----------
    rows : DataFrame
        Indexed by model.
    reference : str, optional
    """
    models = [str(m) for m in rows.index if m not in CONTROLS]
    if reference in rows.index:
        return str(reference)
    return models[0] if models else "clinical" if "clinical" in rows.index else str(rows.index[0])


def what_it_is(study: Mapping[str, Any], model: str) -> str:
    """What a row of a table stands for: `model`, `predictions` made elsewhere, or `control`."""
    if model in CONTROLS:
        return "control"
    return "predictions" if is_foreign(models_of(study).get(model, {})) else "model"


def key_findings(
    study: Mapping[str, Any], metrics: Mapping[str, pd.DataFrame], comparison: Mapping[str, pd.DataFrame]
) -> list[str]:
    """A sentence or three a task.

    The model named is the reference that the study file names; the highest of the others is
    named as such, with its paired difference, for the highest of several is high by luck too. Of a null only
    whether the intervals hold chance is said.

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
        if is_null(task):
            findings.append(_null_sentence(task, rows, level))
            continue
        shown = shown_model(rows, reference)
        sentence = f"{task['name']}: " + _reference_sentence(study, task, table, shown, level)
        sentence += _best_sentence(
            rows, shown, comparison.get(task["name"]), MAIN_METRIC[task["kind"]], _subject(study, shown)[1]
        )
        if "clinical" in rows.index and shown != "clinical" and known(rows.loc["clinical", "estimate"]):
            sentence += f" The clinical covariates alone reach {number(rows.loc['clinical', 'estimate'], 2)}."
        findings.append(sentence)
    return findings


def _reference_sentence(
    study: Mapping[str, Any], task: Mapping[str, Any], table: pd.DataFrame, shown: str, level: int
) -> str:
    metric = MAIN_METRIC[task["kind"]]
    rows = main_rows(table, task["kind"]).set_index("model")
    row = rows.loc[shown]
    who, many = _subject(study, shown)
    if all(m in CONTROLS for m in rows.index):
        who = f"no model was studied; {who}"
    if not known(row["estimate"]):
        # a constant prediction has no correlation: what it has is an error
        verb = "have" if many else "has"
        error = table[(table["model"] == shown) & (table["metric"] == "r2")]
        error = main_rows(error.assign(metric=metric), task["kind"])
        text = f"{who} {verb} no {metric_name(metric)}{_of_whom(row, task)}, being the same for all of a fold"
        return f"{text}; R\N{SUPERSCRIPT TWO} {number(error['estimate'].iloc[0], 2)}." if len(error) else f"{text}."
    over = "a mean " if task["kind"] == "expression" else ""
    chance, doubt = CHANCE.get(metric), ""
    if chance is not None and known(row["low"]) and float(row["low"]) < float(row["high"]):
        if float(row["low"]) <= chance <= float(row["high"]):
            doubt = ", not told apart from chance"
        elif float(row["high"]) < chance:
            doubt = ", below chance"
    verb = ("have" if doubt else "reach") if many else ("has" if doubt else "reaches")
    sentence = f"{who} {verb} {over}{metric_name(metric)} of {number(row['estimate'], 2)}"
    if span := interval(row["low"], row["high"], 2):
        sentence += f" ({level}% CI {span})"
    return f"{sentence}{_of_whom(row, task)}{doubt}."


def _subject(study: Mapping[str, Any], model: str) -> tuple[str, bool]:
    """Who a sentence is about, and whether that is a plural."""
    if model == "clinical":
        return "the clinical covariates alone", True
    if model == "colour":
        return "the control colour, which sees nothing else,", False
    if model == "prior":
        return "the control prior, one prediction for everybody,", False
    if what_it_is(study, model) == "predictions":
        return f"the predictions {model}, made elsewhere,", True
    return f"the model {model}", False


def _null_sentence(task: Mapping[str, Any], rows: pd.DataFrame, level: int) -> str:
    """Whether the intervals of a shuffled task hold chance; no number of it is a result."""
    metric = MAIN_METRIC[task["kind"]]
    chance = CHANCE.get(metric)
    judged = rows[[m != "prior" and known(r["low"]) and known(r["high"]) for m, r in rows.iterrows()]]
    text = f"{task['name']}: a null, its outcomes shuffled among the {unit_of(task)}s"
    if chance is None or len(judged) == 0:
        return text + "; nothing here is a result."
    out = [str(m) for m, r in judged.iterrows() if not float(r["low"]) <= chance <= float(r["high"])]
    what = f"{level}% interval{'s' if len(judged) > 1 else ''} of {metric_name(metric)}"
    who = listed([str(m) for m in judged.index])
    at = f"chance ({number(chance, 1)})"
    if not out:
        return f"{text}; the {what} of {who} hold{'s' if len(judged) == 1 else ''} {at}, as it should be."
    return (
        f"{text}; of {len(judged)} {what} {len(out)} leave{'s' if len(out) == 1 else ''} {at} out ({listed(out)}): "
        f"expect {100 - level} in 100 by luck, and look for a leak beyond that."
    )


def _of_whom(row: pd.Series, task: Mapping[str, Any]) -> str:
    if not known(row.get("n")):
        return ""
    text = f" in {count(row['n'], unit_of(task))}"
    if known(row.get("events")):
        text += f" with {count(row['events'], 'event')}"
    return text


def _best_sentence(rows: pd.DataFrame, shown: str, comparison: pd.DataFrame | None, metric: str, many: bool) -> str:
    """The highest model, where it is not the one shown, and its difference from it."""
    models = rows[[m not in CONTROLS and known(e) for m, e in rows["estimate"].items()]]
    if len(models) < 2:
        return ""
    best = str(models["estimate"].astype(float).idxmax())
    if best == shown:
        return f" {'They are' if many else 'It is'} the highest of {len(models)} models."
    sentence = f" The highest of {len(models)} models is {best} with {number(models.loc[best, 'estimate'], 2)}"
    if comparison is not None and len(comparison):
        found = comparison[(comparison["model"] == best) & (comparison["reference"] == shown)]
        if "metric" in found:
            found = found[found["metric"] == metric]
        if len(found) and known(found.iloc[0]["difference"]):
            row = found.iloc[0]
            span = interval(row["low"], row["high"], 2, sign=True)
            sentence += f" (difference {number(row['difference'], 2, sign=True)}, {span}"
            sentence += f", adjusted p {p_value(row['p_adjusted'])})"
    return sentence + "."
