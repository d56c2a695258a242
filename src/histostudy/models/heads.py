"""Heads: from a patient's vector to the outcome, its loss, and the columns of its prediction.

All that a head learns from outcomes before the first step (class shares, bins, target moments) and after the last
(Cox baseline) comes from the training part and is stored with the weights.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from histostudy.models.layers import full_precision
from histostudy.models.survival import (
    bin_of,
    breslow,
    cox_loss,
    cox_slope,
    cox_survival,
    hazard_shift,
    life_table_logits,
    nll_loss,
    nll_survival,
    ranking_loss,
    time_bins,
)
from histostudy.registry import Registry

if TYPE_CHECKING:
    from histostudy.study import Training

logger = logging.getLogger(__name__)

HEADS: Registry[type[Head]] = Registry("head")

#: Targets of a set of patients: `y` ((n,) int64 or (n, G) float32), or `time` and `event` ((n,) float32).
Targets = Mapping[str, Tensor]
Config = Mapping[str, Any]


class Bias(nn.Module):
    """Adds a trained bias to vectors that are predictions already."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.out_features = outputs
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, vectors: Tensor) -> Tensor:
        return vectors + self.bias


class Head(nn.Module):
    """A linear map to `outputs(config)` numbers, with a loss and a prediction.

    Parameters
    ----------
    dim_in : int
        Width of the aggregator's vector.
    config : mapping
        What rebuilds the head, JSON-like: `kind` and the keys of the subclass; with `direct` the aggregator's
        vectors are the outputs, and the head adds a bias alone.
    """

    linear: nn.Linear | Bias

    def __init__(self, dim_in: int, config: Config) -> None:
        super().__init__()
        self.config = dict(config)
        outputs = self.outputs(config)
        self.linear = Bias(outputs) if config.get("direct") else nn.Linear(dim_in, outputs)

    @staticmethod
    def outputs(config: Config) -> int:
        """Number of outputs."""
        raise NotImplementedError

    def forward(self, vectors: Tensor) -> Tensor:
        """(B, dim_in) to (B, outputs), in float32 or better whatever autocast does."""
        return full_precision(self.linear(vectors))

    def start(self, targets: Targets) -> None:
        """Take what is needed from the training part's outcomes, and set the bias to the trivial prediction."""

    def loss(self, raw: Tensor, targets: Targets) -> Tensor:
        """Loss of a batch, a mean over its patients."""
        raise NotImplementedError

    def finish(self, raw: Tensor, targets: Targets) -> None:
        """Take what is needed from the training part once the weights stand."""

    def predict(self, raw: Tensor) -> dict[str, NDArray[np.float64]]:
        """Columns of the prediction, (n,) each."""
        raise NotImplementedError


@HEADS.register("classification")
class ClassificationHead(Head):
    """Softmax over `classes`; cross-entropy without class weights, which would spoil the calibration.

    With `recalibrate` (classes drawn with equal chance) the training part's shares are put back into what is
    predicted: each logit is shifted by the log of its class's share (Elkan, IJCAI 2001).
    """

    shift: Tensor

    def __init__(self, dim_in: int, config: Config) -> None:
        super().__init__(dim_in, config)
        self.register_buffer("shift", torch.zeros(self.outputs(config), dtype=torch.float64))

    @staticmethod
    def outputs(config: Config) -> int:
        return len(config["classes"])

    def start(self, targets: Targets) -> None:
        counts = torch.bincount(targets["y"], minlength=self.linear.out_features).float()
        with torch.no_grad():
            self.linear.bias.copy_(((counts + 0.5) / (counts + 0.5).sum()).log())

    def loss(self, raw: Tensor, targets: Targets) -> Tensor:
        return cross_entropy(raw, targets["y"])

    def finish(self, raw: Tensor, targets: Targets) -> None:
        if self.config.get("recalibrate"):
            counts = torch.bincount(targets["y"].cpu(), minlength=self.linear.out_features).double()
            self.shift.copy_(((counts + 0.5) / (counts + 0.5).sum()).log())

    def predict(self, raw: Tensor) -> dict[str, NDArray[np.float64]]:
        shares = (raw.double() + self.shift).softmax(1).numpy()
        return {f"prob_{name}": shares[:, k] for k, name in enumerate(self.config["classes"])}


