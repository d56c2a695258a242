"""The linear model on the patient's mean: solved, not stepped, at a ridge penalty the inner part chooses.

A convex model has no epochs to choose between, so the path of penalties takes their place: from a strong one, where
it is the trivial prediction, to a weak one, each solved to its optimum by L-BFGS from the last.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd

    from histostudy.models.heads import Head
    from histostudy.models.model import MILModel
    from histostudy.training.tilestore import TileStore

#: Weights of half the squared norm, in units of the mean loss a patient.
PENALTIES = tuple(10 ** (k / 2) for k in range(4, -8, -1))
#: Penalty where no inner part can choose.
DEFAULT_PENALTY = 0.1
#: Penalties without a better inner loss before the path ends.
PATIENCE = 3


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
        Standardised and started; its aggregator has no weights.
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
    weights = (head.linear.weight, head.linear.bias)
    x, targets = _vectors(network, store, train[0]), train[1]
    current = [value.detach().double().clone().requires_grad_() for value in weights]
    best, best_state, chosen, since = math.inf, [value.detach().clone() for value in current], 0, 0
    history: list[dict[str, Any]] = []
    x_val = None if val is None else _vectors(network, store, val[0])
    for penalty in PENALTIES if val is not None else (DEFAULT_PENALTY,):
        train_loss = _solve(head, current, x, targets, penalty)
        val_loss = math.nan
        if val is not None and x_val is not None:
            with torch.no_grad():
                val_loss = float(head.loss(x_val @ current[0].T + current[1], val[1]))
        history.append({"epoch": len(history) + 1, "penalty": penalty, "train_loss": train_loss, "val_loss": val_loss})
        if val is None or val_loss < best:
            best, best_state = val_loss, [value.detach().clone() for value in current]
            chosen, since = len(history) - 1, 0
        else:
            since += 1
        if since >= PATIENCE:
            break
    with torch.no_grad():
        for value, found in zip(weights, best_state, strict=True):
            value.copy_(found)
    network.eval()
    frame = pd.DataFrame(history)
    frame["best"] = frame.index == chosen
    return frame


@torch.no_grad()
def _vectors(network: MILModel, store: TileStore, rows: list[int]) -> Tensor:
    """Standardised means (n, D) of patients, float64 on the CPU."""
    means = torch.cat([store.bag(row) for row in rows]).cpu()
    return ((means - network.mean) / network.scale).double()


def _solve(head: Head, current: list[Tensor], x: Tensor, targets: dict[str, Tensor], penalty: float) -> float:
    """Minimise the mean loss plus the penalty from `current`, in place; return the loss alone."""
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
    with torch.no_grad():
        return float(head.loss(x @ current[0].T + current[1], targets))
