"""The tables behind a task's figures: curves, Cox models, folds, genes, subtypes; one function a kind of task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histostudy.evaluation import curves, expression, survival_curves
from histostudy.evaluation.bootstrap import Floats
from histostudy.evaluation.metrics.base import Run, Values
from histostudy.evaluation.metrics.classification import Classes
from histostudy.evaluation.runs import pool_predictions
from histostudy.seeds import derive_seed
from histostudy.study import CONTROLS

if TYPE_CHECKING:
    from histostudy.cohort.outcomes import Outcome

Runs = Mapping[str, Sequence[Run]]
Tables = dict[str, pd.DataFrame]


@dataclass(frozen=True)
class Beside:
    """What some tables need beside the predictions.

    Attributes
    ----------
    places : DataFrame, optional
        Of a task at the level of spots: `spot_id`, `slide_id`, `x_px0`, `y_px0`, `x_um`, `y_um`.
    centroids : DataFrame, optional
        The user's centroids of subtypes, genes x subtypes.
    survival : Outcome, optional
        A survival outcome of the same patients, for the curves of called subtypes.
    untrained : dict
        By model, its untrained twin.
    owners : dict
        Of labelled tiles: the patient each is of. Patients are resampled, with all their tiles.
    """

    places: pd.DataFrame | None = None
    centroids: pd.DataFrame | None = None
    survival: Outcome | None = None
    untrained: Mapping[str, str] = field(default_factory=dict)
    owners: Mapping[str, str] = field(default_factory=dict)


def _each(runs: Runs, *tables: tuple[str, Callable[[str, Sequence[Run]], pd.DataFrame]]) -> Tables:
    """Tables of all models under one another."""
    out = {}
    for name, make in tables:
        parts = [part for model, mine in runs.items() if len(part := make(model, mine))]
        out[name] = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    return out


def of_classification(runs: Runs, weights: Floats, classes: Classes, confidence: float) -> Tables:
    """roc, pr, calibration, confusion, decision."""
    from histostudy.evaluation.decision import decision_curve

    bands = {model: curves.band_curves(model, mine, weights, classes, confidence) for model, mine in runs.items()}
    return _each(
        runs,
        ("roc", lambda model, mine: bands[model][0]),
        ("pr", lambda model, mine: bands[model][1]),
        ("calibration", lambda model, mine: curves.calibration(model, mine, weights, classes, confidence)),
        ("confusion", lambda model, mine: curves.confusion(model, mine, classes)),
        ("decision", lambda model, mine: decision_curve(model, mine, weights, classes, confidence)),
    )


def of_survival(runs: Runs, weights: Floats, horizons: Sequence[int], confidence: float, outcome: Outcome) -> Tables:
    """km, calibration, td_auc, brier_curve, cox, added, pooling, km_pooled."""
    from histostudy.evaluation.cox_tables import added, cox
    from histostudy.evaluation.pooling import pooling
    from histostudy.evaluation.time_dependent import brier_curve, td_auc

    out = _each(
        runs,
        ("km", lambda model, mine: survival_curves.kaplan_meier(model, mine, confidence)),
        ("calibration", lambda model, mine: survival_curves.calibration(model, mine, horizons, confidence)),
        ("td_auc", lambda model, mine: td_auc(model, mine, weights, confidence)),
        ("brier_curve", lambda model, mine: brier_curve(model, mine, weights, confidence)),
        ("pooling", lambda model, mine: pooling(model, mine, confidence)),
        ("km_pooled", lambda model, mine: survival_curves.km_pooled(model, mine, confidence)),
    )
    # the clinical model is made of the covariates it would be set beside
    models = {model: mine for model, mine in runs.items() if model not in CONTROLS}
    out |= _each(models, ("cox", lambda model, mine: cox(model, mine, outcome.adjust, confidence)))
    return out | {"added": added(runs)}


def of_regression(runs: Runs) -> Tables:
    """scatter."""

    def scatter(model: str, mine: Sequence[Run]) -> pd.DataFrame:
        pooled = pool_predictions([run.frame for run in mine])
        return pooled[["patient_id", "truth", "prediction", "fold"]].assign(model=model)

    return _each(runs, ("scatter", scatter))


def of_expression(
    runs: Runs,
    weights: Floats,
    confidence: float,
    metrics: pd.DataFrame,
    outcome: Outcome,
    splits: pd.DataFrame,
    beside: Beside,
    seed: int,
) -> Tables:
    """genes, gene_scatter, within; subtypes, subtype_scores and subtype_km where asked; spatial of spots."""
    from histostudy.evaluation.dependent import gene_table
    from histostudy.evaluation.within_patient import within_patients

    rows = {model: metrics[metrics["model"] == model] for model in runs}
    n = len(np.unique(np.concatenate([run.rows for run in next(iter(runs.values()))])))

    def genes(model: str, mine: Sequence[Run]) -> pd.DataFrame:
        twin = beside.untrained.get(model, "")
        return gene_table(model, rows[model], mine, n, runs.get(twin), twin)

    def scatter(model: str, mine: Sequence[Run]) -> pd.DataFrame:
        return expression.gene_scatter(model, mine, rows[model])

    out = _each(runs, ("genes", genes), ("gene_scatter", scatter), ("folds", _mean_r))
    if "prior" in runs:
        prior = runs["prior"]
        out |= _each(runs, ("within", lambda m, mine: within_patients(m, mine, prior, weights, confidence)))
    if getattr(outcome.task, "subtypes", False):
        out |= _subtypes(runs, weights, confidence, outcome, splits, beside, seed)
    if beside.places is not None:
        out["spatial"] = _spatial(runs, out["genes"], beside.places)
    return out


def _subtypes(
    runs: Runs, weights: Floats, confidence: float, outcome: Outcome, splits: pd.DataFrame, beside: Beside, seed: int
) -> Tables:
    """Calls from measured and predicted expression, their agreement, and the survival of the called groups."""
    from histostudy.evaluation.subtypes import centroids_of_runs, subtype_tables

    measured = pd.DataFrame(outcome.y, outcome.patient_ids.astype(str), outcome.genes)
    fitted = centroids_of_runs(measured, splits, beside.centroids, derive_seed(seed, "subtypes"))
    made = {model: subtype_tables(model, mine, fitted, weights, confidence) for model, mine in runs.items()}
    out = _each(runs, ("subtypes", lambda m, mine: made[m][0]), ("subtype_scores", lambda m, mine: made[m][1]))
    if beside.survival is None:
        return out
    known = beside.survival
    place = {str(p): i for i, p in enumerate(known.patient_ids)}
    tables = []
    for model, (calls, _) in made.items():
        once = calls[calls["patient_id"].isin(place)].drop_duplicates("patient_id")
        rows = np.array([place[p] for p in once["patient_id"]])
        if not len(rows) or known.time is None or known.event is None:
            continue
        time, event = known.time[rows].astype(float), known.event[rows].astype(bool)
        for by in ("measured", "predicted"):
            groups = once[by].to_numpy()
            if len(set(groups)) > 1:
                table = survival_curves.km_of_groups(time, event, groups, once["fold"].to_numpy(), confidence)
                tables.append(table.assign(model=model, calls=by))
    return out | {"subtype_km": pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()}


def _mean_r(model: str, runs: Sequence[Run]) -> pd.DataFrame:
    """Mean over genes of Pearson's r in each run, over the genes where it is defined."""
    from histostudy.evaluation.metrics.kernels import nanmean, pearson

    rows = []
    for run in runs:
        truth, predicted = expression.columns(run, expression.genes_of(run.frame))
        value = float(nanmean(pearson(np.ones((1, len(truth))), truth, predicted)[0], 0))
        rows.append({"model": model, "metric": "pearson", "repeat": run.repeat, "fold": run.fold, "estimate": value})
    return pd.DataFrame(rows).assign(n=[len(run.frame) for run in runs], events=None)


