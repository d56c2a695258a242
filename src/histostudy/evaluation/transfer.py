"""How well models of one outcome or cohort rank the patients of another: the transfer matrix of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from histostudy.errors import StudyError
from histostudy.evaluation.bootstrap import Floats, interval
from histostudy.evaluation.metrics.base import Metric, evaluate
from histostudy.evaluation.metrics.survival import c_harrell
from histostudy.evaluation.runs import check, runs_of

#: The source that is the mean of all others.
AVERAGE = "uniform average"
COLUMNS = ["source", "target", "estimate", "low", "high", "n", "events"]
NEEDED = ["source", "target", "patient_id", "repeat", "fold", "risk", "time", "event"]
_METRIC = Metric("c_harrell", "fold mean", c_harrell, bounds=(0.0, 1.0))


def transfer(
    predictions: pd.DataFrame,
    patients: Mapping[str, Sequence[str]],
    weights: Mapping[str, Floats],
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Harrell's concordance of each source's model on each target's test patients.

    The mean over the target's folds, since risks of two runs need not share a scale; patients are resampled within
    their fold. Beside the sources each target has a row `uniform average`, the mean of the within-run z-scored
    risks of all sources but the target's own, where they are two or more: what a learned mixture must beat.

    The best single source has no row: to pick it here would be to pick it on the test part, and its estimate would
    be too high by the choice alone. Choose it by the inner part of the training and read its row.

    A source that was trained on patients who are among a target's test patients (two outcomes of one cohort with
    different folds) is not a transfer: leave such predictions out.

    Parameters
    ----------
    predictions : DataFrame
        source, target, patient_id, repeat, fold, risk, time (days), event: a row for each source, target, run of
        the target that tests the patient, and patient. With source and target the same, the target's own model.
    patients : mapping of str to sequence of str
        Test patients of each target, in the order of its weights.
    weights : mapping of str to ndarray
        (B, P) resampling weights of each target (`bootstrap_weights`, strata the folds).
    confidence : float
        Of the intervals.

    Returns
    -------
    DataFrame
        source, target, estimate, low, high, n (patients), events; targets and sources by name, the average last.

    Raises
    ------
    StudyError
        If a column is missing, a risk is not finite, a patient occurs twice in a run or is not among the target's,
        or two sources did not predict the same patients of a target in the same runs.
    """
    if absent := [name for name in NEEDED if name not in predictions]:
        raise StudyError(f"no column {absent[0]}", where="transfer predictions", todo=f"give {', '.join(NEEDED)}")
    rows: list[dict[str, Any]] = []
    for name, of_target in predictions.groupby("target", sort=True):
        target = str(name)
        if target not in weights or target not in patients:
            raise StudyError(f"no resampling weights of {target}", where="transfer", todo="give those of its task")
        by_source = {str(source): frame for source, frame in of_target.groupby("source", sort=True)}
        check(by_source, f"transfer to {target}")
        if strangers := sorted(set(of_target["patient_id"]) - set(patients[target])):
            raise StudyError(f"{strangers[0]} is no test patient of {target}", where="transfer", todo="leave it out")
        others = [frame for source, frame in by_source.items() if source != target]
        if len(others) > 1:
            by_source[AVERAGE] = uniform_average(others)
        for source, frame in by_source.items():
            runs = runs_of(frame, patients[target], {})
            values = evaluate(_METRIC, runs, weights[target], None)
            low, high = interval(values.resampled, confidence)
            tested = frame.drop_duplicates("patient_id")
            row = {"source": source, "target": target, "estimate": values.estimate, "low": low, "high": high}
            rows.append(row | {"n": len(tested), "events": int((tested["event"] > 0).sum())})
    return pd.DataFrame(rows, columns=COLUMNS)


def uniform_average(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Predictions whose risk is the mean over sources of the risk z-scored within each run of the target.

    A source that gives all patients of a run one risk adds nothing there. The z-score takes moments of the test
    part's predictions, not of its outcomes.

    Parameters
    ----------
    frames : sequence of DataFrame
        One of each source, of the same patients in the same runs.
    """
    keys = ["repeat", "fold", "patient_id"]
    scored = [frame.assign(risk=_z_within_run(frame)).set_index(keys) for frame in frames]
    mean = sum((frame["risk"] for frame in scored[1:]), scored[0]["risk"]) / len(scored)
    return scored[0].assign(risk=mean, source=AVERAGE).reset_index()


def _z_within_run(frame: pd.DataFrame) -> pd.Series:
    """Risk less its mean in the run, in standard deviations of the run."""
    runs = frame.groupby(["repeat", "fold"])["risk"]
    centred = frame["risk"] - runs.transform("mean")
    spread = runs.transform("std", ddof=0)
    flat = spread <= 1e-12 * np.maximum(frame["risk"].abs(), 1e-300)
    return centred.where(~flat, 0.0) / spread.where(~flat, 1.0)
