"""The evaluation stage: predictions of a task's models to its tables."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from histostudy.errors import StudyError
from histostudy.evaluation import appendix, expression
from histostudy.evaluation.appendix import Beside
from histostudy.evaluation.bootstrap import Floats, block_groups, interval
from histostudy.evaluation.comparison import MAIN_METRIC, Pair, compare, pair_runs, resampling_ratio
from histostudy.evaluation.delong import delong_test
from histostudy.evaluation.metrics import classification, regression, survival
from histostudy.evaluation.metrics.base import Metric, Run, Values, evaluate
from histostudy.evaluation.runs import check, classes_of, cutoff_of, events_of, resampling, runs_of, training_outcomes
from histostudy.seeds import derive_seed

if TYPE_CHECKING:
    from histostudy.cohort.outcomes import Outcome
    from histostudy.study import Study
    from histostudy.tasks import Task

logger = logging.getLogger(__name__)

#: Side of the blocks in which spots of a section are resampled, um: neighbours are not independent.
BLOCK_UM = 500.0
NOTHING = Beside()
METRIC_COLUMNS = [
    "task", "model", "metric", "gene", "estimate", "low", "high", "n", "patients", "events", "pooling", "runs",
    "undefined", "resamples", "p", "q",
]  # fmt: skip


class Evaluation(NamedTuple):
    """Tables of a task.

    Attributes
    ----------
    metrics : DataFrame
        task, model, metric [, gene], estimate, low, high, n (patients; of labelled tiles: tiles, and their patients in
        `patients`), events, pooling, runs (where it is defined), undefined (runs left out), resamples [, p, q].
    comparison : DataFrame
        See `comparison.compare`.
    curves : dict of str to DataFrame
        What the figures are drawn from, by name: see `histostudy.evaluation.appendix`.
    """

    metrics: pd.DataFrame
    comparison: pd.DataFrame
    curves: dict[str, pd.DataFrame]


def evaluate_task(
    study: Study,
    task: Task,
    predictions: Mapping[str, pd.DataFrame],
    outcome: Outcome,
    splits: pd.DataFrame,
    beside: Beside = NOTHING,
) -> Evaluation:
    """Evaluate all models of a task on the same resamples of its patients.

    Patients are resampled within the fold that tests them where each is tested once, else over all patients; spots
    of a section in blocks of neighbours, labelled tiles with all others of their patient. Resampling patients leaves
    out the variance of training: an interval says how the number would move with other test patients, not with
    another training.

    Parameters
    ----------
    study : Study
        Its `seed` and `compare` are used.
    task : Task
    predictions : mapping of model to DataFrame
        All runs of each model, see `runs.gather`.
    outcome : Outcome
        Of the task; gives the classes and the outcomes of the training parts.
    splits : DataFrame
        repeat, fold, patient_id, part.
    beside : Beside
        What some tables need more.

    Raises
    ------
    StudyError
        If predictions are missing, not finite, or not of the same patients for all models.
    """
    if not predictions:
        raise StudyError(f"no predictions of task {task.name}", todo="train its models first")
    check(predictions, task.name)
    compared = study.compare
    first = next(iter(predictions.values()))
    seed = derive_seed(study.seed, "bootstrap", task.name)
    once, weights = resampling(first, compared.resamples, seed, lambda rows: _blocks(rows, beside))
    train = training_outcomes(outcome, splits)
    patients = once["patient_id"].tolist()
    blocks = _blocks(once, beside)
    runs = {model: runs_of(frame, patients, train, blocks) for model, frame in predictions.items()}
    references = [m for m in dict.fromkeys([compared.reference, "clinical"]) if m is not None and m in predictions]
    main: dict[str, Values] = {}
    if task.kind == "expression":
        tables, pair = _genes(runs, weights, compared.confidence, references)
    else:
        tables, pair, main = _metrics(task, runs, weights, compared.confidence, outcome)
    metrics = pd.concat(tables, ignore_index=True)
    metrics["task"], metrics["n"], metrics["events"] = task.name, len(once), events_of(task, once, outcome)
    if beside.owners and blocks is not None:
        metrics["patients"] = len(np.unique(blocks))
    if (cutoff := cutoff_of(task)) is not None:
        mine = metrics["metric"] == regression.at_cutoff(cutoff).name
        metrics.loc[mine, "events"] = int(regression.high(once["truth"].to_numpy(float), cutoff).sum())
    wanted = [c for c in METRIC_COLUMNS if c in metrics]
    comparison = compare(
        task.name, MAIN_METRIC[task.kind], list(runs), pair, references,
        n=len(once), confidence=compared.confidence, correction=compared.correction,
        # its rows must be independent, which the tiles of a patient are not
        delong=delong_test(runs, classes_of(task, outcome))
        if task.kind == "classification" and not beside.owners
        else None,
        ratio=resampling_ratio(splits),
    )  # fmt: skip
    shown = _appendix(task, runs, weights, compared.confidence, outcome, metrics, splits, beside, study.seed)
    if main:
        shown["folds"] = appendix.folds(
            MAIN_METRIC[task.kind], main, runs, lambda run: events_of(task, run.frame, outcome)
        )
    return Evaluation(metrics[wanted], comparison, {n: t.reset_index(drop=True) for n, t in shown.items()})


def _blocks(once: pd.DataFrame, beside: Beside) -> np.ndarray | None:
    """Blocks of neighbouring spots, or patients of tiles, in the order of the units; None for patients."""
    if beside.owners:
        return np.unique([beside.owners[tile] for tile in once["patient_id"]], return_inverse=True)[1]
    if beside.places is None:
        return None
    at = beside.places.set_index("spot_id").loc[once["patient_id"]]
    x, y, slide = at["x_um"].to_numpy(), at["y_um"].to_numpy(), at["slide_id"].to_numpy()
    return block_groups(x, y, slide, BLOCK_UM)


#: Pairs two models, by name, on the main metric.
Pairing = Callable[[str, str], Pair]


def _metrics(
    task: Task, runs: Mapping[str, Sequence[Run]], weights: Floats, confidence: float, outcome: Outcome
) -> tuple[list[pd.DataFrame], Pairing, dict[str, Values]]:
    """The metrics of each model, what pairs two of them, and each model's values of the main metric."""
    horizons = survival.horizons_of(runs) if task.kind == "survival" else {}
    tables: list[pd.DataFrame] = []
    main: dict[str, Values] = {}
    for model, parts in runs.items():
        names: tuple[Metric, ...]
        facts: object
        if task.kind == "classification":
            names, facts = classification.metrics(parts), classes_of(task, outcome)
        elif task.kind == "survival":
            names, facts = survival.metrics(task.horizons, parts), horizons[model]
        else:
            names, facts = regression.metrics(cutoff_of(task)), None
        rows = []
        for metric in names:
            values = evaluate(metric, parts, weights, facts)
            if metric.name == MAIN_METRIC[task.kind]:
                main[model] = values
            if values.undefined:
                logger.warning("%s, %s: %s undefined in %d of %d runs", task.name, model, metric.name,
                               values.undefined, len(parts))  # fmt: skip
            low, high = interval(
                values.resampled, confidence, bounds=metric.bounds,
                estimate=values.estimate if metric.centred else None,
            )  # fmt: skip
            row = {"model": model, "metric": metric.name, "estimate": values.estimate, "low": low, "high": high}
            row |= {"pooling": metric.pooling, "runs": values.runs, "undefined": values.undefined}
            rows.append(row | {"resamples": len(weights)})
        tables.append(pd.DataFrame(rows))
    return tables, lambda one, other: pair_runs(main[one], main[other]), main


