"""Two correlations with one shared variable: is a model's r above an untrained twin's, and which genes pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from histostudy.evaluation.bootstrap import adjust
from histostudy.evaluation.expression import ALL, aligned, columns, combine, genes_of
from histostudy.evaluation.metrics import kernels
from histostudy.evaluation.metrics.base import Run
from histostudy.evaluation.metrics.kernels import Floats, nanmean

#: SEQUOIA's thresholds: of the correlation, of Steiger's test, and of its q over the genes.
P_CORRELATION, P_STEIGER, Q_STEIGER = 0.05, 0.05, 0.2
#: Without an untrained twin: of the correlation's q.
Q_CORRELATION = 0.05
GENE_COLUMNS = [
    "model", "gene", "estimate", "low", "high", "p", "q", "n", "spearman", "spearman_p", "spearman_q", "skill",
    "skill_low", "skill_high", "untrained", "untrained_r", "steiger_p", "steiger_q", "well_predicted",
]  # fmt: skip


def steiger_t(r12: ArrayLike, r13: ArrayLike, r23: ArrayLike, n: ArrayLike) -> Floats:
    """Williams' t of "r12 is not above r13" for three variables of the same n units; n - 3 degrees of freedom.

    ``t = (r12 - r13) sqrt((n-1)(1+r23) / (2 |R| (n-1)/(n-3) + (r12+r13)^2/4 (1-r23)^3))``,
    ``|R| = 1 - r12^2 - r13^2 - r23^2 + 2 r12 r13 r23``. Source: Williams, J. R. Stat. Soc. B 1959, 21:396, as
    Steiger recommends (Psychol. Bull. 1980, 87:245, equation 7).

    Parameters
    ----------
    r12, r13 : array_like
        Correlations of the shared variable (the measured expression) with the two others (the predictions).
    r23 : array_like
        Correlation of these two.
    n : array_like
        Units.

    Returns
    -------
    ndarray
        NaN where a correlation is, or with fewer than 4 units; 0 where the correlations are equal.
    """
    r12, r13, r23, n = np.broadcast_arrays(*(np.asarray(v, float) for v in (r12, r13, r23, n)))
    difference = np.where(np.abs(r12 - r13) < 1e-12, 0.0, r12 - r13)
    determinant = np.maximum(1 - r12**2 - r13**2 - r23**2 + 2 * r12 * r13 * r23, 0)
    enough = n > 3
    bottom = 2 * determinant * (n - 1) / np.where(enough, n - 3, 1) + (r12 + r13) ** 2 / 4 * (1 - r23) ** 3
    top = np.maximum((n - 1) * (1 + r23), 0)
    t = difference * np.sqrt(top / np.maximum(bottom, 1e-300))
    return np.where(enough, t, np.nan)


def steiger_p(runs: Sequence[Run], others: Sequence[Run], genes: Sequence[str]) -> tuple[Floats, Floats]:
    """One-sided p of "the model's r is not above the other model's", a gene, and the other's r (mean over runs).

    The t of each run is turned into a standard normal deviate of the same p and the runs are combined as
    correlations are (`expression.combine`): folds add up, repeats are no new evidence.

    Returns
    -------
    p, other : ndarray, shape (genes,)
        NaN where either correlation is undefined in all runs.
    """
    from scipy.stats import norm
    from scipy.stats import t as student

    effects, theirs = [], []
    for run, other in zip(runs, aligned(runs, others), strict=True):
        (truth, mine), twin = columns(run, genes), columns(other, genes)[1]
        one = np.ones((1, run.rows.size))
        r12, r13, r23 = (kernels.pearson(one, a, b)[0] for a, b in ((truth, mine), (truth, twin), (mine, twin)))
        df = run.independent - 3
        with np.errstate(invalid="ignore"):
            value = steiger_t(r12, r13, r23, run.independent)
            # logs: the tail of a large t underflows as a plain p
            z = np.sign(value) * -norm.ppf(np.maximum(student.sf(np.abs(value), max(df, 1)), 1e-300))
        effects.append(z / np.sqrt(max(df, 1)))
        theirs.append(r13)
    statistic = combine(np.stack(effects), runs)
    return norm.sf(statistic), nanmean(np.stack(theirs), 0)


def rmse(runs: Sequence[Run], genes: Sequence[str]) -> Floats:
    """Root mean squared error of each gene over all test patients, shape (genes,)."""
    total, count = np.zeros(len(genes)), 0
    for run in runs:
        truth, predicted = columns(run, genes)
        total += ((truth - predicted) ** 2).sum(0)
        count += run.rows.size
    return np.sqrt(total / count)


def gene_table(
    model: str,
    rows: pd.DataFrame,
    runs: Sequence[Run],
    n: int,
    untrained: Sequence[Run] | None = None,
    untrained_name: str = "",
) -> pd.DataFrame:
    """One row a gene with all that is said of it, and whether it is well predicted.

    With the runs of an untrained twin (the same network and features, its weights as they were drawn), a gene is
    well predicted by SEQUOIA's criterion: r > 0 with p < 0.05; root mean squared error below the twin's; r above
    the twin's with one-sided Steiger p < 0.05 and Benjamini-Hochberg q < 0.2 over the genes. A twin that says the
    same of everybody has no r: its gene then needs r > 0 with q < 0.2 and the lower error. Source: Pizurica et al.,
    Nat. Commun. 2024, 15:9886. Without a twin (our reading): r > 0 with q < 0.05 and skill > 0, and where the
    skill is not known (no runs of the training mean), r > 0 with q < 0.05 alone.

    Parameters
    ----------
    model : str
    rows : DataFrame
        `expression.GeneTable.rows` of the model.
    runs : sequence of Run
        Of the model.
    n : int
        Test patients.
    untrained : sequence of Run, optional
        Of its untrained twin, on the same folds.
    untrained_name : str
        The twin's name.

    Returns
    -------
    DataFrame
        model, gene, estimate (Pearson), low, high, p, q, n, spearman, spearman_p, spearman_q, skill, skill_low,
        skill_high, untrained, untrained_r, steiger_p, steiger_q, well_predicted. NaN where there is none.

    Raises
    ------
    StudyError
        If the twin's runs are not the model's.
    """
    genes = genes_of(runs[0].frame)
    by = {name: part.set_index("gene").reindex(genes) for name, part in rows[rows["gene"] != ALL].groupby("metric")}
    out = by["pearson"][["estimate", "low", "high", "p", "q"]].copy()
    out["n"], out["model"] = n, model
    out[["spearman", "spearman_p", "spearman_q"]] = by["spearman"][["estimate", "p", "q"]].to_numpy(float)
    scored = "skill" in by
    skills = by["skill"][["estimate", "low", "high"]].to_numpy(float) if scored else np.nan
    out[["skill", "skill_low", "skill_high"]] = skills
    out["untrained"], out[["untrained_r", "steiger_p", "steiger_q"]] = untrained_name, np.nan
    well = out["estimate"] > 0
    if untrained is None:
        well &= (out["q"] < Q_CORRELATION) & ((out["skill"] > 0) | (not scored))
    else:
        p, theirs = steiger_p(runs, untrained, genes)
        q = adjust(p, "bh")
        out["untrained_r"], out["steiger_p"], out["steiger_q"] = theirs, p, q
        above = (p < P_STEIGER) & (q < Q_STEIGER)
        constant = ~np.isfinite(theirs)
        above = np.where(constant, out["q"].to_numpy(float) < Q_STEIGER, above)
        closer = rmse(runs, genes) < rmse(aligned(runs, untrained), genes)
        well &= (out["p"] < P_CORRELATION) & closer & above
    out["well_predicted"] = well.astype(bool)
    return out.reset_index(names="gene")[GENE_COLUMNS]
