"""Curves over time against scikit-survival."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sksurv import metrics as sks
from sksurv.util import Surv

from histostudy.evaluation.censoring import Step, life_table
from histostudy.evaluation.metrics.base import Run
from histostudy.evaluation.time_dependent import BRIER_COLUMNS, POINTS, TD_AUC_COLUMNS, brier_curve, grid, td_auc

DAYS = list(range(30, 3600, 30))


def sample(n: int, seed: int, scale: float = 900) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    risk = rng.normal(size=n)
    died, left = rng.exponential(scale * np.exp(-risk)), rng.exponential(2 * scale, n)
    curves = {f"surv_{d}": np.exp(-d / scale * np.exp(risk)) for d in DAYS}
    frame = pd.DataFrame(
        {"time": np.minimum(died, left) + 1, "event": (died <= left).astype(int), "risk": risk} | curves
    )
    return frame.assign(patient_id=[f"p{i}" for i in range(n)], repeat=0, fold=0)


def one_run(seed: int = 0) -> tuple[Run, np.ndarray]:
    test, train = sample(80, seed), sample(200, seed + 100)
    return Run(0, 0, test, train, np.arange(80)), np.random.default_rng(1).multinomial(80, [1 / 80] * 80, 200) * 1.0


@pytest.mark.parametrize("seed", range(2))
def test_curves_agree_with_scikit_survival(seed: int) -> None:
    run, weights = one_run(seed)
    auc, brier = td_auc("m", [run], weights, 0.95), brier_curve("m", [run], weights, 0.95)
    assert list(auc.columns) == TD_AUC_COLUMNS and list(brier.columns) == BRIER_COLUMNS
    cut = np.minimum(run.frame["time"], run.train["time"].max() - 1e-6)
    y = Surv.from_arrays(run.train["event"] > 0, run.train["time"])
    known = Surv.from_arrays((run.frame["event"] > 0) & (cut == run.frame["time"]), cut)
    wanted = sks.cumulative_dynamic_auc(y, known, run.frame["risk"], auc["days"])[0]
    np.testing.assert_allclose(auc["estimate"], wanted, atol=1e-10)
    said = run.frame[[f"surv_{d}" for d in brier["days"]]].to_numpy()
    np.testing.assert_allclose(brier["estimate"], sks.brier_score(y, known, said, brier["days"])[1], atol=1e-10)
    for table in (auc, brier):
        assert 5 < len(table) <= POINTS and (table["n"] == 80).all() and table["events"].is_monotonic_increasing
        assert ((table["low"] <= table["estimate"]) & (table["estimate"] <= table["high"])).mean() > 0.95
    late = brier["days"] > 300
    assert (brier["estimate"] < brier["reference"])[late].mean() > 0.9  # the planted model is better than none


def test_the_training_curve_is_its_own_reference() -> None:
    run, weights = one_run()
    steps = life_table(run.train["time"].to_numpy(float), run.train["event"].to_numpy() > 0)
    prior = Step(steps.time, steps.survival)(np.array(DAYS, float))
    flat = run.frame.assign(risk=0.0, **{f"surv_{d}": s for d, s in zip(DAYS, prior, strict=True)})
    flat_run = Run(0, 0, flat, run.train, run.rows)
    table = brier_curve("prior", [flat_run], weights, 0.95)
    np.testing.assert_allclose(table["estimate"], table["reference"], atol=1e-12)
    assert (td_auc("prior", [flat_run], weights, 0.95)["estimate"] == 0.5).all()


def test_grid_stays_inside_follow_up() -> None:
    for scale in (20, 200, 900, 9000):
        run = Run(0, 0, sample(80, 0, scale), sample(200, 1, scale), np.arange(80))
        days = grid([run])
        assert len(days) <= POINTS and (not days or days[-1] < run.train["time"].max())
        assert (len(days) > 12) == (scale >= 200)


def test_without_curves_there_is_no_brier_curve() -> None:
    run, weights = one_run()
    bare = Run(0, 0, run.frame[["patient_id", "repeat", "fold", "time", "event", "risk"]], run.train, run.rows)
    assert brier_curve("m", [bare], weights, 0.95).empty
    assert len(td_auc("m", [bare], weights, 0.95)) > 5
