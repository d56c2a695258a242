"""Molecular subtypes from expression: nearest-centroid calls of measured and predicted values, and their agreement.

PAM50 (Parker et al., J. Clin. Oncol. 2009, 27:1160) calls a tumour by the centroid with which its median-centred
genes have the highest Spearman correlation. The published PAM50 centroids are not shipped: give them as a table, or
have four clusters of the training part named by their marker genes (our reading, see `fit_centroids`). The medians
depend on who is in the training part: with few oestrogen-receptor-negative tumours calls shift away from luminal A.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histostudy.errors import StudyError
from histostudy.evaluation.bootstrap import interval
from histostudy.evaluation.expression import ALL, columns, genes_of
from histostudy.evaluation.metrics import kernels
from histostudy.evaluation.metrics.base import Run
from histostudy.evaluation.metrics.kernels import Floats, nanmean

BASAL, HER2, LUMINAL_A, LUMINAL_B = "basal-like", "HER2-enriched", "luminal A", "luminal B"
#: Genes that tell what a cluster is; those of a set that are measured are averaged.
MARKERS = {
    "luminal": ("ESR1", "PGR", "FOXA1", "BCL2"),
    "HER2": ("ERBB2", "GRB7"),
    "basal": ("KRT5", "KRT14", "KRT17", "FOXC1"),
    "proliferation": ("MKI67", "CCNB1", "BIRC5", "UBE2C", "CDC20", "PTTG1"),
}
#: What each subtype has more and less of.
SIGNS = {
    BASAL: {"basal": 1.0, "luminal": -1.0},
    HER2: {"HER2": 1.0, "luminal": -0.5},
    LUMINAL_A: {"luminal": 1.0, "proliferation": -1.0},
    LUMINAL_B: {"luminal": 0.5, "proliferation": 1.0, "basal": -1.0},
}
#: A rank correlation over fewer genes says nothing.
MIN_GENES = 5
STARTS = 20


@dataclass(frozen=True)
class Centroids:
    """What a call needs.

    Attributes
    ----------
    values : DataFrame, genes x subtypes
    medians : Series by gene
        Of the training part; taken from measured and predicted values alike.
    rule : str
        Where the centroids come from, for the caption.
    """

    values: pd.DataFrame
    medians: pd.Series
    rule: str

    def scores(self, expression: pd.DataFrame) -> Floats:
        """Spearman correlation of each row with each centroid over the centroids' genes, (n, subtypes).

        NaN where a row is constant over the genes.
        """
        genes = list(self.values.index)
        centred = expression[genes].to_numpy(float) - self.medians[genes].to_numpy(float)
        return kernels.standard_ranks(centred) @ kernels.standard_ranks(self.values.to_numpy(float).T).T

    def calls(self, expression: pd.DataFrame) -> NDArray[np.str_]:
        """The nearest subtype of each row; the first of the table where two are as near."""
        return np.asarray(self.values.columns, str)[np.nan_to_num(self.scores(expression), nan=-2.0).argmax(1)]


def given_centroids(train: pd.DataFrame, table: pd.DataFrame) -> Centroids:
    """A user's centroids, with the medians of a training part.

    Parameters
    ----------
    train : DataFrame, patients x genes
        Measured expression of the training part, log scale.
    table : DataFrame, genes x subtypes
        Genes that are not measured are left out.

    Raises
    ------
    StudyError
        If fewer than two subtypes, fewer than `MIN_GENES` shared genes, or a number is missing.
    """
    shared = [g for g in table.index if g in train.columns]
    where = "centroids of subtypes"
    if table.shape[1] < 2:
        raise StudyError("fewer than two subtypes", where=where, todo="give a table of genes by subtypes")
    if len(shared) < MIN_GENES:
        told = f"{len(shared)} of {len(table)} genes are in the expression table"
        raise StudyError(told, where=where, todo=f"name genes alike in both; {MIN_GENES} are needed")
    values = table.loc[shared].astype(float)
    if table.index.has_duplicates or not np.isfinite(values.to_numpy()).all():
        raise StudyError("a gene twice, or a number that is missing", where=where, todo="mend the table")
    return Centroids(values, train[shared].median(), "given centroids")


def fit_centroids(train: pd.DataFrame, seed: int = 0) -> Centroids:
    """Four clusters of the training part's median-centred log expression, named by marker genes.

    Our reading, not PAM50: k-means finds what varies most in these patients, and the markers then say which cluster
    is basal-like, HER2-enriched, luminal A or luminal B: the naming with the greatest sum of `SIGNS` over the
    clusters' standardised marker means. Each cluster gets a name even where a subtype is absent.

    Parameters
    ----------
    train : DataFrame, patients x genes
        Measured expression of the training part, log scale.
    seed : int
        Of the starts of k-means.

    Raises
    ------
    StudyError
        If no gene of a set of `MARKERS` is measured, or there are fewer than four patients a cluster.
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.cluster import KMeans

    where = "subtypes fitted on the training part"
    absent = [name for name, genes in MARKERS.items() if not set(genes) & set(train.columns)]
    if absent:
        told = f"no {absent[0]} marker ({', '.join(MARKERS[absent[0]])}) in the expression table"
        raise StudyError(told, where=where, todo="add the genes, or give centroids")
    names = list(SIGNS)
    if len(train) < 4 * len(names):
        raise StudyError(f"{len(train)} patients", where=where, todo="give centroids, or more patients")
    medians = train.median()
    centred = train - medians
    fit = KMeans(len(names), n_init=STARTS, random_state=seed).fit(centred.to_numpy(float))
    # k-means fits no more than the label: the centroid is taken anew, free of the threads' order of sums
    values = pd.DataFrame({k: centred[fit.labels_ == k].mean() for k in range(len(names))})
    spread = train.std(ddof=0)
    z = values.sub(centred.mean(), axis=0).div(spread.where(spread > 0), axis=0)
    means = {name: z.loc[[g for g in genes if g in z.index]].mean() for name, genes in MARKERS.items()}
    score = np.stack([sum(sign * means[m] for m, sign in SIGNS[name].items()) for name in names])
    place = linear_sum_assignment(np.nan_to_num(score), maximize=True)[1]
    values = values[place].set_axis(names, axis=1)
    return Centroids(values, medians, "clusters of the training part, named by marker genes")