#: Genes whose maps are kept, of each model the best.
MAPPED_GENES = 4


def _spatial(runs: Runs, genes: pd.DataFrame, places: pd.DataFrame) -> pd.DataFrame:
    """Measured and predicted expression at each spot, of the genes each model predicts best."""
    where = places.set_index("spot_id")[["slide_id", "x_px0", "y_px0"]]
    tables = []
    for model, mine in runs.items():
        best = genes[genes["model"] == model].nlargest(MAPPED_GENES, "estimate")["gene"]
        frame = pool_predictions([run.frame for run in mine])
        at = where.loc[frame["patient_id"]].reset_index(drop=True)
        for gene in best:
            values = {"truth": frame[f"truth_{gene}"], "prediction": frame[f"pred_{gene}"]}
            tables.append(at.assign(model=model, gene=gene, **values))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def folds(metric: str, models: Mapping[str, Values], runs: Runs, events: Callable[[Run], int | None]) -> pd.DataFrame:
    """The value of a fold mean in each run, with its patients and events."""
    rows = []
    for model, values in models.items():
        if values.each is None:
            continue
        for run, value in zip(runs[model], values.each, strict=True):
            row = {"model": model, "metric": metric, "repeat": run.repeat, "fold": run.fold, "estimate": float(value)}
            rows.append(row | {"n": len(run.frame), "events": events(run)})
    return pd.DataFrame(rows)
