"""The linear model on the patient's mean: solved, not stepped, at a ridge penalty the inner part chooses.

A convex model has no epochs to choose between, so a path of penalties takes their place, from a strong one, where
it is all but the trivial prediction, to a weak one. A regression without a missing target has a closed form, of which
one eigendecomposition serves all penalties; every other is solved to its optimum by L-BFGS from the penalty before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from histostudy.models.batch import BagBatch

if TYPE_CHECKING:
    import pandas as pd

    from histostudy.models.heads import Head
    from histostudy.models.model import MILModel
    from histostudy.training.tilestore import TileStore

#: Weights of half the squared norm, in units of the mean loss a patient (of each target, for a regression).
PENALTIES = tuple(10 ** (k / 2) for k in range(4, -8, -1))
#: Of a regression: a variance shared by a thousand features needs a stronger one to be shrunk away.
REGRESSION_PENALTIES = tuple(10 ** (k / 2) for k in range(8, -8, -1))
#: Parts of the training part that choose the penalty in turn where no inner part does.
PARTS = 5
#: Penalties without a better inner loss before a path solved step by step ends.
PATIENCE = 3

#: Weights (outputs, D), bias (outputs,).
Solution = tuple[Tensor, Tensor]


def fit_linear(
    network: MILModel,
    store: TileStore,
    train: tuple[list[int], dict[str, Tensor]],
    val: tuple[list[int], dict[str, Tensor]] | None,
) -> pd.DataFrame:
    """Fit in place, end with the chosen penalty's weights, return the history.

    Parameters
    ----------
    network : MILModel
        Standardised and started; its aggregator has no weights, and is prepared here. An option `penalty` of it that
        is not None is the only one tried.
    store : TileStore
        One tile a patient: the mean.
    train, val : (rows, targets)
        Training part, and the inner part or None.

    Returns
    -------
    DataFrame
        One row a penalty: `epoch` (its number), `penalty`, `train_loss`, `val_loss`, `best`.
    """
    import pandas as pd

    head = network.head.cpu()
    targets = train[1]
    means = _means(network, store, train[0])
    network.aggregator.cpu().prepare(lambda most: means, 0)
    x = _vectors(network, means)
    x_val = None if val is None else _vectors(network, _means(network, store, val[0]))
    exact = _has_closed_form(head, targets)
    fixed = getattr(network.aggregator.options, "penalty", None)
    solve = ridge_path if exact else _stepped_path
    path: Sequence[float] = _path(head) if fixed is None else (float(fixed),)
    if val is None and fixed is None:
        path = (_by_parts(head, x, targets, path, solve),)
    best, best_state, chosen, since = math.inf, None, 0, 0
    history: list[dict[str, Any]] = []
    for penalty, (weight, bias) in zip(path, solve(head, x, targets, path), strict=True):
        train_loss = _loss(head, weight, bias, x, targets)
        val_loss = math.nan if val is None or x_val is None else _loss(head, weight, bias, x_val, val[1])
        history.append({"epoch": len(history) + 1, "penalty": penalty, "train_loss": train_loss, "val_loss": val_loss})
        if best_state is None or val_loss < best:
            best = math.inf if math.isnan(val_loss) else val_loss
            best_state, chosen, since = (weight.clone(), bias.clone()), len(history) - 1, 0
        else:
            since += 1
        if since >= PATIENCE and not exact:
            break
    assert best_state is not None
    with torch.no_grad():
        for value, found in zip(head.linear.parameters(), best_state, strict=True):
            value.copy_(found)
    network.eval()
    frame = pd.DataFrame(history)
    frame["best"] = frame.index == chosen
    return frame


@torch.no_grad()
def ridge_path(head: Head, x: Tensor, targets: dict[str, Tensor], penalties: Sequence[float]) -> Iterator[Solution]:
    """Ridge regression of all targets at each penalty, in closed form.

    The minimum of (1/n) sum (y - W x - b)^2 + (penalty / 2) |W|^2 for each standardised target, b unpenalised:
    alpha = n penalty / 2 on the sum of squares. Of centred X it is W = (X'X + alpha)^-1 X'y, or
    X' (XX' + alpha)^-1 y where there are more features than patients; the eigenvectors of the smaller of the two
    Gram matrices do for every alpha.

    Parameters
    ----------
    head : Head
        A started `RegressionHead`.
    x : Tensor
        (n, D) float64.
    targets : mapping
        `y` (n, G) without a missing value.
    penalties : sequence of float
        Above 0.

    Yields
    ------
    weight, bias : Tensor
        (G, D) and (G,) float64.
    """
    y = ((targets["y"] - head.centre) / head.spread).double()  # type: ignore[operator]
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    wide = x.shape[1] > x.shape[0]
    values, axes = torch.linalg.eigh(x @ x.T if wide else x.T @ x)
    values = values.clamp(min=0)
    left, right = (x.T @ axes, axes.T @ y) if wide else (axes, axes.T @ (x.T @ y))
    for penalty in penalties:
        alpha = 0.5 * penalty * len(x)
        weight = (left @ (right / (values + alpha)[:, None])).T
        yield weight, y_mean - weight @ x_mean


def _has_closed_form(head: Head, targets: dict[str, Tensor]) -> bool:
    """Whether the loss is squared error and no target is missing."""
    return head.config["kind"] == "regression" and bool(torch.isfinite(targets["y"]).all())


def _by_parts(
    head: Head, x: Tensor, targets: dict[str, Tensor], path: Sequence[float], solve: Callable[..., Iterator[Solution]]
) -> float:
    """The penalty of the lowest mean loss over `PARTS` parts of the training part, each left out in turn.

    Patients are dealt in the order of their outcomes, so that every part has its share of events or classes.
    """
    key = targets["time"] - 1e9 * targets["event"] if "time" in targets else targets["y"].double().reshape(len(x), -1)
    order = torch.argsort(key if key.ndim == 1 else key[:, 0], stable=True)
    part = torch.empty(len(x), dtype=torch.int64)
    part[order] = torch.arange(len(x)) % PARTS
    losses = torch.zeros(len(path), dtype=torch.float64)
    for number in range(min(PARTS, len(x))):
        out = part == number
        inside = {name: value[~out] for name, value in targets.items()}
        left = {name: value[out] for name, value in targets.items()}
        for k, (weight, bias) in enumerate(solve(head, x[~out], inside, path)):
            losses[k] += _loss(head, weight, bias, x[out], left)
    return float(path[int(losses.argmin())])


def _path(head: Head) -> Sequence[float]:
    return REGRESSION_PENALTIES if head.config["kind"] == "regression" else PENALTIES


def _stepped_path(head: Head, x: Tensor, targets: dict[str, Tensor], penalties: Sequence[float]) -> Iterator[Solution]:
    """The optimum at each penalty by L-BFGS, each from the last; a regression's loss is a mean over its targets."""
    share = head.linear.out_features if head.config["kind"] == "regression" else 1
    current = [value.detach().double().clone().requires_grad_() for value in head.linear.parameters()]
    for penalty in penalties:
        _solve(head, current, x, targets, penalty / share)
        yield current[0].detach(), current[1].detach()


@torch.no_grad()
def _loss(head: Head, weight: Tensor, bias: Tensor, x: Tensor, targets: dict[str, Tensor]) -> float:
    return float(head.loss(x @ weight.T + bias, targets))


@torch.no_grad()
def _means(network: MILModel, store: TileStore, rows: list[int]) -> Tensor:
    """Standardised means (n, D) of patients, float64 on the CPU."""
    means = torch.cat([store.bag(row) for row in rows]).cpu()
    return ((means - network.mean) / network.scale).double()


@torch.no_grad()
def _vectors(network: MILModel, means: Tensor) -> Tensor:
    """What the head sees of standardised means: (n, dim_out) float64."""
    return network.aggregator(BagBatch(means, torch.arange(len(means) + 1)))[0]


def _solve(head: Head, current: list[Tensor], x: Tensor, targets: dict[str, Tensor], penalty: float) -> None:
    """Minimise the mean loss plus the penalty from `current`, in place."""
    solver = torch.optim.LBFGS(
        current, max_iter=300, history_size=20, tolerance_grad=1e-6, tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        solver.zero_grad()
        total = head.loss(x @ current[0].T + current[1], targets) + 0.5 * penalty * current[0].square().sum()
        total.backward()
        return total

    solver.step(closure)
