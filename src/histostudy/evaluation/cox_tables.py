"""A model's risk beside the clinical covariates, and what one model adds to another, as tidy tables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from histostudy.evaluation.cox import CoxFit, Floats, fit, proportional_hazards
from histostudy.evaluation.metrics.base import Run
from histostudy.evaluation.metrics.kernels import concordance, nanmean
from histostudy.evaluation.metrics.survival import outcome

COX_COLUMNS = [
    "model", "analysis", "term", "hazard_ratio", "low", "high", "p", "ph_p", "n", "events",
]  # fmt: skip
ADDED_COLUMNS = ["model", "base", "added", "chi2", "df", "p", "c_base", "c_both", "n", "events"]
RISK = "risk (per SD)"
STAGE = re.compile(r"^(?:stage\s*)?(0|iv|i{1,3}|[1-4])\s*[abc]?\d?$", re.IGNORECASE)
STAGES = {"0": 0, "i": 1, "ii": 2, "iii": 3, "iv": 4, "1": 1, "2": 2, "3": 3, "4": 4}
#: What stands for no stage among stages.
NO_STAGE = frozenset({"stage x", "x", "stage nos", "unknown", "not available"})


def first_tested(runs: Sequence[Run]) -> pd.DataFrame:
    """One row a patient: patient_id, time, event, run, risk, z (risk standardised within the run that tested it).

    A patient tested by several runs is taken from the first: his copies would narrow every interval. z is 0 where
    a run predicts one risk for all.
    """
    parts = []
    for run in runs:
        time, event, risk = outcome(run.frame)
        spread = float(risk.std())
        z = (risk - risk.mean()) / spread if spread > 1e-12 else np.zeros(risk.size)
        columns = {"patient_id": run.frame["patient_id"].astype(str), "time": time, "event": event, "risk": risk}
        parts.append(pd.DataFrame(columns | {"z": z}).assign(run=f"r{run.repeat}f{run.fold}"))
    return pd.concat(parts, ignore_index=True).drop_duplicates("patient_id", ignore_index=True)


def covariate_terms(table: pd.DataFrame) -> list[pd.DataFrame]:
    """The terms of each covariate: numbers standardised, stages 1 to 4, other text one-hot.

    Numbers that are only 0 and 1 stay so (`per unit`). Stages are text such as ``II``, ``Stage IIIA``, with the
    substage dropped. Of other text the most common level is what the others are compared with.

    Parameters
    ----------
    table : DataFrame
        Covariates by patient; NaN is missing.

    Returns
    -------
    list of DataFrame
        One a covariate, the columns its terms, NaN where it is missing; constant terms are dropped.
    """
    out = []
    for name in table.columns:
        values = table[name]
        known = values.notna()
        if pd.api.types.is_numeric_dtype(values):
            number = values.astype(float)
            flag = set(number[known]) <= {0.0, 1.0}
            spread = float(number.std())
            terms = {f"{name} (per unit)": number} if flag else {f"{name} (per SD)": (number - number.mean()) / spread}
        elif (stages := _stages(values)) is not None:
            terms = {f"{name} (per unit)": stages}
        else:
            text = values.astype(object).where(known, None)
            counts = text[known].astype(str).value_counts()
            if counts.empty:
                continue
            common = str(min(counts.index[counts == counts.max()]))
            terms = {
                f"{name}: {level} v {common}": (text.astype(str) == level).astype(float).where(known)
                for level in sorted(counts.index.astype(str))
                if level != common
            }
        kept = {term: column for term, column in terms.items() if column.nunique() > 1}
        if kept:
            out.append(pd.DataFrame(kept, index=table.index))
    return out


def cox(model: str, runs: Sequence[Run], adjust: pd.DataFrame | None, confidence: float) -> pd.DataFrame:
    """Cox models of the out-of-fold risk, of each covariate, and of all together; one baseline a run, Efron's ties.

    The risk is standardised within the run that tested it. Patients with a missing covariate are left out of the
    models that need it. Rows of a model that cannot be fitted are NaN; constant covariates have none.

    Parameters
    ----------
    model : str
    runs : sequence of Run
    adjust : DataFrame, indexed by patient_id, optional
        The covariates of the task (`Outcome.adjust`).
    confidence : float

    Returns
    -------
    DataFrame
        model, analysis (univariable or multivariable), term, hazard_ratio, low, high, p (Wald), ph_p (test of
        proportional hazards, see `cox.proportional_hazards`), n (patients in that fit), events.
    """
    table = first_tested(runs)
    blocks = [pd.DataFrame({RISK: table["z"]})] if table["z"].nunique() > 1 else []
    if adjust is not None and adjust.shape[1]:
        mine = adjust.set_axis(adjust.index.astype(str)).reindex(table["patient_id"])
        blocks += [block.reset_index(drop=True) for block in covariate_terms(mine)]
    analyses = [("univariable", block) for block in blocks]
    if blocks:
        analyses.append(("multivariable", pd.concat(blocks, axis=1)))
    rows: list[dict[str, Any]] = []
    for analysis, terms in analyses:
        rows += [row | {"model": model, "analysis": analysis} for row in _fitted(table, terms, confidence)]
    return pd.DataFrame(rows, columns=COX_COLUMNS)


def added(runs: Mapping[str, Sequence[Run]], base: str = "clinical") -> pd.DataFrame:
    """What each model adds to `base`, and `base` to each model.

    Likelihood ratio of nested Cox models of the out-of-fold risks, standardised within run, one baseline a run.

    Returns
    -------
    DataFrame
        model, base, added (such as ``abmil added to clinical``), chi2, df, p, c_base (mean within-run concordance of
        the base's risk), c_both (of the linear predictor of both, whose two weights are fitted on the same
        patients: a little high), n, events. Empty without `base`.
    """
    if base not in runs:
        return pd.DataFrame(columns=ADDED_COLUMNS)
    other = first_tested(runs[base])
    rows: list[dict[str, Any]] = []
    for model, parts in runs.items():
        if model == base:
            continue
        both = first_tested(parts).merge(other[["patient_id", "z"]], on="patient_id", suffixes=("", "_base"))
        pair = {model: both["z"].to_numpy(), base: both["z_base"].to_numpy()}
        for one, extra in ((base, model), (model, base)):
            row = {"model": model, "base": one, "added": f"{extra} added to {one}"}
            rows.append(row | _nested(both, pair[one], pair[extra]))
    return pd.DataFrame(rows, columns=ADDED_COLUMNS)


def within_run_c(table: pd.DataFrame, score: Floats) -> float:
    """Mean over runs of Harrell's concordance of `score`."""
    each = []
    for _, rows in table.groupby("run").indices.items():
        time, event = table["time"].to_numpy(float)[rows], table["event"].to_numpy(bool)[rows]
        each.append(concordance(np.ones((1, len(rows))), time, event, score[rows])[0])
    return float(nanmean(np.array(each), 0))