def centroids_of_runs(
    expression: pd.DataFrame, splits: pd.DataFrame, table: pd.DataFrame | None = None, seed: int = 0
) -> dict[tuple[int, int], Centroids]:
    """Centroids of each run, from the patients outside its test part only.

    Parameters
    ----------
    expression : DataFrame, patients x genes
        Measured, log scale, indexed by patient_id.
    splits : DataFrame
        repeat, fold, patient_id, part.
    table : DataFrame, genes x subtypes, optional
        The user's centroids; without it they are fitted.
    seed : int
    """
    outside = splits[splits["part"] != "test"]
    out = {}
    for (repeat, fold), part in outside.groupby(["repeat", "fold"], sort=True):
        train = expression[expression.index.isin(set(part["patient_id"].astype(str)))]
        made = fit_centroids(train, seed) if table is None else given_centroids(train, table)
        out[int(repeat), int(fold)] = made  # type: ignore[call-overload]
    return out


def subtype_tables(
    model: str,
    runs: Sequence[Run],
    centroids: Mapping[tuple[int, int], Centroids],
    weights: Floats,
    confidence: float,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Calls of the test patients from measured and predicted expression, and how well they agree.

    Parameters
    ----------
    model : str
    runs : sequence of Run
    centroids : mapping
        By (repeat, fold), see `centroids_of_runs`; the same subtypes in each.
    weights : ndarray, shape (B, P)
    confidence : float

    Returns
    -------
    subtypes : DataFrame
        model, patient_id, measured, predicted, repeat, fold: a row each patient and run.
    scores : DataFrame
        model, subtype, metric, estimate, low, high, n, events: `auroc` of each subtype against the rest, by the
        predicted correlation with its centroid (mean over runs; events are patients measured as it, in the first
        run that tests them), and for ``all`` `accuracy` and `kappa` (Cohen) over all test patients. One call for
        everybody has kappa 0 and auroc 0.5.

    Raises
    ------
    StudyError
        If a run has no centroids, or its predictions lack their genes.
    """
    tables: list[pd.DataFrame] = []
    areas: list[Floats] = []
    drawn: list[Floats] = []
    names: list[str] = []
    for run in runs:
        where = f"repeat {run.repeat} fold {run.fold}"
        found = centroids.get((run.repeat, run.fold))
        if found is None:
            raise StudyError("no centroids of subtypes", where=where, todo="give the splits the models were trained on")
        if lacking := sorted(set(found.values.index) - set(genes_of(run.frame))):
            raise StudyError(
                f"no prediction of gene {lacking[0]}", where=where, todo="fit centroids on the task's genes"
            )
        names, genes = [str(s) for s in found.values.columns], list(found.values.index)
        truth, predicted = (pd.DataFrame(x, columns=genes) for x in columns(run, genes))
        measured, score = found.calls(truth), np.nan_to_num(found.scores(predicted), nan=-2.0)
        about = {"patient_id": run.frame["patient_id"].astype(str), "measured": measured}
        about |= {"predicted": found.calls(predicted), "repeat": run.repeat, "fold": run.fold, "row": run.rows}
        tables.append(pd.DataFrame({"model": model} | about))
        case = (measured[:, None] == np.array(names)).astype(float)
        plain, many = np.ones((1, run.rows.size)), weights[:, run.rows]
        for w, out in ((plain, areas), (many, drawn)):
            out.append(np.stack([kernels.auc(w, score[:, k], c, 1 - c, 1e-9) for k, c in enumerate(case.T)]))
    calls = pd.concat(tables, ignore_index=True)
    once = calls.drop_duplicates("patient_id")
    estimate, draws = nanmean(np.stack(areas), 0)[:, 0], nanmean(np.stack(drawn), 0)
    rows = []
    for k, name in enumerate(names):
        low, high = interval(draws[k], confidence) if np.isfinite(estimate[k]) else (np.nan, np.nan)
        row = {"subtype": name, "metric": "auroc", "estimate": float(estimate[k]), "low": low, "high": high}
        rows.append(row | {"events": int((once["measured"] == name).sum())})
    one, two = (pd.Categorical(calls[c], categories=names).codes for c in ("measured", "predicted"))
    values = agreement(np.ones((1, len(calls))), one, two, len(names))
    resampled = agreement(weights[:, calls["row"].to_numpy()], one, two, len(names))
    for metric, value, draw in zip(("accuracy", "kappa"), values, resampled, strict=True):
        low, high = interval(draw, confidence) if np.isfinite(value[0]) else (np.nan, np.nan)
        rows.append({"subtype": ALL, "metric": metric, "estimate": float(value[0]), "low": low, "high": high})
    scores = pd.DataFrame(rows).assign(model=model, n=len(once))
    wanted = ["model", "subtype", "metric", "estimate", "low", "high", "n", "events"]
    return calls.drop(columns="row"), scores[wanted].astype({"events": "Int64"})


def agreement(w: Floats, one: NDArray, two: NDArray, classes: int) -> tuple[Floats, Floats]:
    """Accuracy and Cohen's kappa of two class numbers (n,) under weights (B, n), shape (B,) each.

    Kappa is NaN where chance alone agrees wholly (one class in both).
    """
    hot = np.eye(classes)
    total = w.sum(1)
    with np.errstate(invalid="ignore"):
        accuracy = (w @ (one == two).astype(float)) / np.where(total > 0, total, np.nan)
        first, second = (w @ hot[x] / np.where(total > 0, total, np.nan)[:, None] for x in (one, two))
    chance = (first * second).sum(1)
    return accuracy, kernels.ratio(accuracy - chance, np.where(1 - chance > 1e-12, 1 - chance, 0.0))
