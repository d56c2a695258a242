"""The trivial controls every table holds: no tiles, only the training part's outcomes and clinical covariates.

Neither has an epoch to choose, so both are fitted on the training and the inner part together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from histostudy.errors import ModelError
from histostudy.models.survival import breslow, cox_survival
from histostudy.training.guard import TestPart
from histostudy.training.targets import head_names, targets_of

if TYPE_CHECKING:
    import pandas as pd
    from sklearn.compose import ColumnTransformer

    from histostudy.cohort.outcomes import Outcome
    from histostudy.training.loop import RunResult

#: Ridge penalty of the clinical Cox model, on standardised covariates.
COX_ALPHA = 0.1


def prior_run(outcome: Outcome, fit_ids: Sequence[str], test: TestPart, *, days: Sequence[int] = ()) -> RunResult:
    """The same prediction for everybody: class shares, mean, Kaplan-Meier curve, mean of each gene.

    Parameters
    ----------
    outcome : Outcome
        Asked for `fit_ids` only.
    fit_ids : sequence of str
        Training and inner part.
    test : TestPart
        The guard of the test part.
    days : sequence of int
        Where S(t) is reported (survival).
    """
    import torch

    targets = targets_of(outcome, fit_ids)
    names = head_names(outcome, days)
    kind = outcome.task.kind
    if kind == "survival":
        curve = _kaplan_meier(targets["time"].numpy(), targets["event"].numpy(), days)
        values = {"risk": 0.0} | {f"surv_{d}": s for d, s in zip(days, curve, strict=True)}
    elif kind == "classification":
        shares = np.bincount(targets["y"].numpy(), minlength=len(names["classes"])) / len(fit_ids)
        values = {f"prob_{c}": s for c, s in zip(names["classes"], shares, strict=True)}
    else:
        values = dict(zip(names["columns"], np.nanmean(targets["y"].double().numpy(), axis=0), strict=True))
    columns = {name: np.full(len(test.patient_ids), float(value)) for name, value in values.items()}
    if kind == "survival":
        columns["risk_median_train"] = np.zeros(len(test.patient_ids))
    tensors = {"value": torch.tensor([float(v) for v in values.values()], dtype=torch.float64)}
    return _result(columns, test, tensors, {"control": "prior", "columns": list(values)}, len(fit_ids))


def clinical_run(
    outcome: Outcome, fit_ids: Sequence[str], test: TestPart, *, seed: int, days: Sequence[int] = ()
) -> RunResult:
    """The clinical covariates alone: logistic regression, ridge Cox or ridge regression.

    Numbers are filled with the median and standardised, categories one-hot with a class for the missing; all of
    it fitted on `fit_ids`. A covariate that is constant there is left out.

    Raises
    ------
    ModelError
        If the task names no covariates.
    """
    import torch
    from sklearn.pipeline import make_pipeline

    covariates = list(outcome.task.adjust)
    if not covariates:
        raise ModelError(f"task {outcome.task.name} names no covariates", todo="list them under the task's adjust")
    table = outcome.adjust[covariates]
    fit_x, test_x = table.loc[list(fit_ids)], table.loc[list(test.patient_ids)]
    transform = _transform(fit_x)
    targets = {name: value.numpy() for name, value in targets_of(outcome, fit_ids).items()}
    kind = outcome.task.kind
    names = head_names(outcome, days)
    if kind == "survival":
        from sksurv.linear_model import CoxPHSurvivalAnalysis

        x, x_test = transform.fit_transform(fit_x), transform.transform(test_x)
        time, event = targets["time"].astype(float), targets["event"] > 0
        if not event.any():
            raise ModelError("no event in the training part", todo="use fewer folds or a longer endpoint")
        truth = np.array(list(zip(event, time, strict=True)), dtype=[("event", bool), ("time", float)])
        model = CoxPHSurvivalAnalysis(alpha=COX_ALPHA, ties="efron").fit(x, truth)
        fitted, risk = x @ model.coef_, x_test @ model.coef_
        curves = cox_survival(risk, *breslow(fitted, time, event), days)
        columns = {"risk": risk} | {f"surv_{d}": curves[:, k] for k, d in enumerate(days)}
        columns["risk_median_train"] = np.full(len(risk), np.median(fitted))
        weights = {"coefficient": model.coef_}
    elif kind == "classification":
        from sklearn.linear_model import LogisticRegression

        y = targets["y"]
        model = make_pipeline(transform, LogisticRegression(max_iter=1000, random_state=seed)).fit(fit_x, y)
        shares = np.zeros((len(test_x), len(names["classes"])))
        shares[:, model[-1].classes_] = model.predict_proba(test_x)
        columns = {f"prob_{c}": shares[:, k] for k, c in enumerate(names["classes"])}
        weights = {"coefficient": model[-1].coef_, "intercept": model[-1].intercept_}
    else:
        from sklearn.linear_model import Ridge

        y = targets["y"].astype(float)
        y = np.where(np.isfinite(y), y, np.nanmean(y, axis=0))
        model = make_pipeline(transform, Ridge(alpha=1.0)).fit(fit_x, y)
        values = model.predict(test_x).reshape(len(test_x), -1)
        columns = {name: values[:, k] for k, name in enumerate(names["columns"])}
        weights = {"coefficient": model[-1].coef_, "intercept": model[-1].intercept_}
    tensors = {k: torch.as_tensor(np.asarray(v, float)) for k, v in weights.items()}
    config = {"control": "clinical", "covariates": [str(n) for n in transform.get_feature_names_out()]}
    return _result(columns, test, tensors, config, len(fit_ids))


def _transform(table: pd.DataFrame) -> ColumnTransformer:
    """Imputer, scaler and one-hot of the columns; nothing is fitted yet."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

    known = [c for c in table.columns if table[c].notna().any()]
    numbers = [c for c in known if table[c].dtype.kind in "fiub" and table[c].nunique() > 1]
    classes = [c for c in known if table[c].dtype.kind not in "fiub" and table[c].nunique(dropna=False) > 1]
    if not numbers and not classes:
        raise ModelError("every covariate is constant in a training part", todo="name others under adjust")
    number = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    category = make_pipeline(
        FunctionTransformer(_as_text, feature_names_out="one-to-one"),
        OneHotEncoder(drop="if_binary", handle_unknown="ignore", sparse_output=False),
        StandardScaler(),
    )
    return ColumnTransformer([("number", number, numbers), ("category", category, classes)])