@HEADS.register("regression")
class RegressionHead(Head):
    """One number for each of `columns`, fitted to targets standardised on the training part.

    Squared error over the targets that are there; a missing one (NaN) adds nothing.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, dim_in: int, config: Config) -> None:
        super().__init__(dim_in, config)
        self.register_buffer("centre", torch.zeros(self.linear.out_features))
        self.register_buffer("spread", torch.ones(self.linear.out_features))

    @staticmethod
    def outputs(config: Config) -> int:
        return len(config["columns"])

    def start(self, targets: Targets) -> None:
        y = targets["y"].double().numpy()
        there = np.isfinite(y)
        count = np.maximum(there.sum(0), 1)
        centre = np.where(there, y, 0).sum(0) / count
        spread = np.sqrt((np.where(there, y - centre, 0) ** 2).sum(0) / count)
        self.centre.copy_(torch.from_numpy(centre))
        self.spread.copy_(torch.from_numpy(np.where(spread > 1e-8, spread, 1.0)))
        with torch.no_grad():
            self.linear.bias.zero_()

    def loss(self, raw: Tensor, targets: Targets) -> Tensor:
        y = (targets["y"] - self.centre) / self.spread
        there = torch.isfinite(y)
        error = torch.where(there, raw - torch.where(there, y, 0.0), 0.0)
        return error.square().sum() / there.sum().clamp(min=1)

    def predict(self, raw: Tensor) -> dict[str, NDArray[np.float64]]:
        values = (raw.double() * self.spread.double() + self.centre.double()).numpy()
        return {name: values[:, k] for k, name in enumerate(self.config["columns"])}


class SurvivalHead(Head):
    """What the two survival heads share: S(t) at `days`, as columns ``surv_<days>``, and `risk`."""

    def columns(self, risk: NDArray[np.float64], curves: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Name risk (n,) and curves (n, G)."""
        days = self.config["days"]
        return {"risk": risk} | {f"surv_{day}": curves[:, k] for k, day in enumerate(days)}


@HEADS.register("survival_nll")
class DiscreteSurvivalHead(SurvivalHead):
    """Hazards of `bins` intervals (see `nll_loss`); risk is minus the sum of S over the intervals.

    With `recalibrate` (weighted sampling, or a loss that counts censored patients less) the logits of S(t), not of the
    risk, are shifted so that the training part's events in each interval are as many as predicted.
    """

    edges: Tensor
    last: Tensor
    shift: Tensor

    def __init__(self, dim_in: int, config: Config) -> None:
        super().__init__(dim_in, config)
        self.register_buffer("edges", torch.zeros(config["bins"] + 1))
        self.register_buffer("last", torch.zeros(1))
        self.register_buffer("shift", torch.zeros(config["bins"], dtype=torch.float64))

    @staticmethod
    def outputs(config: Config) -> int:
        return config["bins"]

    def start(self, targets: Targets) -> None:
        edges = time_bins(targets["time"].numpy(), targets["event"].numpy(), len(self.edges) - 1)
        self.edges.copy_(torch.from_numpy(edges))
        self.last.fill_(float(targets["time"].max()))
        interval = bin_of(targets["time"], self.edges)
        with torch.no_grad():
            self.linear.bias.copy_(life_table_logits(interval, targets["event"], len(self.edges) - 1))

    def loss(self, raw: Tensor, targets: Targets) -> Tensor:
        return nll_loss(raw, bin_of(targets["time"], self.edges), targets["event"], self.config.get("alpha", 0.0))

    def finish(self, raw: Tensor, targets: Targets) -> None:
        if self.config.get("recalibrate"):
            interval = bin_of(targets["time"].cpu(), self.edges.cpu())
            self.shift.copy_(hazard_shift(raw.double(), interval, targets["event"].cpu()))

    def predict(self, raw: Tensor) -> dict[str, NDArray[np.float64]]:
        logits = raw.double().numpy()
        risk = -np.exp(-np.logaddexp(0, logits).cumsum(1)).sum(1)
        curves = nll_survival(
            logits + self.shift.cpu().numpy(), self.edges.numpy(), float(self.last), self.config["days"]
        )
        return self.columns(risk, curves)