def _genes(
    runs: Mapping[str, Sequence[Run]], weights: Floats, confidence: float, references: Sequence[str]
) -> tuple[list[pd.DataFrame], Pairing]:
    """The metrics of each model's genes, and what pairs two models."""
    tables: list[pd.DataFrame] = []
    shared: dict[str, dict[str, expression.Shared]] = {}
    defined = {model: expression.defined_genes(parts) for model, parts in runs.items()}
    for model, parts in runs.items():
        mine = defined[model]
        others = [m for m in (runs if model in references else references) if m != model]
        both = {m: mine & defined[m].reindex(columns=mine.columns, fill_value=False) for m in others}
        genes = expression.evaluate_genes(
            parts, weights, confidence, {m: table.to_numpy() for m, table in both.items()}, runs.get("prior")
        )
        tables.append(genes.rows.assign(model=model))
        shared[model] = genes.shared

    def pair(one: str, other: str) -> Pair:
        mine, theirs = shared[one][other], shared[other][one]
        return Pair(mine.estimate - theirs.estimate, mine.resampled - theirs.resampled, mine.runs)

    return tables, pair


def _appendix(
    task: Task,
    runs: Mapping[str, Sequence[Run]],
    weights: Floats,
    confidence: float,
    outcome: Outcome,
    metrics: pd.DataFrame,
    splits: pd.DataFrame,
    beside: Beside,
    seed: int,
) -> dict[str, pd.DataFrame]:
    if task.kind == "classification":
        out = appendix.of_classification(runs, weights, classes_of(task, outcome), confidence)
    elif task.kind == "survival":
        out = appendix.of_survival(runs, weights, task.horizons, confidence, outcome)
    elif task.kind == "regression":
        out = appendix.of_regression(runs)
    else:
        out = appendix.of_expression(runs, weights, confidence, metrics, outcome, splits, beside, seed)
    for name, metric in (("roc", "auroc"), ("pr", "auprc"), ("scatter", "pearson")):
        if name in out and len(out[name]):
            out[name] = _with_estimate(out[name], metrics, metric)
    return out


def _with_estimate(table: pd.DataFrame, metrics: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The model's metric beside each row, for a figure's legend."""
    mine = metrics.loc[metrics["metric"] == metric, ["model", "estimate", "low", "high"]]
    names = {"low": "estimate_low", "high": "estimate_high"}
    return table.merge(mine.rename(columns=names), on="model", how="left").assign(metric=metric)