def _as_text(table: pd.DataFrame) -> pd.DataFrame:
    return table.astype(object).where(table.notna(), "missing").astype(str)


def _kaplan_meier(time: np.ndarray, event: np.ndarray, days: Sequence[int]) -> np.ndarray:
    """Kaplan-Meier estimate of S at `days`."""
    times, counts = np.unique(time[event > 0], return_counts=True)
    at_risk = (time[None, :] >= times[:, None]).sum(1)
    curve = np.concatenate([[1.0], np.cumprod(1 - counts / at_risk)])
    return curve[np.searchsorted(times, np.asarray(days, float), side="right")]


def untrained_result(
    predictions: pd.DataFrame, tensors: dict[str, Any], config: dict[str, Any], n_fit: int
) -> RunResult:
    """The result of a run without epochs: predictions that were submitted, and what made them.

    Parameters
    ----------
    predictions : DataFrame
        As the guard gave them back.
    tensors, config : dict
        Weights, where there are some, and what they are.
    n_fit : int
        Patients they were fitted on.
    """
    import pandas as pd
    import torch

    from histostudy.training.loop import RunResult

    history = pd.DataFrame({"epoch": [], "lr": [], "train_loss": [], "val_loss": [], "best": []})
    info = {
        "n_train": n_fit, "n_val": 0, "n_test": len(predictions),
        "parameters": sum(t.numel() for t in tensors.values()), "epochs": 0, "best_epoch": 0,
    }  # fmt: skip
    return RunResult(predictions, tensors or {"nothing": torch.zeros(0)}, config, history, info)


def _result(
    columns: dict[str, np.ndarray], test: TestPart, tensors: dict[str, Any], config: dict[str, Any], n_fit: int
) -> RunResult:
    import pandas as pd

    predictions = test.submit(pd.DataFrame({"patient_id": list(test.patient_ids)} | columns))
    return untrained_result(predictions, tensors, config, n_fit)