@HEADS.register("survival_cox")
class CoxHead(SurvivalHead):
    """One log-hazard ratio (see `cox_loss`), with Breslow's baseline of the training part."""

    baseline_times: Tensor
    baseline_hazard: Tensor

    def __init__(self, dim_in: int, config: Config) -> None:
        super().__init__(dim_in, config)
        self.register_buffer("baseline_times", torch.zeros(0, dtype=torch.float64))
        self.register_buffer("baseline_hazard", torch.zeros(0, dtype=torch.float64))

    @staticmethod
    def outputs(config: Config) -> int:
        return 1

    def loss(self, raw: Tensor, targets: Targets) -> Tensor:
        return cox_loss(raw[:, 0], targets["time"], targets["event"])

    def finish(self, raw: Tensor, targets: Targets) -> None:
        times, hazard = breslow(raw[:, 0].numpy(), targets["time"].numpy(), targets["event"].numpy())
        self.baseline_times, self.baseline_hazard = torch.from_numpy(times), torch.from_numpy(hazard)

    def predict(self, raw: Tensor) -> dict[str, NDArray[np.float64]]:
        risk = raw[:, 0].double().numpy()
        times, hazard = self.baseline_times.numpy(), self.baseline_hazard.numpy()
        return self.columns(risk, cox_survival(risk, times, hazard, self.config["days"]))


@HEADS.register("survival_rank")
class RankingHead(CoxHead):
    """One score trained by `ranking_loss`; a Cox model of the score on the training part gives its S(t).

    The slope of that Cox model is held to 0 or above. A score that runs against the outcome of its own training part
    would get a slope below 0, and with it curves that say the opposite of `risk`: concordance would show a failed
    ranking, and the Brier score of the same model a good one, turned round by the outcome. The best slope that
    agrees with the ranking is then 0 (the likelihood is concave in it): one curve for all, the training part's.
    """

    slope: Tensor

    def __init__(self, dim_in: int, config: Config) -> None:
        super().__init__(dim_in, config)
        self.register_buffer("slope", torch.ones(1, dtype=torch.float64))

    def loss(self, raw: Tensor, targets: Targets) -> Tensor:
        return ranking_loss(raw[:, 0], targets["time"], targets["event"])

    def finish(self, raw: Tensor, targets: Targets) -> None:
        slope = cox_slope(raw[:, 0], targets["time"], targets["event"])
        if slope < 0:
            logger.warning("the ranking runs against its own training part; S(t) will be one curve for all patients")
        self.slope.fill_(max(0.0, slope))
        super().finish(raw.double() * self.slope, targets)

    def predict(self, raw: Tensor) -> dict[str, NDArray[np.float64]]:
        return super().predict(raw.double() * self.slope) | {"risk": raw[:, 0].double().numpy()}


def head_kind(kind: str, training: Training) -> str:
    """The head of a kind of task: ``survival_<loss>``, ``classification`` or ``regression``."""
    if kind == "survival":
        return f"survival_{training.loss or 'nll'}"
    return "regression" if kind == "expression" else kind


def head_config(kind: str, training: Training, targets: Targets, **names: Any) -> dict[str, Any]:
    """What builds the head of a task.

    Parameters
    ----------
    kind : str
        Kind of the task.
    training : histostudy.study.Training
        Its `loss`, `bins`, `alpha` and `sampling`.
    targets : Targets
        Of the training part: they decide how many intervals there are.
    **names
        `classes`, `columns` (regression and expression) or `days` (survival).
    """
    name = head_kind(kind, training)
    if kind == "survival":
        config: dict[str, Any] = {"kind": name, "days": [int(d) for d in names["days"]]}
        if name == "survival_nll":
            edges = time_bins(targets["time"].numpy(), targets["event"].numpy(), training.bins)
            config |= {"bins": len(edges) - 1, "alpha": training.alpha}
            config["recalibrate"] = training.sampling == "balanced" or training.alpha > 0
        return config
    if kind == "classification":
        recalibrate = training.sampling == "balanced"
        return {"kind": name, "classes": list(names["classes"]), "recalibrate": recalibrate}
    return {"kind": name, "columns": list(names["columns"])}
