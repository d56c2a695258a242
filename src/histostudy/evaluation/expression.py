"""Expression: every gene's metrics with intervals, their mean over genes, and which genes are predicted at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from histostudy.evaluation.bootstrap import adjust, interval
from histostudy.evaluation.metrics import kernels
from histostudy.evaluation.metrics.base import Run
from histostudy.evaluation.metrics.kernels import Floats, nanmean

#: Name of the row that is the mean over genes.
ALL = "all"
METRICS = {"r2": "pooled", "mae": "pooled", "pearson": "fold mean", "spearman": "fold mean"}
#: Genes worked on at once: bounds memory at (resamples, block).
BLOCK = 256
#: Ranks are taken anew in each resample; with more than this many (resample, row, gene) fewer resamples are used.
RANK_WORK = 4e8
MIN_RANK_RESAMPLES = 200


@dataclass(frozen=True)
class GeneTable:
    """Metrics of one model's genes, and the resampled means over genes.

    Attributes
    ----------
    rows : DataFrame
        metric, gene, estimate, low, high, pooling, runs, undefined, resamples, p, q.
    resampled : dict of str to ndarray, shape (B,)
        The mean over genes on each resample, by metric.
    """

    rows: pd.DataFrame
    resampled: dict[str, Floats]


def genes_of(frame: pd.DataFrame) -> list[str]:
    """Genes of a predictions table, in its order."""
    return [c.removeprefix("truth_") for c in frame.columns if c.startswith("truth_")]


def correlation_p(correlations: Floats, sizes: Floats) -> Floats:
    """Two-sided p of "no correlation" for each gene, its folds combined on Fisher's z scale.

    Parameters
    ----------
    correlations : ndarray, shape (folds, genes)
        Pearson's r a fold; NaN is left out.
    sizes : ndarray, shape (folds,)
        Patients a fold; the precision of a fold's z is ``n - 3``.
    """
    from scipy.stats import norm

    precision = np.where(np.isfinite(correlations), np.maximum(sizes - 3, 0)[:, None], 0.0)
    z = np.arctanh(np.clip(np.nan_to_num(correlations), -1 + 1e-12, 1 - 1e-12))
    total = precision.sum(0)
    combined = (precision * z).sum(0) / np.sqrt(np.where(total > 0, total, np.nan))
    return 2 * norm.sf(np.abs(combined))


def evaluate_genes(runs: Sequence[Run], weights: Floats, confidence: float) -> GeneTable:
    """Metrics of each gene across patients, with intervals; p and Benjamini-Hochberg q of Pearson's r.

    Correlations are means over runs, r2 and mae over all test patients. The row of gene ``all`` is the mean over the
    genes where the metric is defined. A gene's correlation across patients is what a prediction of
    the training mean cannot reach; correlation within a patient across genes it can (not reported).

    Parameters
    ----------
    runs : sequence of Run
    weights : ndarray, shape (B, P)
    confidence : float
    """
    genes = genes_of(runs[0].frame)
    b, n = weights.shape[0], sum(run.rows.size for run in runs)
    ranked = int(min(b, max(MIN_RANK_RESAMPLES, RANK_WORK // max(n * len(genes), 1))))
    used = {name: ranked if name == "spearman" else b for name in METRICS}
    totals = {name: (np.zeros(used[name]), np.zeros(used[name])) for name in METRICS}
    rows: dict[str, list[dict[str, object]]] = {name: [] for name in METRICS}
    folds: list[Floats] = []
    light = weights.astype(np.float32)
    for start in range(0, len(genes), BLOCK):
        block = genes[start : start + BLOCK]
        ones = [np.ones((1, run.rows.size)) for run in runs]
        each = _block(runs, block, ones)
        many = _block(runs, block, [light[:, run.rows] for run in runs], ranked)
        folds.append(each["pearson"][:, 0])
        for name in METRICS:
            estimates, draws = nanmean(each[name], 0)[0], nanmean(many[name], 0)
            draws = np.where(np.isfinite(estimates), draws, np.nan)
            totals[name][0][:] += np.nan_to_num(draws).sum(1)
            totals[name][1][:] += np.isfinite(draws).sum(1)
            defined = np.isfinite(each[name][:, 0]).sum(0)
            for g, gene in enumerate(block):
                low, high = interval(draws[:, g], confidence)
                rows[name].append(
                    {"metric": name, "gene": gene, "estimate": float(estimates[g]), "low": low, "high": high}
                    | {"runs": int(defined[g]) if METRICS[name] == "fold mean" else len(runs)}
                )
    p = correlation_p(np.concatenate(folds, 1), np.array([run.rows.size for run in runs], float))
    q = adjust(p, "bh")
    resampled, tables = {}, []
    for name, pooling in METRICS.items():
        resampled[name] = kernels.ratio(*totals[name])
        table = pd.DataFrame(rows[name])
        estimate = float(nanmean(table["estimate"].to_numpy(float), 0))
        low, high = interval(resampled[name], confidence)
        if not np.isfinite(estimate):
            low = high = float("nan")
        head = {"metric": name, "gene": ALL, "estimate": estimate, "low": low, "high": high, "runs": len(runs)}
        table["p"], table["q"] = (p, q) if name == "pearson" else (np.nan, np.nan)
        table = pd.concat([pd.DataFrame([head]), table], ignore_index=True)
        table["undefined"] = len(runs) - table["runs"]
        table["pooling"], table["resamples"] = pooling, used[name]
        tables.append(table)
    return GeneTable(pd.concat(tables, ignore_index=True), resampled)


def _block(
    runs: Sequence[Run], genes: Sequence[str], weights: Sequence[Floats], ranked: int | None = None
) -> dict[str, Floats]:
    """Metrics of some genes: (runs, B, g) for fold means, (1, B, g) for pooled ones."""
    truth = [run.frame[[f"truth_{g}" for g in genes]].to_numpy(float) for run in runs]
    predicted = [run.frame[[f"pred_{g}" for g in genes]].to_numpy(float) for run in runs]
    out = {"pearson": [kernels.pearson(w, t, p) for w, t, p in zip(weights, truth, predicted, strict=True)]}
    out["spearman"] = [
        np.stack([kernels.spearman(w[:ranked], t[:, g], p[:, g]) for g in range(len(genes))], 1)
        for w, t, p in zip(weights, truth, predicted, strict=True)
    ]
    w, t, p = np.concatenate(weights, 1), np.concatenate(truth), np.concatenate(predicted)
    out["r2"] = [kernels.r2(w, t, p)]
    out["mae"] = [kernels.mean_of(w, np.abs(t - p).astype(w.dtype))]
    return {name: np.stack(values) for name, values in out.items()}
