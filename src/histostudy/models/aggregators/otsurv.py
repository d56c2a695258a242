"""OTSurv: tiles carried to learned prototypes by partial optimal transport (MICCAI 2025)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from histostudy.models.batch import BagBatch, segment_max
from histostudy.models.layers import full_precision, relu_layers
from histostudy.models.registry import AGGREGATORS, Aggregator, is_count, is_number, is_positive, is_share, require
from histostudy.models.transport import partial_plan


@dataclass(frozen=True)
class OTSurvOptions:
    """Options of `OTSurv`.

    prototypes : how many, K; hidden : width of the tile embedding (the paper's is 256); dropout : of the embedding;
    epsilon : entropy; gamma : how strongly prototypes are held to equal mass (infinite: exactly); ramp : epochs over
    which the transported mass rises to `mass` in training; mass : transported in evaluation, the paper's is 1, which
    keeps every tile; iterations : at most, of the solver.
    """

    prototypes: int = 16
    hidden: int = 128
    dropout: float = 0.25
    epsilon: float = 0.1
    gamma: float = 1.0
    ramp: float = 10.0
    mass: float = 1.0
    iterations: int = 100

    def __post_init__(self) -> None:
        for name in ("prototypes", "hidden", "iterations"):
            require(is_count(getattr(self, name)), f"{name} is a whole number from 1")
        require(is_share(self.dropout), "dropout is from 0 up to 1")
        require(is_positive(self.epsilon), "epsilon is a number above 0")
        require(self.gamma == math.inf or is_positive(self.gamma), "gamma is a number above 0")
        require(is_number(self.ramp) and self.ramp >= 0, "ramp is a number of epochs from 0")
        require(is_positive(self.mass) and self.mass <= 1, "mass is above 0 and at most 1")


@AGGREGATORS.register("otsurv")
class OTSurv(Aggregator):
    """Pool embedded tiles h = ReLU(x W + b) by the plan P of a partial transport to K prototypes.

    The cost is the Euclidean distance between h and a prototype, each less its smallest entry, over the bag's
    largest; P is that of `histostudy.models.transport.partial_plan` with the share rho of the mass. Z = K P' h / rho
    (K x hidden) keeps how much tissue each prototype holds, and a linear map over the K prototypes gives the vector.
    (The factor K is ours: a prototype of a fair share gives the mean of its tiles, and the head starts at a useful
    scale.)

    In training rho = min(`mass`, .1 + exp(-5 max(0, 1 - epoch / ramp)^2)): first the model sees what is nearest to its
    prototypes, after `ramp` epochs as much as in evaluation, where rho is `mass`. With the paper's 1 nothing is then
    left aside and the attention, the mass each tile sends, is even. The paper trains with Cox's loss.
    """

    Options = OTSurvOptions

    def __init__(self, dim_in: int, options: OTSurvOptions) -> None:
        super().__init__(dim_in, options)
        self.dim_out = options.hidden
        self.embed = relu_layers(dim_in, options.hidden, dropout=options.dropout)
        self.prototypes = nn.Parameter(torch.randn(options.prototypes, options.hidden))
        self.mix = nn.Linear(options.prototypes, 1)

    def mass(self) -> float:
        """Share of the mass that is transported now."""
        if not self.training:
            return self.options.mass
        left = max(0.0, 1 - self.moment.epoch / self.options.ramp) if self.options.ramp else 0.0
        return min(self.options.mass, 0.1 + math.exp(-5 * left**2))

    def cost(self, tiles: Tensor, batch: BagBatch) -> Tensor:
        """(T, K) distances, the largest of each bag 1, in float32 or better."""
        tiles = full_precision(tiles)
        prototypes = self.prototypes.to(tiles.dtype)
        raised = prototypes - prototypes.amin(1, keepdim=True)
        distance = torch.cdist(tiles - tiles.amin(1, keepdim=True), raised)
        largest = segment_max(distance.amax(1, keepdim=True), batch).clamp(min=1e-12)
        return distance / largest[batch.segments]

    def forward(self, batch: BagBatch) -> tuple[Tensor, Tensor | None]:
        """Pool; the attention is the mass that a tile sends."""
        options, mass = self.options, self.mass()
        tiles = self.embed(batch.features)
        cost, real = batch.with_features(self.cost(tiles, batch)).padded()
        plan, _ = partial_plan(
            cost, mass, mask=real, epsilon=options.epsilon, gamma=options.gamma, iterations=options.iterations
        )
        plan = plan / mass
        padded, _ = batch.with_features(tiles).padded()
        pooled = options.prototypes * plan.transpose(1, 2).to(padded.dtype) @ padded
        vectors = self.mix(pooled.transpose(1, 2))[:, :, 0]
        sent = plan.detach().sum(2)
        return vectors, (sent / sent.sum(1, keepdim=True))[real]
