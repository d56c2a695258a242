"""Kaplan-Meier tables: curves of groups against statsmodels, and which cut parts low from high risk."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from histostudy.evaluation.censoring import log_rank
from histostudy.evaluation.cox import hazard_ratio
from histostudy.evaluation.metrics.base import Run
from histostudy.evaluation.pooling import RANK, TRAINING
from histostudy.evaluation.survival_curves import STRATA, kaplan_meier, km_of_groups

COLUMNS = ["stratum", "time_days", "survival", "low", "high", "at_risk", "events", "p"]


def test_curves_of_groups_start_at_one_and_agree_with_statsmodels() -> None:
    from statsmodels.duration.survfunc import SurvfuncRight

    rng = np.random.default_rng(1)
    time, event = np.ceil(rng.exponential(400, 200)), rng.uniform(size=200) < 0.6
    group = rng.choice(["luminal A", "luminal B", "basal-like"], 200)
    table = km_of_groups(time, event, group, np.zeros(200), 0.95)
    assert list(table.columns) == COLUMNS and table["p"].nunique() == 1
    for name, part in table.groupby("stratum"):
        theirs = SurvfuncRight(time[group == name], event[group == name])
        at = part.set_index("time_days")
        np.testing.assert_allclose(at.loc[theirs.surv_times, "survival"], theirs.surv_prob)
        assert at.loc[0, "survival"] == 1 and at.loc[0, "at_risk"] == (group == name).sum()
        assert (part["low"] <= part["survival"]).all() and (part["survival"] <= part["high"]).all()
    order = ["luminal B", "basal-like", "luminal A"]
    assert list(dict.fromkeys(km_of_groups(time, event, group, np.zeros(200), 0.95, order)["stratum"])) == order


def runs(risk: np.ndarray, cutoff: np.ndarray | None = None) -> tuple[list[Run], pd.DataFrame]:
    rng = np.random.default_rng(2)
    died, left = rng.exponential(800 * np.exp(-risk)), rng.exponential(1500, risk.size)
    fold = np.arange(risk.size) % 3
    columns = {"patient_id": [f"p{i}" for i in range(risk.size)], "risk": risk, "fold": fold, "repeat": 0}
    table = pd.DataFrame(columns | {"time": np.ceil(np.minimum(died, left)), "event": died <= left})
    if cutoff is not None:
        table["risk_median_train"] = cutoff
    made = [Run(0, k, table[fold == k].reset_index(drop=True), table, np.flatnonzero(fold == k)) for k in range(3)]
    return made, table


def test_the_cut_is_the_training_median_where_it_is_known_else_the_rank_within_the_fold() -> None:
    risk = np.random.default_rng(3).normal(size=120) + 2 * (np.arange(120) % 3)  # folds of other levels
    for cutoff, rule, high in (
        (np.full(120, 1.5), TRAINING, risk > 1.5),
        (None, RANK, risk > pd.Series(risk).groupby(np.arange(120) % 3).transform("median").to_numpy()),
    ):
        parts, table = runs(risk, cutoff)
        curves = kaplan_meier("m", parts, 0.95)
        assert list(curves.columns) == ["model", *COLUMNS, "hr", "hr_low", "hr_high", "rule"]
        assert list(dict.fromkeys(curves["stratum"])) == list(STRATA) and set(curves["rule"]) == {rule}
        start = curves[curves["time_days"] == 0].set_index("stratum")["at_risk"]
        assert start["high risk"] == high.sum() and start["low risk"] == (~high).sum()
        time, event, fold = (table[c].to_numpy() for c in ("time", "event", "fold"))
        assert curves["p"].iloc[0] == pytest.approx(log_rank(time, event, high, fold))
        assert curves["hr"].iloc[0] == pytest.approx(hazard_ratio(time, event, high, fold)[0])


def test_one_stratum_has_no_curves() -> None:
    risk = np.random.default_rng(4).normal(size=60)
    assert kaplan_meier("m", runs(risk, np.full(60, -99.0))[0], 0.95).empty
    assert kaplan_meier("prior", runs(np.zeros(60))[0], 0.95).empty
