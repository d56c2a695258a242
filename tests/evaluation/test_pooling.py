"""How pooling changes a survival result, on simulated and on published risks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from statsmodels.duration.api import survdiff

from histostudy.evaluation.censoring import log_rank
from histostudy.evaluation.metrics import survival
from histostudy.evaluation.metrics.base import Run, evaluate
from histostudy.evaluation.pooling import RANK, RAW, TRAINING, pooled_strata, pooling
from histostudy.evaluation.survival_curves import km_pooled


def cut(table: pd.DataFrame) -> list[Run]:
    """Runs of a table of patient_id, fold, time, event, risk."""
    table = table.reset_index(drop=True).assign(repeat=0)
    return [
        Run(0, int(fold), part.reset_index(drop=True), table[table["fold"] != fold], part.index.to_numpy())
        for fold, part in table.groupby("fold")
    ]


def offset_folds(seed: int = 0) -> pd.DataFrame:
    """Risks without information, but folds that differ both in hazard and in the level of the risk."""
    rng = np.random.default_rng(seed)
    fold = np.arange(300) % 5
    died, left = rng.exponential(900 * np.exp(-0.5 * fold)), rng.exponential(2000, 300)
    columns = {"patient_id": [f"p{i}" for i in range(300)], "fold": fold, "risk": rng.normal(size=300) + 3 * fold}
    return pd.DataFrame(columns | {"time": np.minimum(died, left), "event": (died <= left).astype(int)})


def test_offsets_between_folds_separate_curves_only_if_raw_risks_are_pooled() -> None:
    runs = cut(offset_folds().assign(risk_median_train=lambda t: 3.0 * t["fold"]))
    table = pooling("m", runs, 0.95).set_index("pooling")
    assert list(table.index) == [TRAINING, RANK, RAW]
    assert table.loc[RAW, "logrank_p"] < 1e-4 and table.loc[RAW, "low"] > 1
    for honest in (TRAINING, RANK):
        assert table.loc[honest, "logrank_p"] > 0.05 and table.loc[honest, "low"] < 1 < table.loc[honest, "high"]
        assert abs(table.loc[honest, "c_pooled"] - 0.5) < 0.08 < table.loc[RAW, "c_pooled"] - 0.5
    assert RAW in set(pooling("m", cut(offset_folds()), 0.95)["pooling"]) and len(pooling("m", runs, 0.95)) == 3


def test_p_agrees_with_statsmodels() -> None:
    for part in pooled_strata(cut(offset_folds(3))):
        strata = part.strata if part.pooling == RANK else None
        wanted = survdiff(part.time, part.event, part.high, strata=strata)[1]
        assert log_rank(part.time, part.event, part.high, part.strata) == pytest.approx(wanted, rel=1e-9)


def test_curves_by_pooling() -> None:
    runs = cut(offset_folds())
    curves = km_pooled("m", runs, 0.95)
    assert set(curves["pooling"]) == {RANK, RAW} and set(curves["stratum"]) == {"low risk", "high risk"}
    for rule, part in curves.groupby("pooling"):
        row = pooling("m", runs, 0.95).set_index("pooling").loc[rule]
        assert part["p"].unique() == [row["logrank_p"]] and part["hr"].unique() == [row["hazard_ratio"]]
        assert part[part["time_days"] == 0]["at_risk"].sum() == 300
    assert km_pooled("prior", cut(offset_folds().assign(risk=0.0)), 0.95).empty


def test_a_collapsed_network_shows_itself_by_its_distinct_risks() -> None:
    assert (pooling("m", cut(offset_folds()), 0.95)["distinct"] == 300).all()
    collapsed = offset_folds().assign(
        risk=lambda t: t["fold"] + 1e-10 * np.arange(300)
    )  # one risk a run, but for noise
    assert (pooling("m", cut(collapsed), 0.95)["distinct"] == 5).all()


def fold_mean_c(table: pd.DataFrame) -> tuple[float, np.ndarray]:
    runs = cut(table)
    metric = next(m for m in survival.metrics([], runs) if m.name == "c_harrell")
    values = evaluate(metric, runs, np.ones((1, len(table))), survival.horizon_of(runs))
    assert values.each is not None
    return values.estimate, values.each


#: Mean c over folds (the paper's table); and computed from the released risks by others before us: c of the pooled
#: raw risk, log-rank p of its median split, log-rank p of ranks within the fold.
OTSURV = {
    "BLCA": (0.637, 0.644, 3.3e-4, 1.1e-3), "BRCA": (0.621, 0.662, 3.5e-2, 8.1e-3),
    "COADREAD": (0.667, 0.670, 9.1e-3, 4.6e-2), "KIRC": (0.750, 0.796, 5.7e-10, 5.7e-7),
    "LUAD": (0.638, 0.627, 2.3e-3, 4.0e-2), "STAD": (0.565, 0.634, 7.5e-3, 8.1e-2),
}  # fmt: skip


def test_otsurv_published_risks(shared_data: Path) -> None:
    risks = pd.read_csv(shared_data / "papers" / "otsurv" / "published_risks.csv")
    names = {"sample_id": "patient_id", "dss_days": "time"}
    risks = risks.rename(columns=names).assign(event=lambda t: 1 - t["censored"])
    means = []
    for cohort, (c, pooled_c, raw_p, rank_p) in OTSURV.items():
        table = risks[risks["cohort"] == cohort].drop(columns="cohort")
        exact, each = fold_mean_c(table)
        # in print KIRC is .750 and the mean of cohorts .646; unrounded they are .7505 and .6466. Means of values first
        # rounded to three decimals give every number in print: our reading, not the paper's word
        means.append(round(float(np.mean(np.round(each, 3))), 3))
        assert means[-1] == c and exact == pytest.approx(c, abs=6e-4), cohort
        rows = pooling(cohort, cut(table), 0.95).set_index("pooling")
        assert round(rows.loc[RAW, "c_pooled"], 3) == pooled_c, cohort
        assert float(f"{rows.loc[RAW, 'logrank_p']:.1e}") == raw_p, cohort
        # Which rule gave the second p is not written down; of those tried, ranks from 0 over n, cut at their pooled
        # median, in a test that ignores the fold, come nearest: five of six to two digits, LUAD .0395 for .040. Our
        # own rule differs where the middle patient of a fold matters, so that it has other digits.
        by_fold = table.groupby("fold")["risk"]
        rank = ((by_fold.rank() - 1) / by_fold.transform("size")).to_numpy()
        time, event = table["time"].to_numpy(float), table["event"].to_numpy() > 0
        p = log_rank(time, event, rank > np.median(rank), np.zeros(len(table)))
        assert p == pytest.approx(rank_p, rel=0.03), cohort
        if cohort == "STAD":  # what only pooling of raw risks finds
            assert rows.loc[RANK, "logrank_p"] > 0.05 > rows.loc[RAW, "logrank_p"]
    assert round(float(np.mean(means)), 3) == 0.646


def test_mcat_published_risks(shared_data: Path) -> None:
    risks = pd.read_csv(shared_data / "papers" / "mcat" / "published_risks.csv.gz")
    risks = risks.rename(columns={"os_months": "time"}).assign(event=lambda t: 1 - t["censored"])
    for cohort, c in {"blca": 0.624, "brca": 0.580, "gbmlgg": 0.817, "luad": 0.620, "ucec": 0.622}.items():
        one = risks[(risks["cohort"] == cohort) & (risks["model"] == "MCATsm")]
        assert round(fold_mean_c(one.drop(columns=["model", "cohort"]))[0], 3) == c, cohort
