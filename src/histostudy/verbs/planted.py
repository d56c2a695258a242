"""A simulated cohort's planted effects beside what the study found of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from histostudy.evaluation.comparison import MAIN_METRIC
from histostudy.files import frame_from_json, read_json
from histostudy.study import CONTROLS

if TYPE_CHECKING:
    import pandas as pd

    from histostudy.study import Study
    from histostudy.tasks import Task

Row = dict[str, Any]

#: What a metric is where nothing can be learned; a horizon after ``@`` is dropped first.
CHANCE = {"auroc": 0.5, "c_harrell": 0.5, "c_uno": 0.5, "auroc_td": 0.5, "pearson": 0.0, "spearman": 0.0}


def planted_and_found(
    study: Study,
    truth_file: Path,
    metrics: Mapping[str, pd.DataFrame],
    tables: Mapping[str, Mapping[str, pd.DataFrame]] | None = None,
) -> pd.DataFrame:
    """One row an effect: what was planted, what was found, whether they agree.

    - A task of a cohort of pixels: the reference model's interval lies above chance.
    - A task of a cohort of features: each model's interval lies above chance and begins below the oracle, the score
      of the true risk on the same patients. Above the oracle would be a leak.
    - A hazard ratio: the interval of the reference model's multivariable Cox table reaches the ratio that was
      planted, or one between it and the ratio that a Cox model finds which knows the covariates alone (what a model
      does not know pulls the ratios towards 1, so the truth lies between).
    - No effect (genes that follow nothing, shuffled outcomes): no more intervals leave chance out than do in 99 of 100
      studies by chance alone, if genes were independent; at least one may.

    Parameters
    ----------
    study : Study
        A study of a simulated cohort.
    truth_file : Path
        ``truth.json`` of the cohort.
    metrics : mapping
        Task to its metrics.
    tables : mapping, optional
        Task to its tables by name (see `read_tables`), for the hazard ratios.

    Returns
    -------
    DataFrame
        effect, planted, found, agrees.
    """
    import pandas as pd

    truth = read_json(truth_file)
    of_features = truth.get("drawn") == "features"
    rows: list[Row] = []
    for task in study.tasks:
        table = metrics[task.name]
        if task.kind == "segmentation":
            rows.append(_segmented(study, task, table))
        elif task.permute is not None:
            rows += _shuffled(study, task, table)
        elif task.kind == "expression":
            rows += _genes(task.name, of_model(study, table, "pearson"), truth["expression"], study.compare.confidence)
        elif of_features:
            rows += _models(task, table, truth)
            cox = (tables or {}).get(task.name, {}).get("cox")
            if task.kind == "survival" and cox is not None:
                rows += _hazard_ratios(task.name, cox[cox["model"] == study.compare.reference], truth["survival"])
        else:
            mine = table[table["metric"] == MAIN_METRIC[task.kind]]
            mine = mine[mine["model"] == study.reference_of(task.name)]
            if len(mine):  # a task of controls alone found nothing
                rows.append(_above_chance(task, mine.iloc[0], _of_pixels(task, truth)))
    return pd.DataFrame(rows, columns=["effect", "planted", "found", "agrees"])


def read_tables(path: Path) -> dict[str, pd.DataFrame]:
    """Tables of a task by name, as the evaluation wrote them; none where it wrote none."""
    return {name: frame_from_json(table) for name, table in read_json(path).items()} if path.exists() else {}


def of_model(study: Study, table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The reference model's rows of a metric."""
    return table[(table["model"] == study.compare.reference) & (table["metric"] == metric)]


def _of_pixels(task: Task, truth: Mapping[str, Any]) -> str:
    return {
        "classification": "a class carried by rare tiles",
        "survival": f"hazard ratio {truth['effects']['hazard_ratio_stroma']:g} a s.d. of stroma",
        "regression": "measured share of stroma",
        "tile_classification": "the tissue that was drawn",
    }[task.kind]


def _above_chance(task: Task, row: pd.Series, planted: str) -> Row:
    metric = MAIN_METRIC[task.kind]
    agrees = bool(row["low"] > CHANCE[metric])
    return {"effect": task.name, "planted": planted, "found": f"{metric} {_interval(row)}", "agrees": agrees}


def _segmented(study: Study, task: Task, table: pd.DataFrame) -> Row:
    """Outlines of what was drawn: the reference model is above the prior; of shuffled ones it is not."""
    metric = MAIN_METRIC[task.kind]
    rows = table[(table["metric"] == metric) & (table["class"] == "mean")].set_index("model")
    model, prior = rows.loc[str(study.reference_of(task.name) or "prior")], rows.loc["prior"]
    null = task.permute is not None
    agrees = bool(model["low"] <= prior["high"]) if null else bool(model["low"] > prior["estimate"])
    planted = "outlines of other slides" if null else "outlines of the tissue that was drawn"
    found = f"{metric} {_interval(model)}, prior {_interval(prior)}"
    return {"effect": task.name, "planted": planted, "found": found, "agrees": agrees}


