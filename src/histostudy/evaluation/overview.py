"""All models over all tasks: estimates, differences from the reference, what training them took, and their ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from histostudy.evaluation.comparison import MAIN_METRIC

COLUMNS = [
    "task", "model", "metric", "estimate", "low", "high", "n", "events", "reference", "difference", "difference_low",
    "difference_high", "p_adjusted", "seconds", "epochs", "parameters", "runs",
]  # fmt: skip


def model_table(
    kinds: Mapping[str, str],
    metrics: Mapping[str, pd.DataFrame],
    comparison: Mapping[str, pd.DataFrame],
    runs: Mapping[str, Mapping[str, pd.DataFrame]],
    references: Mapping[str, str | None],
) -> pd.DataFrame:
    """One row a task and model: the main metric, its difference from the reference, and the cost of a run.

    Parameters
    ----------
    kinds : mapping of str to str
        Kind of each task, in their order.
    metrics, comparison : mapping of str to DataFrame
        Tables of each task, as the evaluation wrote them.
    runs : mapping
        By task and model the index of the runs: seconds, epochs, parameters.
    references : mapping of str to str or None
        By task the model that the others are compared with.

    Returns
    -------
    DataFrame
        task, model, metric, estimate, low, high, n, events; reference, difference, difference_low, difference_high,
        p_adjusted (empty for the reference); medians over the runs of seconds (wall clock), epochs and parameters;
        number of runs.
    """
    rows = []
    for task, kind in kinds.items():
        metric = MAIN_METRIC[kind]
        scored = metrics[task]
        scored = scored[scored["metric"] == metric]
        if "gene" in scored:
            scored = scored[scored["gene"] == "all"]
        if "class" in scored:
            scored = scored[scored["class"] == "mean"]
        apart, reference = comparison[task], references.get(task)
        apart = apart[apart["reference"] == reference].set_index("model")
        for one in scored.to_dict("records"):
            model = str(one["model"])
            row = {"task": task} | {key: one.get(key) for key in COLUMNS[1:8]}
            if model in apart.index:
                two = apart.loc[model]
                row |= {"reference": reference, "difference": two["difference"], "difference_low": two["low"]}
                row |= {"difference_high": two["high"], "p_adjusted": two["p_adjusted"]}
            if (index := runs[task].get(model)) is not None:
                row |= {key: index[key].median() for key in ("seconds", "epochs", "parameters") if key in index}
                row["runs"] = len(index)
            rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


def rank_table(table: pd.DataFrame, *, alpha: float = 0.05) -> pd.DataFrame:
    """Mean rank of each model over the tasks, with Friedman's test and Nemenyi's critical difference.

    Parameters
    ----------
    table : DataFrame
        task, model, estimate; a higher estimate is better. A model that some task lacks is left out.
    alpha : float
        Level of the critical difference.

    Returns
    -------
    DataFrame
        model, mean_rank (1 is best; ties share), tasks, critical_difference, friedman_p: best first. The last two are
        NaN with fewer than two tasks or three models.

    Notes
    -----
    Tasks are the blocks, as data sets are in Demšar (JMLR 2006): folds of one task are not independent and are not
    counted. Two models whose mean ranks are less than ``q sqrt(k (k + 1) / (6 N))`` apart are not told apart.
    """
    wide = table.pivot(index="task", columns="model", values="estimate").dropna(axis=1)
    tasks, models = wide.shape
    ranks = wide.rank(axis=1, ascending=False).mean().sort_values(kind="stable")
    out = pd.DataFrame({"model": ranks.index, "mean_rank": ranks.to_numpy(), "tasks": tasks})
    out["critical_difference"], out["friedman_p"] = math.nan, math.nan
    if tasks >= 2 and models >= 3:
        from scipy.stats import friedmanchisquare, studentized_range

        q = studentized_range.ppf(1 - alpha, models, math.inf) / math.sqrt(2)
        out["critical_difference"] = q * math.sqrt(models * (models + 1) / (6 * tasks))
        out["friedman_p"] = friedmanchisquare(*(wide[model] for model in wide)).pvalue
    return out
