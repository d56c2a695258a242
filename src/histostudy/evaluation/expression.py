"""Expression: every gene's metrics with intervals, their mean over genes, and which genes are predicted at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histostudy.errors import StudyError
from histostudy.evaluation.bootstrap import adjust, interval
from histostudy.evaluation.metrics import kernels
from histostudy.evaluation.metrics.base import Run
from histostudy.evaluation.metrics.kernels import Floats, nanmean
from histostudy.evaluation.runs import REDO, pool_predictions

#: Name of the row that is the mean over genes.
ALL = "all"
METRICS = {"r2": "pooled", "mae": "pooled", "pearson": "fold mean", "spearman": "fold mean"}
#: One minus MSE over the MSE of the training mean: only where the runs of the training mean are given.
SKILL = {"skill": "pooled"}
#: Metrics that have a p-value against "no correlation", and its Benjamini-Hochberg q over the genes.
TESTED = ("pearson", "spearman")
#: Genes worked on at once: bounds memory at (resamples, block).
BLOCK = 256
#: Ranks are taken anew in each resample; with more than this many (resample, row, gene) fewer resamples are used.
RANK_WORK = 4e8
MIN_RANK_RESAMPLES = 200


class Shared(NamedTuple):
    """Mean over genes of Pearson's r of one model, on the genes and runs where another model's is defined too.

    Attributes
    ----------
    estimate : float
    resampled : ndarray, shape (B,)
    runs : int
        Runs in which both are defined for some gene.
    """

    estimate: float
    resampled: Floats
    runs: int


@dataclass(frozen=True)
class GeneTable:
    """Metrics of one model's genes, and what it is compared with other models on.

    Attributes
    ----------
    rows : DataFrame
        metric, gene, estimate, low, high, pooling, runs, undefined, resamples, p, q (of pearson and spearman).
    shared : dict of str to Shared
        By the other model.
    """

    rows: pd.DataFrame
    shared: dict[str, Shared]


def genes_of(frame: pd.DataFrame) -> list[str]:
    """Genes of a predictions table, in its order."""
    return [c.removeprefix("truth_") for c in frame.columns if c.startswith("truth_")]


def defined_genes(runs: Sequence[Run]) -> pd.DataFrame:
    """Whether Pearson's r is defined: a row each run, a column each gene."""
    genes = genes_of(runs[0].frame)
    out = np.zeros((len(runs), len(genes)), bool)
    for start in range(0, len(genes), BLOCK):
        block = genes[start : start + BLOCK]
        for number, run in enumerate(runs):
            truth, predicted = columns(run, block)
            r = kernels.pearson(np.ones((1, run.rows.size)), truth, predicted)[0]
            out[number, start : start + BLOCK] = np.isfinite(r)
    return pd.DataFrame(out, columns=genes)


def correlation_p(correlations: Floats, runs: Sequence[Run]) -> Floats:
    """Two-sided p of "no correlation" for each gene, its runs combined on Fisher's z scale (see `combine`).

    Right for Spearman's coefficient too: without correlation its variance is Pearson's, 1 / (n - 1).

    Parameters
    ----------
    correlations : ndarray, shape (runs, genes)
        Pearson's r or Spearman's coefficient a run; NaN is left out.
    runs : sequence of Run
    """
    from scipy.stats import norm

    return 2 * norm.sf(np.abs(combine(np.arctanh(np.clip(correlations, -1 + 1e-12, 1 - 1e-12)), runs)))


def combine(effects: Floats, runs: Sequence[Run]) -> Floats:
    """Standard normal statistic of effects of runs, each of variance ``1 / (n - 3)`` without an effect.

    n counts what can be taken for independent: patients, or blocks of neighbouring spots.

    Folds of a repeat are combined by their precision. Repeats test the same patients again and are no new
    evidence: their mean is given the precision of one repeat, as if they all said the same. So are folds that
    overlap (published Monte Carlo folds): the precision of a repeat is scaled by `_share`.

    Parameters
    ----------
    effects : ndarray, shape (runs, genes)
        NaN is left out.
    runs : sequence of Run

    Returns
    -------
    ndarray, shape (genes,)
        NaN where no run has an effect.
    """
    good = np.isfinite(effects)
    sizes = np.array([run.independent for run in runs], float)
    precision = np.where(good, np.maximum(sizes - 3, 0)[:, None], 0.0)
    z = np.nan_to_num(effects)
    top, bottom = np.zeros(z.shape[1]), np.zeros(z.shape[1])
    for repeat in sorted({run.repeat for run in runs}):
        mine = [k for k, run in enumerate(runs) if run.repeat == repeat]
        share = _share(good[mine], [runs[k].rows for k in mine])
        top += share * (precision[mine] * z[mine]).sum(0)
        bottom += np.sqrt(share * precision[mine].sum(0))
    return kernels.ratio(top, bottom)


