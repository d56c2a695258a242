"""A simulated cohort's planted effects beside what the study found of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histostudy.files import read_json

if TYPE_CHECKING:
    import pandas as pd

    from histostudy.study import Study


def planted_and_found(study: Study, truth_file: Path, metrics: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row an effect: what was planted, what the reference model found, whether they agree.

    An effect agrees when the interval of the reference model lies above chance; no effect, when at most a tenth of
    the intervals (and one) leave zero out.

    Parameters
    ----------
    study : Study
        A study of a simulated cohort.
    truth_file : Path
        ``truth.json`` of the cohort.
    metrics : mapping
        Task to its metrics.

    Returns
    -------
    DataFrame
        effect, planted, found, agrees.
    """
    import pandas as pd

    truth = read_json(truth_file)
    rows: list[dict[str, Any]] = []
    for task in study.tasks:
        table = metrics[task.name]
        table = table[table["model"] == study.compare.reference]
        if task.kind == "expression":
            rows += _genes(task.name, table[table["metric"] == "pearson"], truth["expression"]["r"])
            continue
        metric, chance, planted = {
            "classification": ("auroc", 0.5, "a class carried by rare tiles"),
            "survival": (
                "c_harrell",
                0.5,
                f"hazard ratio {truth['effects']['hazard_ratio_stroma']:g} a s.d. of stroma",
            ),
            "regression": ("pearson", 0.0, "measured share of stroma"),
        }[task.kind]
        row = table[table["metric"] == metric].iloc[0]
        found = f"{metric} {row['estimate']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
        rows.append({"effect": task.name, "planted": planted, "found": found, "agrees": bool(row["low"] > chance)})
    return pd.DataFrame(rows)


def _genes(task: str, table: pd.DataFrame, planted: Mapping[str, float]) -> list[dict[str, Any]]:
    table = table[table["gene"] != "all"].set_index("gene")
    driven = table.loc[sorted(planted)]
    others = table.drop(index=sorted(planted))
    seen = int((driven["low"] > 0).sum())
    away = int(((others["low"] > 0) | (others["high"] < 0)).sum())
    return [
        {
            "effect": f"{task}: genes that follow the glands",
            "planted": f"|r| {abs(next(iter(planted.values()))):g} for {len(driven)} genes",
            "found": f"mean r {driven['estimate'].mean():.2f}; interval above 0 for {seen} of {len(driven)}",
            "agrees": seen == len(driven),
        },
        {
            "effect": f"{task}: all other genes",
            "planted": f"no effect for {len(others)} genes",
            "found": f"mean r {others['estimate'].mean():.2f}; interval without 0 for {away} of {len(others)}",
            "agrees": away <= max(1, len(others) // 10),
        },
    ]
