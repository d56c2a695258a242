"""All models over all tasks: what is put beside what, and ranks against published values."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from histostudy.evaluation.overview import model_table, rank_table


def scores(task: str, **estimates: float) -> pd.DataFrame:
    rows = [{"task": task, "model": m, "metric": "auroc", "estimate": e, "low": e - 0.1, "high": e + 0.1, "n": 50,
             "events": 20} for m, e in estimates.items()]  # fmt: skip
    other = [row | {"metric": "brier", "estimate": 0.2} for row in rows]
    return pd.DataFrame(rows + other)


def apart(task: str, reference: str, **differences: float) -> pd.DataFrame:
    same = {"task": task, "reference": reference, "metric": "auroc", "p": 0.5, "p_adjusted": 1.0}
    rows = [same | {"model": m, "difference": d, "low": d - 0.1, "high": d + 0.1} for m, d in differences.items()]
    return pd.DataFrame(rows)


def test_a_row_holds_estimate_difference_and_cost() -> None:
    runs = {"t": {"a": pd.DataFrame({"seconds": [1.0, 5.0, 3.0], "epochs": [4, 4, 6], "parameters": [7, 7, 7]}),
                  "b": pd.DataFrame({"seconds": [2.0]})}}  # fmt: skip
    both = pd.concat([apart("t", "a", b=-0.2), apart("t", "b", a=0.2)])
    table = model_table({"t": "classification"}, {"t": scores("t", a=0.9, b=0.7)}, {"t": both}, runs, {"t": "a"})
    assert list(table["model"]) == ["a", "b"]
    a, b = table.to_dict("records")
    assert (a["estimate"], a["seconds"], a["epochs"], a["parameters"], a["runs"]) == (0.9, 3.0, 4, 7, 3)
    assert pd.isna(a["difference"]) and pd.isna(a["reference"])
    assert (b["reference"], b["difference"], b["difference_low"]) == ("a", -0.2, pytest.approx(-0.3))
    assert (table["metric"] == "auroc").all()


def test_expression_is_the_mean_over_genes() -> None:
    genes = pd.DataFrame({"task": "g", "model": "a", "metric": "pearson", "gene": ["all", "ESR1"],
                          "estimate": [0.4, 0.6], "low": 0.3, "high": 0.7, "n": 9, "events": np.nan})  # fmt: skip
    empty = pd.DataFrame(columns=["model", "reference", "difference", "low", "high", "p_adjusted"])
    table = model_table({"g": "expression"}, {"g": genes}, {"g": empty}, {"g": {}}, {"g": None})
    assert list(table["estimate"]) == [0.4]


def test_each_task_has_its_own_reference() -> None:
    kinds = dict.fromkeys(["t", "u"], "classification")
    metrics = {"t": scores("t", a=0.9, b=0.7), "u": scores("u", c=0.8, d=0.6)}
    table = model_table(
        kinds, metrics, {"t": apart("t", "a", b=-0.2), "u": apart("u", "c", d=-0.2)}, {"t": {}, "u": {}},
        {"t": "a", "u": "c"},
    )  # fmt: skip
    assert dict(zip(table["model"], table["reference"].fillna(""), strict=True)) == {
        "a": "", "b": "a", "c": "", "d": "c",
    }  # fmt: skip


@pytest.mark.parametrize(("models", "q"), [(3, 2.343), (5, 2.728), (10, 3.164)])
def test_the_critical_difference_is_demsars(models: int, q: float) -> None:
    """Table 5 of Demsar, JMLR 2006."""
    rng = np.random.default_rng(0)
    rows = [{"task": t, "model": m, "estimate": rng.random()} for t in range(14) for m in range(models)]
    ranks = rank_table(pd.DataFrame(rows))
    expected = q * np.sqrt(models * (models + 1) / (6 * 14))
    assert ranks["critical_difference"].iloc[0] == pytest.approx(expected, rel=1e-3)


def test_ranks_of_demsars_example_share_ties_and_leave_out_who_lacks_a_task() -> None:
    table = pd.DataFrame(
        [("x", "a", 0.9), ("x", "b", 0.8), ("x", "c", 0.8), ("y", "a", 0.7), ("y", "b", 0.6), ("y", "c", 0.5),
         ("x", "d", 1.0)], columns=["task", "model", "estimate"],
    )  # fmt: skip
    ranks = rank_table(table).set_index("model")
    assert ranks["mean_rank"].to_dict() == {"a": 1.0, "b": 2.25, "c": 2.75}
    assert list(ranks.index) == ["a", "b", "c"] and (ranks["tasks"] == 2).all()
    assert rank_table(table[table["task"] == "x"])["critical_difference"].isna().all()


def test_friedman_finds_one_that_is_always_best_and_nothing_in_noise() -> None:
    rng = np.random.default_rng(1)
    noise = pd.DataFrame(
        [(t, m, rng.random()) for t in range(12) for m in "abcd"], columns=["task", "model", "estimate"]
    )
    assert rank_table(noise)["friedman_p"].iloc[0] > 0.05
    better = noise.assign(estimate=noise["estimate"] + 2 * (noise["model"] == "c"))
    ranks = rank_table(better)
    assert ranks["model"].iloc[0] == "c" and ranks["friedman_p"].iloc[0] < 0.001
