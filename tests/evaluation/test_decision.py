"""Decision curves against sums done by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from histostudy.evaluation.bootstrap import bootstrap_weights
from histostudy.evaluation.decision import THRESHOLDS, decision_curve, net_benefit
from histostudy.evaluation.metrics.base import Run
from histostudy.evaluation.metrics.classification import Classes

CLASSES = Classes(("a", "b"), "b")


def run(said: np.ndarray, positive: np.ndarray, fold: int = 0, start: int = 0) -> Run:
    rows = np.arange(start, start + said.size)
    frame = pd.DataFrame({"patient_id": rows.astype(str), "truth": np.where(positive > 0, "b", "a")})
    return Run(0, fold, frame.assign(prob_a=1 - said, prob_b=said), pd.DataFrame(), rows)


def test_by_hand() -> None:
    said, positive = np.array([0.9, 0.6, 0.5, 0.2, 0.1]), np.array([1.0, 0, 1, 0, 0])
    found = net_benefit(np.ones((1, 5)), said, positive, np.array([0.15, 0.5, 0.55, 0.95]))[0]
    # treated: 4 (2 right), 3 (2 right; the one at the threshold is treated), 2 (1 right), none
    by_hand = [2 / 5 - 2 / 5 * 0.15 / 0.85, 2 / 5 - 1 / 5, 1 / 5 - 1 / 5 * 0.55 / 0.45, 0]
    assert found == pytest.approx(by_hand)
    twice = net_benefit(np.array([[2.0, 0, 1, 1, 1]]), said, positive, np.array([0.15]))[0, 0]
    assert twice == pytest.approx(3 / 5 - 1 / 5 * 0.15 / 0.85)


def test_curve() -> None:
    rng = np.random.default_rng(0)
    positive = (rng.uniform(size=400) < 0.3).astype(float)
    logit = rng.normal(size=400) + 2.5 * positive - 2
    said = 1 / (1 + np.exp(-logit))
    runs = [run(said[:200], positive[:200]), run(said[200:], positive[200:], 1, 200)]
    weights = bootstrap_weights(np.repeat([0, 1], 200), 700, 0)
    table = decision_curve("abmil", runs, weights, CLASSES, 0.95)
    assert list(table) == ["model", "class", "threshold", "net_benefit", "low", "high", "treat_all", "n", "events"]
    assert (table["n"] == 400).all() and (table["events"] == positive.sum()).all() and set(table["class"]) == {"b"}
    assert (table["low"] <= table["net_benefit"]).mean() > 0.95 and (
        table["net_benefit"] <= table["high"]
    ).mean() > 0.95
    share = positive.mean()
    assert table["treat_all"].to_numpy() == pytest.approx(share - (1 - share) * THRESHOLDS / (1 - THRESHOLDS))
    at = table.set_index("threshold")
    assert at.loc[0.3, "low"] > max(0, at.loc[0.3, "treat_all"])  # a planted signal is worth acting on
    assert table["net_benefit"].max() <= share
    again = decision_curve("abmil", runs, weights[:500], CLASSES, 0.95)
    pd.testing.assert_frame_equal(table, again)  # at most 500 resamples


def test_a_constant_is_treat_all_and_then_nobody() -> None:
    positive = np.arange(40) % 4 == 0
    one = run(np.full(40, 0.25), positive.astype(float))
    table = decision_curve("prior", [one], np.ones((3, 40)), CLASSES, 0.95)
    low = table["threshold"] <= 0.25
    assert table.loc[low, "net_benefit"].to_numpy() == pytest.approx(table.loc[low, "treat_all"].to_numpy())
    assert (table.loc[~low, "net_benefit"] == 0).all()


def test_each_of_three_classes_and_patients_tested_twice() -> None:
    rng = np.random.default_rng(1)
    truth = np.array(["a", "b", "c"])[np.arange(30) % 3]
    probabilities = rng.dirichlet(np.ones(3), 30)
    frame = pd.DataFrame({"patient_id": np.arange(30).astype(str), "truth": truth})
    frame = frame.assign(**{f"prob_{c}": probabilities[:, k] for k, c in enumerate("abc")})
    runs = [Run(repeat, 0, frame, pd.DataFrame(), np.arange(30)) for repeat in (0, 1)]
    table = decision_curve("m", runs, np.ones((2, 30)), Classes(("a", "b", "c"), "c"), 0.95)
    assert table.groupby("class").size().to_dict() == {"a": 99, "b": 99, "c": 99}
    assert (table["n"] == 30).all() and (table["events"] == 10).all()
