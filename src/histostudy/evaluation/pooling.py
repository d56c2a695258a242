"""What pooling does to a survival result: risks of several runs share no scale, and mixing them can separate curves.

Published studies often cut the pooled raw risks at their median; here the same patients are also cut at each run's
training median, and by rank within the fold, side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from histostudy.evaluation.censoring import log_rank
from histostudy.evaluation.cox import hazard_ratio
from histostudy.evaluation.metrics.base import Run
from histostudy.evaluation.metrics.kernels import Floats, concordance, tie_starts
from histostudy.evaluation.metrics.survival import TIED, outcome, rank_within_run
from histostudy.evaluation.runs import CUTOFF

TRAINING, RANK, RAW = "training median", "rank within fold", "raw risk pooled"
POOLING_COLUMNS = [
    "model", "pooling", "logrank_p", "hazard_ratio", "low", "high", "c_pooled", "n", "events", "distinct",
]  # fmt: skip


class Pooled(NamedTuple):
    """The test patients of a model, called high or low risk by one rule.

    Attributes
    ----------
    pooling : str
        The rule.
    time, event, score, high : ndarray, shape (n,)
        Follow-up, the score that the rule puts on one scale, and whether it is above the cut.
    strata : ndarray, shape (n,)
        The run that tested each patient; one constant where the rule ignores it.
    """

    pooling: str
    time: Floats
    event: np.ndarray
    score: Floats
    high: np.ndarray
    strata: np.ndarray


def pooled_strata(runs: Sequence[Run]) -> list[Pooled]:
    """The test patients cut by each rule; a patient tested by several runs is taken from the first.

    - `training median` (only where every run tells it): risk less the median risk of the run's training part, above 0;
    - `rank within fold`: ``(rank - 1/2) / n`` in the fold's test part, above 1/2. The middle patient of a fold of odd
      size is called low; which side he falls on can matter in small folds;
    - `raw risk pooled`: above the median of all, with the test ignoring the fold, as it is often published.
    """
    frames = [run.frame.assign(repeat=run.repeat, fold=run.fold) for run in runs]
    table = pd.concat(frames, ignore_index=True)
    table["_rank"] = rank_within_run(table)
    table = table.drop_duplicates("patient_id", ignore_index=True)
    time, event, risk = outcome(table)
    strata = (table["repeat"].astype(str) + "-" + table["fold"].astype(str)).to_numpy(str)
    rank = table["_rank"].to_numpy(float)
    out = []
    if CUTOFF in table and table[CUTOFF].notna().all():
        above = risk - table[CUTOFF].to_numpy(float)
        out.append(Pooled(TRAINING, time, event, above, above > 0, strata))
    out.append(Pooled(RANK, time, event, rank, rank > 0.5 + 1e-9, strata))
    out.append(Pooled(RAW, time, event, risk, risk > np.median(risk), np.zeros(risk.size, int)))
    return out


def pooling(model: str, runs: Sequence[Run], confidence: float) -> pd.DataFrame:
    """High against low risk under each rule of `pooled_strata`.

    Returns
    -------
    DataFrame
        model, pooling, logrank_p and hazard_ratio with low and high (stratified by run, except for the raw pooled
        risk), c_pooled (Harrell's concordance of the rule's score over all patients), n, events, distinct (different
        risks among the patients, the same in each row: a network that says nearly the same of everybody has few).
    """
    rows: list[dict[str, Any]] = []
    parts = pooled_strata(runs)
    risks = next(part.score for part in parts if part.pooling == RAW)
    distinct = tie_starts(np.sort(risks), TIED).size
    for part in parts:
        ratio, low, high = hazard_ratio(part.time, part.event, part.high, part.strata, confidence)
        c = concordance(np.ones((1, part.time.size)), part.time, part.event, part.score)[0]
        row = {"model": model, "pooling": part.pooling, "hazard_ratio": ratio, "low": low, "high": high}
        row |= {"logrank_p": log_rank(part.time, part.event, part.high, part.strata), "c_pooled": float(c)}
        rows.append(row | {"n": part.time.size, "events": int(part.event.sum()), "distinct": distinct})
    return pd.DataFrame(rows, columns=POOLING_COLUMNS)
