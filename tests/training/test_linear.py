"""The linear model on the patient's mean against scikit-learn's optimum."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from training.trainingdata import PackedBags, folds_of, outcome_for, planted_bags, study_of

from histostudy.models.heads import HEADS, Head
from histostudy.training.guard import TestPart
from histostudy.training.linear import PENALTIES, REGRESSION_PENALTIES, _solve, _stepped_path, ridge_path
from histostudy.training.loop import RunResult, train_run
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
    alone = fit([]).history  # nobody is left to choose: parts of the training part do, and it is fitted whole
    assert len(alone) == 1 and alone["penalty"].item() in PENALTIES and alone["best"].item()


def ridge_problem(n: int, dim: int, genes: int) -> tuple[Head, torch.Tensor, dict[str, torch.Tensor]]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, dim)) + 0.3
    y = x[:, :1] * rng.normal(size=genes) + rng.normal(size=(n, genes)) * 2 + 7
    targets = {"y": torch.from_numpy(y).float()}
    head = HEADS["regression"](dim, {"kind": "regression", "columns": [f"g{k}" for k in range(genes)]})
    torch.nn.init.zeros_(head.linear.weight)
    head.start(targets)
    return head, torch.from_numpy(x), targets


@pytest.mark.parametrize(("n", "dim"), [(50, 6), (20, 45)])
def test_closed_form_equals_ridge_of_scikit_learn(n: int, dim: int) -> None:
    from sklearn.linear_model import Ridge

    head, x, targets = ridge_problem(n, dim, 3)
    y = ((targets["y"] - head.centre) / head.spread).double().numpy()
    penalties = (1e3, 1.0, 1e-3)
    for penalty, (weight, bias) in zip(penalties, ridge_path(head, x, targets, penalties), strict=True):
        reference = Ridge(alpha=n * penalty / 2, solver="svd").fit(x.numpy(), y)
        assert weight.numpy() == pytest.approx(reference.coef_, rel=1e-7, abs=1e-9)
        assert bias.numpy() == pytest.approx(reference.intercept_, rel=1e-7, abs=1e-9)


def test_closed_form_equals_the_stepped_optimum() -> None:
    head, x, targets = ridge_problem(40, 5, 2)
    penalties = (10.0, 1.0, 0.1, 0.01)
    stepped = ((w.clone(), b.clone()) for w, b in _stepped_path(head, x, targets, penalties))
    for exact, found in zip(ridge_path(head, x, targets, penalties), stepped, strict=True):
        for one, two in zip(exact, found, strict=True):
            assert one.numpy() == pytest.approx(two.numpy(), abs=5e-5)


def test_a_missing_target_is_fitted_without_its_patient() -> None:
    """One target: a missing value is the same as leaving the patient out of the sum of squares."""
    from sklearn.linear_model import Ridge

    head, x, targets = ridge_problem(40, 5, 1)
    targets["y"][:10] = float("nan")
    head.start(targets)
    ((weight, bias),) = _stepped_path(head, x, targets, (0.1,))
    y = ((targets["y"] - head.centre) / head.spread).double().numpy()[10:]
    reference = Ridge(alpha=30 * 0.1 / 2).fit(x.numpy()[10:], y[:, 0])
    assert weight.numpy()[0] == pytest.approx(reference.coef_.ravel(), abs=1e-4)
    assert bias.item() == pytest.approx(reference.intercept_.item(), abs=1e-4)


GENES = 30


def expression_run(
    tmp_path: Path, options: dict, share: float = 0.2, shift_test: float = 0.0, inner: bool = True
) -> tuple[RunResult, np.ndarray, dict[str, list[str]]]:
    """A run of `mean` on patients whose linked genes follow the mean of their tiles; the linked genes; the parts."""
    rng = np.random.default_rng(3)
    latent = rng.normal(size=150)
    ids = [f"p{i:03d}" for i in range(150)]
    way = np.repeat([0.5, 0.0], [8, 12])
    bags = {p: rng.normal(size=(8, 20)) + latent[i] * way for i, p in enumerate(ids)}
    linked = np.arange(GENES) < share * GENES
    y = rng.normal(0, 3, GENES) + latent[:, None] * linked + rng.normal(0, 0.5, (150, GENES))
    part = {"train": ids[:80], "val": ids[80:100] if inner else [], "test": ids[100:]}
    for patient in part["test"]:
        bags[patient] = bags[patient] + shift_test * np.arange(20)
    task = {"name": "t", "kind": "expression", "table": "none.csv"}
    study = study_of(task, {"m": {"aggregator": "mean", "options": options}}, tmp_path)
    outcome = outcome_for(study, ids, y=y, genes=[f"g{k}" for k in range(GENES)])
    test = TestPart(outcome, part["test"])
    store = TileStore.of(PackedBags.of(bags))
    result = train_run(study.models["m"], store, outcome, part["train"], part["val"], test, seed=0)
    return result, linked, part


def across(result: RunResult) -> np.ndarray:
    """Pearson r of each gene over the test patients."""
    frame = result.predictions
    pairs = [(frame[f"pred_g{k}"], frame[f"truth_g{k}"]) for k in range(GENES)]
    return np.array([np.corrcoef(p, t)[0, 1] if p.std() > 0 else 0.0 for p, t in pairs])


@pytest.mark.parametrize("options", [{}, {"pca": 8}, {"pca": 8, "penalty": 0.01}])
def test_linked_genes_are_found_and_no_others(tmp_path: Path, options: dict) -> None:
    result, linked, _ = expression_run(tmp_path, options)
    r = across(result)
    assert r[linked].min() > 0.7
    assert abs(r[~linked].mean()) < 0.1
    assert len(result.history) == (1 if "penalty" in options else len(REGRESSION_PENALTIES))


def test_without_a_link_the_strongest_penalties_win(tmp_path: Path) -> None:
    result, _, _ = expression_run(tmp_path, {"pca": 8}, share=0.0)
    assert abs(across(result).mean()) < 0.1
    chosen = result.history.loc[result.history["best"], "penalty"].item()
    assert chosen > 1
    spread = np.array([result.predictions[f"pred_g{k}"].std() for k in range(GENES)])
    assert spread.max() < 0.3


def test_components_see_the_training_part_alone(tmp_path: Path) -> None:
    plain, _, _ = expression_run(tmp_path, {"pca": 5, "penalty": 0.01})
    shifted, _, _ = expression_run(tmp_path, {"pca": 5, "penalty": 0.01}, shift_test=50.0)
    assert plain.tensors["aggregator.components"].abs().sum() > 0
    for name in ("aggregator.components", "mean", "scale", "head.linear.weight"):
        assert torch.equal(plain.tensors[name], shifted.tensors[name])
    assert not np.allclose(plain.predictions["pred_g0"], shifted.predictions["pred_g0"])


def test_all_components_are_the_ridge_regression_without_them(tmp_path: Path) -> None:
    one, _, _ = expression_run(tmp_path, {"penalty": 0.1}, inner=False)
    two, _, _ = expression_run(tmp_path, {"penalty": 0.1, "pca": 500}, inner=False)
    for k in range(GENES):
        assert two.predictions[f"pred_g{k}"].to_numpy() == pytest.approx(
            one.predictions[f"pred_g{k}"].to_numpy(), abs=1e-4
        )
