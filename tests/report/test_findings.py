"""Key findings say who reached what, and hail no null."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from histostudy.report.findings import key_findings, shown_model

FOREIGN = {"aggregator": None, "predictions": "x.csv"}
OWN = {"aggregator": "abmil", "predictions": None}


def table(metric: str = "c_harrell", **models: tuple[float, float, float]) -> pd.DataFrame:
    """Estimate, low and high of each model, of 100 patients with 40 events."""
    rows = [
        {"model": m, "metric": metric, "estimate": e, "low": low, "high": high, "n": 100, "events": 40}
        for m, (e, low, high) in models.items()
    ]
    return pd.DataFrame(rows)


def say(rows: pd.DataFrame, models: dict[str, Any], reference: str | None = "a", **task: Any) -> str:
    """The finding of one survival task, or of another kind."""
    task = {"name": "os", "kind": "survival"} | task
    study = {"tasks": [task], "models": models, "compare": {"reference": reference}}
    return key_findings(study, {"os": rows}, {})[0]


def test_predictions_made_elsewhere_are_no_model_of_ours():
    rows = table(prior=(0.5, 0.5, 0.5), clinical=(0.7, 0.6, 0.8), a=(0.64, 0.58, 0.7))
    assert say(rows, {"a": FOREIGN}) == (
        "os: the predictions a, made elsewhere, reach C (Harrell) of 0.64 (95% CI 0.58 to 0.70) in 100 patients with "
        "40 events. The clinical covariates alone reach 0.70."
    )
    assert "the model a reaches" in say(rows, {"a": OWN})
    both = table(a=(0.64, 0.58, 0.7), b=(0.6, 0.5, 0.7))
    assert "They are the highest of 2 models." in say(both, {"a": FOREIGN, "b": OWN})


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0.4, 0.6, "has C (Harrell) of 0.51 (95% CI 0.40 to 0.60) in 100 patients with 40 events, not told apart"),
     (0.52, 0.6, "reaches C"), (0.3, 0.45, "below chance")],
)  # fmt: skip
def test_nothing_reaches_chance(low, high, said):
    assert said in say(table(a=(0.51, low, high)), {"a": OWN})


def test_a_null_is_not_hailed():
    holds = say(table(prior=(0.5, 0.5, 0.5), a=(0.61, 0.45, 0.7), b=(0.4, 0.3, 0.52)), {"a": OWN, "b": OWN}, permute=1)
    assert holds == (
        "os: a null, its outcomes shuffled among the patients; the 95% intervals of C (Harrell) of a and b hold chance "
        "(0.5), as it should be."
    )
    leaks = say(table(a=(0.61, 0.55, 0.7), b=(0.4, 0.3, 0.52)), {"a": OWN, "b": OWN}, permute=0)
    assert "of 2 95% intervals of C (Harrell) 1 leaves chance (0.5) out (a)" in leaks
    assert "look for a leak" in leaks
    for text in (holds, leaks):
        assert "highest" not in text
        assert "reach" not in text


def test_controls_alone():
    said = say(table(prior=(0.5, 0.5, 0.5), clinical=(0.7, 0.6, 0.8)), {}, None)
    assert said.startswith("os: no model was studied; the clinical covariates alone reach C (Harrell) of 0.70")
    assert said.count("clinical") == 1
    nan = (float("nan"),) * 3
    genes = pd.concat([table("pearson", prior=nan), table("r2", prior=(-0.003, -0.01, 0.0))]).assign(gene="all")
    said = say(genes.assign(events=np.nan), {}, None, kind="expression")
    assert "no model was studied; the control prior, one prediction for everybody, has no Pearson r" in said
    assert "in 100 patients, being the same for all of a fold; R\N{SUPERSCRIPT TWO} 0.00." in said


def test_spots_are_no_patients():
    rows = table("pearson", a=(0.4, 0.3, 0.5)).assign(gene="all", events=np.nan)
    assert "in 100 spots." in say(rows, {"a": OWN}, kind="expression", level="spot")


def test_an_undefined_difference_is_left_out():
    rows = table(a=(0.6, 0.5, 0.7), b=(0.65, 0.6, 0.7))
    compared = pd.DataFrame({"model": ["b"], "reference": ["a"], "metric": ["c_harrell"], "difference": [np.nan],
                             "low": [np.nan], "high": [np.nan], "p": [np.nan], "p_adjusted": [np.nan]})  # fmt: skip
    study = {"tasks": [{"name": "os", "kind": "survival"}], "models": {"a": OWN, "b": OWN},
             "compare": {"reference": "a"}}  # fmt: skip
    assert key_findings(study, {"os": rows}, {"os": compared})[0].endswith("The highest of 2 models is b with 0.65.")


def test_who_stands_for_a_task():
    rows = table(prior=(0.5, 0.5, 0.5), clinical=(0.6, 0.5, 0.7), b=(0.6, 0.5, 0.7), a=(0.6, 0.5, 0.7))
    rows = rows.set_index("model")
    assert [shown_model(rows, "a"), shown_model(rows, "gone"), shown_model(rows, None)] == ["a", "b", "b"]
    assert shown_model(rows.loc[["prior", "clinical"]], None) == "clinical"
    assert shown_model(rows.loc[["prior"]], "a") == "prior"