def _nested(table: pd.DataFrame, base: Floats, extra: Floats) -> dict[str, Any]:
    from scipy.stats import chi2

    def of(*columns: Floats) -> tuple[CoxFit, Floats]:
        x = np.column_stack([c for c in columns if np.ptp(c) > 1e-12] or [np.zeros((len(base), 0))])
        return fit(time, event, x, strata), x

    time, event = table["time"].to_numpy(float), table["event"].to_numpy(bool)
    strata = table["run"].to_numpy(str)
    small, _ = of(base)
    large, x = of(base, extra)
    df = large.beta.size - small.beta.size
    statistic = max(2 * (large.loglik - small.loglik), 0.0) if df and np.isfinite(large.loglik) else float("nan")
    predictor = x @ large.beta if df and np.isfinite(large.beta).all() else np.full(len(base), np.nan)
    both = within_run_c(table, predictor) if np.isfinite(predictor).all() else float("nan")
    row = {"chi2": statistic, "df": df, "p": float(chi2.sf(statistic, df)) if df else float("nan")}
    return row | {"c_base": within_run_c(table, base), "c_both": both, "n": large.n, "events": large.events}


def _fitted(table: pd.DataFrame, terms: pd.DataFrame, confidence: float) -> list[dict[str, Any]]:
    complete = terms.notna().all(axis=1).to_numpy()
    part, x = table[complete], terms[complete]
    x = x.loc[:, x.nunique() > 1]
    if x.shape[1] == 0:
        return []
    time, event = part["time"].to_numpy(float), part["event"].to_numpy(bool)
    values, strata = x.to_numpy(float), part["run"].to_numpy(str)
    fitted = fit(time, event, values, strata)
    low, high = fitted.interval(confidence)
    ph = proportional_hazards(fitted, time, event, values, strata)
    return [
        {"term": term, "hazard_ratio": float(np.exp(fitted.beta[k])), "low": float(low[k]), "high": float(high[k])}
        | {"p": float(fitted.p[k]), "ph_p": float(ph[k]), "n": fitted.n, "events": fitted.events}
        for k, term in enumerate(x.columns)
    ]


def _stages(values: pd.Series) -> pd.Series | None:
    """Stages as 0 to 4; None where the text is something else."""
    text = [str(v).strip() if known else None for v, known in zip(values, values.notna(), strict=True)]
    known = [v for v in text if v is not None and v.lower() not in NO_STAGE]
    if not known or any(STAGE.match(v) is None for v in known):
        return None
    found = [STAGE.match(v) if v is not None else None for v in text]
    numbers = [float(STAGES[m.group(1).lower()]) if m else float("nan") for m in found]
    return pd.Series(numbers, index=values.index)