def _share(good: NDArray[np.bool_], rows: Sequence[NDArray[np.integer]]) -> Floats:
    """Effective patients over rows of one repeat's runs, of each gene over the runs where it is defined.

    Kish's effective number, (sum c)^2 / sum c^2 for patients tested c times: one where folds do not overlap, and
    right for the worst case, the same prediction of a patient in each fold.
    """
    patterns, which = np.unique(good, axis=1, return_inverse=True)
    share = np.ones(patterns.shape[1])
    for number, pattern in enumerate(patterns.T):
        if pattern.any():
            tested = np.concatenate([r for r, ok in zip(rows, pattern, strict=True) if ok])
            times = np.unique(tested, return_counts=True)[1]
            share[number] = times.sum() / (times**2).sum()
    return share[which.reshape(-1)]


def evaluate_genes(
    runs: Sequence[Run],
    weights: Floats,
    confidence: float,
    shared: Mapping[str, NDArray[np.bool_]] | None = None,
    reference_runs: Sequence[Run] | None = None,
) -> GeneTable:
    """Metrics of each gene across patients, with intervals; p and Benjamini-Hochberg q of both correlations.

    Correlations are means over runs, r2, mae and skill over all test patients. The row of gene ``all`` is the mean
    over the genes where the metric is defined. A gene's correlation across patients is what a prediction of
    the training mean cannot reach; correlation within a patient across genes it can (see `within_patient`).

    Parameters
    ----------
    runs : sequence of Run
    weights : ndarray, shape (B, P)
    confidence : float
    shared : mapping of str to ndarray of bool, shape (runs, genes), optional
        For each other model it will be compared with: where Pearson's r of both is defined.
    reference_runs : sequence of Run, optional
        Runs of the control that predicts each gene's training mean (``prior``): with them there is ``skill``,
        ``1 - MSE / MSE of the training mean``; above 0 a prediction is worth more than the mean. r2 compares
        with the mean of the test patients instead, which no model knows.

    Raises
    ------
    StudyError
        If the reference's runs or patients are not the model's.
    """
    names = METRICS | (SKILL if reference_runs is not None else {})
    means = aligned(runs, reference_runs) if reference_runs is not None else None
    genes = genes_of(runs[0].frame)
    masks = {mask.tobytes(): mask for mask in (shared or {}).values()}
    b, n = weights.shape[0], sum(run.rows.size for run in runs)
    ranked = int(min(b, max(MIN_RANK_RESAMPLES, RANK_WORK // max(n * len(genes), 1))))
    used = {name: ranked if name == "spearman" else b for name in names}
    totals = {name: (np.zeros(used[name]), np.zeros(used[name])) for name in names}
    rows: dict[str, list[dict[str, object]]] = {name: [] for name in names}
    sums = {key: (np.zeros(2), np.zeros((2, b))) for key in masks}  # sum over genes and their number
    folds: dict[str, list[Floats]] = {name: [] for name in TESTED}
    light = weights.astype(np.float32)
    for start in range(0, len(genes), BLOCK):
        block = genes[start : start + BLOCK]
        ones = [np.ones((1, run.rows.size)) for run in runs]
        each = _block(runs, block, ones, means)
        many = _block(runs, block, [light[:, run.rows] for run in runs], means, ranked)
        for name in TESTED:
            folds[name].append(each[name][:, 0])
        for key, mask in masks.items():
            part = mask[:, None, start : start + BLOCK]
            for total, values in zip(sums[key], (each["pearson"], many["pearson"]), strict=True):
                mean = nanmean(np.where(part, values, np.nan), 0)
                total += np.stack([np.nan_to_num(mean).sum(1), np.isfinite(mean).sum(1)]).reshape(total.shape)
        for name in names:
            estimates, draws = nanmean(each[name], 0)[0], nanmean(many[name], 0)
            draws = np.where(np.isfinite(estimates), draws, np.nan)
            totals[name][0][:] += np.nan_to_num(draws).sum(1)
            totals[name][1][:] += np.isfinite(draws).sum(1)
            defined = np.isfinite(each[name][:, 0]).sum(0)
            for g, gene in enumerate(block):
                low, high = interval(draws[:, g], confidence)
                rows[name].append(
                    {"metric": name, "gene": gene, "estimate": float(estimates[g]), "low": low, "high": high}
                    | {"runs": int(defined[g]) if names[name] == "fold mean" else len(runs)}
                )
    tables = []
    for name, pooling in names.items():
        resampled = kernels.ratio(*totals[name])
        table = pd.DataFrame(rows[name])
        estimate = float(nanmean(table["estimate"].to_numpy(float), 0))
        low, high = interval(resampled, confidence)
        if not np.isfinite(estimate):
            low = high = float("nan")
        head = {"metric": name, "gene": ALL, "estimate": estimate, "low": low, "high": high, "runs": len(runs)}
        p = correlation_p(np.concatenate(folds[name], 1), runs) if name in TESTED else np.nan
        table["p"], table["q"] = p, adjust(p, "bh") if name in TESTED else np.nan
        table = pd.concat([pd.DataFrame([head]), table], ignore_index=True)
        table["undefined"] = len(runs) - table["runs"]
        table["pooling"], table["resamples"] = pooling, used[name]
        tables.append(table)
    found = {}
    for other, mask in (shared or {}).items():
        estimates, draws = (kernels.ratio(*total) for total in sums[mask.tobytes()])
        found[other] = Shared(float(estimates), draws, int(mask.any(1).sum()))
    return GeneTable(pd.concat(tables, ignore_index=True), found)


def aligned(runs: Sequence[Run], others: Sequence[Run]) -> list[Run]:
    """The other model's runs in the order of `runs`.

    Raises
    ------
    StudyError
        If a run is missing there, or tests other patients or genes.
    """
    found = {(run.repeat, run.fold): run for run in others}
    out = []
    for run in runs:
        where = f"repeat {run.repeat} fold {run.fold}"
        other = found.get((run.repeat, run.fold))
        if other is None:
            raise StudyError("the model compared with has no such run", where=where, todo="train it on the same folds")
        if not np.array_equal(other.rows, run.rows) or genes_of(other.frame) != genes_of(run.frame):
            raise StudyError("the model compared with has other patients or genes", where=where, todo=REDO)
        out.append(other)
    return out


def columns(run: Run, genes: Sequence[str]) -> tuple[Floats, Floats]:
    """Truth and prediction of some genes, (n, g) each."""
    return tuple(run.frame[[f"{what}_{g}" for g in genes]].to_numpy(float) for what in ("truth", "pred"))


def gene_scatter(model: str, runs: Sequence[Run], rows: pd.DataFrame, count: int = 6) -> pd.DataFrame:
    """Measured and predicted values of the genes with the best r of a model, one row a patient and gene.

    Parameters
    ----------
    model : str
    runs : sequence of Run
        Repeats of a patient are averaged.
    rows : DataFrame
        `GeneTable.rows` of the model.
    count : int
        Number of genes.

    Returns
    -------
    DataFrame
        model, gene, unit_id, truth, prediction, fold, and r of the gene as estimate, low, high. Empty where no
        gene has a defined r.
    """
    mine = rows[(rows["metric"] == "pearson") & (rows["gene"] != ALL) & np.isfinite(rows["estimate"])]
    best = mine.sort_values("estimate", ascending=False, kind="stable").head(count)
    pooled = pool_predictions([run.frame for run in runs])
    parts = []
    for gene, estimate, low, high in best[["gene", "estimate", "low", "high"]].itertuples(index=False):
        part = pooled[["patient_id", f"truth_{gene}", f"pred_{gene}", "fold"]]
        part = part.set_axis(["unit_id", "truth", "prediction", "fold"], axis=1)
        parts.append(part.assign(model=model, gene=gene, estimate=estimate, low=low, high=high))
    names = ["model", "gene", "unit_id", "truth", "prediction", "fold", "estimate", "low", "high"]
    return pd.concat(parts, ignore_index=True)[names] if parts else pd.DataFrame(columns=names)


def _block(
    runs: Sequence[Run],
    genes: Sequence[str],
    weights: Sequence[Floats],
    means: Sequence[Run] | None = None,
    ranked: int | None = None,
) -> dict[str, Floats]:
    """Metrics of some genes: (runs, B, g) for fold means, (1, B, g) for pooled ones."""
    truth, predicted = zip(*(columns(run, genes) for run in runs), strict=True)
    out = {"pearson": [kernels.pearson(w, t, p) for w, t, p in zip(weights, truth, predicted, strict=True)]}
    out["spearman"] = [
        np.stack([kernels.spearman(w[:ranked], t[:, g], p[:, g]) for g in range(len(genes))], 1)
        for w, t, p in zip(weights, truth, predicted, strict=True)
    ]
    w, t, p = np.concatenate(weights, 1), np.concatenate(truth), np.concatenate(predicted)
    out["r2"] = [kernels.r2(w, t, p)]
    out["mae"] = [kernels.mean_of(w, np.abs(t - p).astype(w.dtype))]
    if means is not None:
        out["skill"] = [skill(w, t, p, np.concatenate([columns(run, genes)[1] for run in means]))]
    return {name: np.stack(values) for name, values in out.items()}


def skill(w: Floats, truth: Floats, predicted: Floats, mean: Floats) -> Floats:
    """One minus MSE over the MSE of the training mean, of each gene; arrays (n, g), weights (B, n), shape (B, g).

    NaN where the training mean is exact for all (a constant gene).
    """
    about = (truth - mean) ** 2
    scale = about.mean(0)
    constant = scale <= (1e-12 * np.maximum(np.abs(truth).max(0), 1e-300)) ** 2
    scale = np.where(constant, np.nan, scale)
    bottom = w @ np.nan_to_num(about / scale).astype(w.dtype)
    top = w @ np.nan_to_num((truth - predicted) ** 2 / scale).astype(w.dtype)
    return np.where(constant, np.nan, 1 - kernels.ratio(top, bottom))
