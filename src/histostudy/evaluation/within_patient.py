"""Correlation within a patient over genes: what gene means alone reach, and what is left when they are taken out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from histostudy.evaluation.bootstrap import interval
from histostudy.evaluation.expression import aligned, columns, genes_of
from histostudy.evaluation.metrics.base import Run
from histostudy.evaluation.metrics.kernels import Floats, mean_of, nanmean, ratio, standard_ranks

RAW, CENTRED = "across genes", "gene-centred"
COLUMNS = [
    "model", "measure", "mean", "low", "high", "median", "median_low", "median_high", "permuted", "n", "genes"
]  # fmt: skip
#: Resamples whose median is taken at once: bounds memory at (block, patients).
BLOCK = 500


def within_patients(
    model: str, runs: Sequence[Run], reference_runs: Sequence[Run], weights: Floats, confidence: float
) -> pd.DataFrame:
    """Spearman's coefficient over genes within each patient, of raw values and of gene-centred ones.

    Genes differ in their mean far more than patients differ in a gene, so that predicting each gene's training
    mean for everybody already gives a high coefficient (hist2RNA's 0.82 over 138 genes is in that range): the raw
    one is no evidence of learning. The gene-centred one takes the training mean of each gene from measured and
    predicted values first. The training mean itself has none left: NaN.

    Parameters
    ----------
    model : str
    runs : sequence of Run
    reference_runs : sequence of Run
        Of the control that predicts each gene's training mean (``prior``), on the same folds.
    weights : ndarray, shape (B, P)
        Resampling weights of the task's patients.
    confidence : float

    Returns
    -------
    DataFrame
        model, measure (``across genes``, ``gene-centred``), mean and its interval low, high, median and its interval
        median_low, median_high, permuted (the mean when each prediction is matched with every other patient of its
        run: the null that knows gene means only), n (patients where it is defined), genes. A patient tested in
        several runs has the mean of his coefficients.

    Raises
    ------
    StudyError
        If the reference's runs are not the model's.
    """
    genes = genes_of(runs[0].frame)
    patients = weights.shape[1]
    total = {RAW: np.zeros(patients), CENTRED: np.zeros(patients)}
    count = {RAW: np.zeros(patients), CENTRED: np.zeros(patients)}
    others: dict[str, list[float]] = {RAW: [], CENTRED: []}
    for run, reference in zip(runs, aligned(runs, reference_runs), strict=True):
        (truth, predicted), mean = columns(run, genes), columns(reference, genes)[1]
        for measure, centre in ((RAW, 0.0), (CENTRED, mean)):
            own, other = _coefficients(truth - centre, predicted - centre)
            np.add.at(total[measure], run.rows, np.nan_to_num(own))
            np.add.at(count[measure], run.rows, np.isfinite(own))
            others[measure].append(other)
    rows = []
    for measure in (RAW, CENTRED):
        values = ratio(total[measure], count[measure])
        good = np.isfinite(values)
        row: dict[str, object] = {"model": model, "measure": measure, "n": int(good.sum()), "genes": len(genes)}
        row["mean"] = row["low"] = row["high"] = row["median"] = row["median_low"] = row["median_high"] = np.nan
        if good.any():
            w = weights[:, good]
            row["mean"], row["median"] = float(values[good].mean()), float(np.median(values[good]))
            with np.errstate(invalid="ignore"):
                row["low"], row["high"] = interval(mean_of(w, values[good]), confidence)
            row["median_low"], row["median_high"] = interval(_medians(w, values[good]), confidence)
        row["permuted"] = float(nanmean(np.array(others[measure]), 0))
        rows.append(row)
    return pd.DataFrame(rows)[COLUMNS]


def _coefficients(truth: Floats, predicted: Floats) -> tuple[Floats, float]:
    """Spearman's coefficient of each row with its own prediction (n,), and the mean over all other pairs of rows."""
    a, b = standard_ranks(truth), standard_ranks(predicted)
    own = np.einsum("ig,ig->i", a, b)
    good_a, good_b, good = (np.isfinite(x).all(1) for x in (a, b, own[:, None]))
    pairs = good_a.sum() * good_b.sum() - good.sum()
    if pairs <= 0:
        return own, float("nan")
    everything = float(a[good_a].sum(0) @ b[good_b].sum(0))  # the sum over all pairs, without making them
    return own, (everything - float(own[good].sum())) / float(pairs)


def _medians(w: Floats, values: Floats) -> Floats:
    """Median of the rows repeated as the weights say, shape (B,); NaN where all weights are 0."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    out = np.full(w.shape[0], np.nan)
    for start in range(0, w.shape[0], BLOCK):
        below = np.cumsum(w[start : start + BLOCK, order], axis=1)
        whole = below[:, -1]
        half = whole / 2
        lower = (below < half[:, None]).sum(1).clip(max=ordered.size - 1)
        upper = (below <= half[:, None]).sum(1).clip(max=ordered.size - 1)
        out[start : start + BLOCK] = np.where(whole > 0, (ordered[lower] + ordered[upper]) / 2, np.nan)
    return out
