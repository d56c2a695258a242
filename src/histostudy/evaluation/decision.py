"""Decision curves: the net benefit of acting on a predicted probability.

Source: Vickers and Elkin, Medical Decision Making 2006 (26:565).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from histostudy.evaluation.bootstrap import BAND_RESAMPLES
from histostudy.evaluation.metrics.base import Run
from histostudy.evaluation.metrics.classification import Classes
from histostudy.evaluation.metrics.kernels import Floats

#: Probabilities at which one would act.
THRESHOLDS = np.arange(1, 100) / 100


def net_benefit(w: Floats, said: Floats, positive: Floats, thresholds: Floats = THRESHOLDS) -> Floats:
    """Net benefit ``TP / n - FP / n * p / (1 - p)`` of treating who is given a probability of at least p.

    Parameters
    ----------
    w : ndarray, shape (B, n)
        Resampling weights.
    said : ndarray, shape (n,)
        Predicted probability.
    positive : ndarray, shape (n,)
        1 for a patient of the class, else 0.
    thresholds : ndarray, shape (k,)
        Each above 0 and below 1: the odds say how many needless treatments one is worth.

    Returns
    -------
    ndarray, shape (B, k)
        Per patient; at most the share of positives, 0 for treating nobody.
    """
    worth = positive[:, None] - (1 - positive)[:, None] * (thresholds / (1 - thresholds))
    return (w @ ((said[:, None] >= thresholds) * worth)) / w.sum(1, keepdims=True)


def decision_curve(
    model: str, runs: Sequence[Run], weights: Floats, classes: Classes, confidence: float
) -> pd.DataFrame:
    """Decision curve of a model over all test patients, with pointwise bands.

    A net benefit takes the probabilities at their word, so runs are pooled and not averaged: it falls where a run
    is badly calibrated. More than two classes: each against the rest.

    Parameters
    ----------
    model : str
    runs : sequence of Run
    weights : ndarray, shape (B, P)
        Resampling weights of the task's patients; at most `BAND_RESAMPLES` are used.
    classes : Classes
    confidence : float

    Returns
    -------
    DataFrame
        model, class, threshold, net_benefit, low, high, treat_all (net benefit of treating everybody; of treating
        nobody it is 0), n (patients), events (of them of the class).
    """
    frame = pd.concat([run.frame for run in runs], ignore_index=True)
    w = weights[:BAND_RESAMPLES, np.concatenate([run.rows for run in runs])]
    one = np.ones((1, len(frame)))
    truth = frame["truth"].astype(str)
    once = ~frame["patient_id"].duplicated()
    tail = 50 * (1 - confidence)
    tables = []
    for name in classes.ranked:
        said, positive = frame[f"prob_{name}"].to_numpy(float), (truth == name).to_numpy(float)
        low, high = np.percentile(net_benefit(w, said, positive), [tail, 100 - tail], axis=0)
        columns = {
            "model": model, "class": name, "threshold": THRESHOLDS,
            "net_benefit": net_benefit(one, said, positive)[0], "low": low, "high": high,
            "treat_all": net_benefit(one, np.ones(len(frame)), positive)[0],
            "n": int(once.sum()), "events": int(positive[once].sum()),
        }  # fmt: skip
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)
