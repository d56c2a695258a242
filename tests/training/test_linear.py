"""The linear model on the patient's mean against scikit-learn's optimum."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from training.trainingdata import PackedBags, folds_of, outcome_for, planted_bags, study_of

from histostudy.models.heads import HEADS
from histostudy.training.guard import TestPart
from histostudy.training.linear import DEFAULT_PENALTY, _solve
from histostudy.training.loop import train_run
from histostudy.training.tilestore import TileStore


@pytest.mark.parametrize("penalty", [1.0, 0.1, 0.003])
def test_optimum_equals_logistic_regression(penalty: float) -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(80, 6)), rng.integers(0, 2, 80)
    head = HEADS["classification"](6, {"kind": "classification", "classes": ["a", "b"]})
    current = [torch.zeros(2, 6).double().requires_grad_(), torch.zeros(2).double().requires_grad_()]
    _solve(head, current, torch.tensor(x), {"y": torch.tensor(y)}, penalty)
    # the penalty is shared by two opposite rows, so it is half as strong on their difference
    reference = LogisticRegression(C=2 / (penalty * 80), tol=1e-10, max_iter=1000).fit(x, y)
    weight = (current[0][1] - current[0][0]).detach().numpy()
    assert weight == pytest.approx(reference.coef_[0], abs=1e-4)
    assert (current[1][1] - current[1][0]).item() == pytest.approx(reference.intercept_[0], abs=1e-4)


def test_the_inner_part_chooses_the_penalty(tmp_path: Path) -> None:
    bags, y = planted_bags(90, 0)
    ids = sorted(bags)
    study = study_of({"name": "t", "kind": "classification", "target": "y"}, {"m": {"aggregator": "mean"}}, tmp_path)
    outcome = outcome_for(study, ids, y=y.astype(float), classes=["no", "yes"])
    part = folds_of(ids, y, 3).query("fold == 0").groupby("part")["patient_id"].apply(list)
    store = TileStore.of(PackedBags.of(bags))

    def fit(val: list[str]) -> object:
        test = TestPart(outcome, part["test"])
        return train_run(study.models["m"], store, outcome, part["train"], val, test, seed=0)

    result = fit(part["val"])
    assert result.history.loc[result.history["best"], "val_loss"].item() == result.history["val_loss"].min()
    assert len(result.history) > 3
    assert list(fit([]).history["penalty"]) == [DEFAULT_PENALTY]