def _models(task: Task, table: pd.DataFrame, truth: Mapping[str, Any]) -> list[Row]:
    """Each model of a task beside the oracle."""
    metric, best, planted = MAIN_METRIC[task.kind], 1.0, "nothing of this cohort's"
    if task.kind == "survival" and task.time in truth["survival"]["endpoints"]:
        oracle = truth["survival"]["endpoints"][task.time]["oracle_c"]
        best = oracle["all"]
        planted = f"true risk {best:.2f} (morphology {oracle['morphology']:.2f}, clinical {oracle['clinical']:.2f}"
        planted += f", a new site {oracle['all_but_site']:.2f})" if truth["site"]["log_hazard_sd"] else ")"
    elif task.kind == "classification" and task.target == truth["subtype"]["column"]:
        best = truth["subtype"]["oracle_auroc"]
        planted = f"true score {best:.2f}"
    rows = []
    for row in table[(table["metric"] == metric) & (table["model"] != "prior")].to_dict("records"):
        if row["model"] in CONTROLS and task.kind != "survival":
            continue  # the planted classes follow no covariate
        agrees = bool(CHANCE[metric] < row["low"] <= best)
        found = f"{metric} {_interval(row)}"
        rows.append({"effect": f"{task.name}: {row['model']}", "planted": planted, "found": found, "agrees": agrees})
    return rows


def _hazard_ratios(task: str, cox: pd.DataFrame, truth: Mapping[str, Any]) -> list[Row]:
    """Rows of the multivariable Cox table beside the planted hazard ratios."""
    rows = []
    for row in cox[cox["analysis"] == "multivariable"].to_dict("records"):
        name, power = _term(str(row["term"]), float(truth["age_sd"]))
        planted = truth["hazard_ratios"].get(name)
        if planted is None or "without_the_latents" not in planted:
            continue
        ends = [planted["hazard_ratio"] ** power, planted["without_the_latents"] ** power]
        agrees = bool(row["low"] <= max(ends) and row["high"] >= min(ends))
        rows.append({
            "effect": f"{task}: {row['term']}",
            "planted": f"hazard ratio {ends[0]:.2f} ({ends[1]:.2f} where nothing else is known)",
            "found": _interval(row | {"estimate": row["hazard_ratio"]}),
            "agrees": agrees,
        })  # fmt: skip
    return rows


def _term(term: str, age_sd: float) -> tuple[str, float]:
    """Planted effect that a term of a Cox table is of, and the power its ratio is to be raised to."""
    name = re.split(r"\s*[(:]", term, maxsplit=1)[0]
    if name == "sex":
        return "male", 1.0 if "male v female" in term and "female v" not in term else -1.0
    return name, age_sd / 10 if name == "age" else 1.0


def _shuffled(study: Study, task: Task, table: pd.DataFrame) -> list[Row]:
    """Shuffled outcomes: a row a metric, over the models that could learn (and the genes of the reference)."""
    rows = []
    if task.kind == "expression":
        table = table[(table["model"] == study.compare.reference) & (table["gene"] != "all")]
    base = table["metric"].str.split("@").str[0]
    table = table[base.isin(list(CHANCE)) & (table["model"] != "prior")].dropna(subset=["low", "high"])
    for metric, part in table.groupby("metric", sort=False):
        chance = CHANCE[str(metric).split("@")[0]]
        away = int(((part["low"] > chance) | (part["high"] < chance)).sum())
        mean = part["estimate"].mean()
        what = "genes" if task.kind == "expression" else "models"
        rows.append({
            "effect": f"{task.name}: {metric}",
            "planted": f"outcomes shuffled: {chance:g}",
            "found": f"mean {mean:.2f}; interval without {chance:g} for {away} of {len(part)} {what}",
            "agrees": away <= _by_chance(len(part), study.compare.confidence),
        })  # fmt: skip
    return rows


def _genes(task: str, table: pd.DataFrame, truth: Mapping[str, Any], confidence: float) -> list[Row]:
    planted: Mapping[str, float] = truth["r"]
    indirect: Mapping[str, float] = truth.get("through_what_is_shared", {})
    table = table[table["gene"] != "all"].set_index("gene")
    driven = table.loc[table.index.isin(list(planted))]
    others = table.loc[~table.index.isin([*planted, *indirect])]
    away = int(((others["low"] > 0) | (others["high"] < 0)).sum())
    by = {"gland_share": "the glands"}.get(truth["driven_by"], truth["driven_by"])
    rows = []
    if len(driven):
        seen = int((driven["low"] > 0).sum())
        rows.append(_gene_row(f"{task}: genes that follow {by}", planted, driven, seen == len(driven)))
    if len(through := table.loc[table.index.isin(list(indirect))]):
        # weak by construction: most are to be seen, and none better than what is shared allows
        bounded = bool(through["low"].max() <= max(abs(r) for r in indirect.values()))
        rows.append(_gene_row(f"{task}: genes of the genome, by what {by} shares with it", indirect, through, bounded))
    rows.append({
        "effect": f"{task}: all other genes",
        "planted": f"no effect for {len(others)} genes",
        "found": f"mean r {others['estimate'].mean():.2f}; interval without 0 for {away} of {len(others)}",
        "agrees": away <= _by_chance(len(others), confidence),
    })  # fmt: skip
    return rows


def _by_chance(intervals: int, confidence: float) -> int:
    """How many of so many intervals may leave the truth out in 99 of 100 studies."""
    from scipy.stats import binom

    return max(1, int(binom.ppf(0.99, intervals, 1 - confidence)))


def _gene_row(effect: str, planted: Mapping[str, float], table: pd.DataFrame, agrees: bool) -> Row:
    r = float(np.mean([abs(planted[str(gene)]) for gene in table.index]))
    seen = int((table["low"] > 0).sum())
    found = f"mean r {table['estimate'].mean():.2f}; interval above 0 for {seen} of {len(table)}"
    return {"effect": effect, "planted": f"|r| {r:g} for {len(table)} genes", "found": found, "agrees": agrees}


def _interval(row: Mapping[str, Any] | pd.Series) -> str:
    return f"{row['estimate']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
