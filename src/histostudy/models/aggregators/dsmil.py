"""DSMIL: attention by likeness to the critical instance (Li, Li and Eliceiri, CVPR 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from histostudy.models.attention import AttentionAggregator, Pooled
from histostudy.models.batch import BagBatch, segment_argmax, segment_softmax, segment_sum
from histostudy.models.layers import full_precision, relu_layers
from histostudy.models.registry import AGGREGATORS, Loss, is_count, is_share, require

QUERIES = ("tanh", "linear")
VALUES = ("identity", "relu", "linear")
PREDICTIONS = ("mean", "bag")


@dataclass(frozen=True)
class DSMILOptions:
    """Options of `DSMIL`.

    hidden : width of the tile embedding ReLU(x W + b), null for the features themselves, as the paper's; query :
    ``tanh`` (two layers, ReLU between and tanh after) or ``linear``; query_width : its width; value : ``identity``,
    ``relu`` (a layer and ReLU) or ``linear`` (a layer); dropout : of the embedding, and before the value's layer;
    instance_weight : share of the critical instances' loss in the total; prediction : ``mean`` of the critical
    instances' outputs and the bag's, or ``bag``.
    """

    hidden: int | None = 128
    query: str = "tanh"
    query_width: int = 128
    value: str = "identity"
    dropout: float = 0.25
    instance_weight: float = 0.5
    prediction: str = "mean"

    def __post_init__(self) -> None:
        require(self.hidden is None or is_count(self.hidden), "hidden is null or a whole number from 1")
        require(self.query in QUERIES, f"query is one of {', '.join(QUERIES)}")
        require(is_count(self.query_width), "query_width is a whole number from 1")
        require(self.value in VALUES, f"value is one of {', '.join(VALUES)}")
        require(is_share(self.dropout), "dropout is from 0 up to 1")
        # without the instances' loss nothing would say which instance is critical
        weight = self.instance_weight
        require(is_share(weight) and weight > 0, "instance_weight is above 0 and below 1")
        require(self.prediction in PREDICTIONS, f"prediction is one of {', '.join(PREDICTIONS)}")


@AGGREGATORS.register("dsmil")
class DSMIL(AttentionAggregator):
    """Two streams over embedded tiles h_i: their own outputs s_i = W h_i + b, and attention to the best of them.

    For each output c the critical instance m_c has the highest s_ic; a_ic is the softmax over the bag of
    <q(h_i), q(h_mc)> / sqrt(width of q); the vectors B_c = sum_i a_ic v(h_i) of all outputs together give the bag's
    outputs by one linear map (the paper's one-dimensional convolution over C channels).

    In training the vectors are the bag's outputs, and weight / (1 - weight) times the loss of the critical instances'
    outputs is added: the paper's halves but for the scale. In evaluation they are the mean of both, as in the paper,
    or the bag's alone (`prediction`). Other heads than classification are our reading: outputs are whatever the head
    takes, such as logits of hazards, and the bias that a head adds is the same for both streams.

    The linear map has C x C x width weights: this is for few outputs, not for thousands of genes.
    """

    Options: ClassVar[type] = DSMILOptions
    scores: ClassVar[bool] = True

    def __init__(self, dim_in: int, options: DSMILOptions, outputs: int) -> None:
        super().__init__(dim_in, options)
        self.width, self.dim_out = options.hidden or dim_in, outputs
        self.evaluates_otherwise = options.prediction != "bag"
        self.embed: nn.Module = nn.Identity()
        if options.hidden is not None:
            self.embed = relu_layers(dim_in, options.hidden, dropout=options.dropout)
        self.instance = nn.Linear(self.width, outputs)
        self.query: nn.Module = nn.Linear(self.width, options.query_width)
        if options.query == "tanh":
            second = nn.Linear(options.query_width, options.query_width)
            self.query = nn.Sequential(self.query, nn.ReLU(), second, nn.Tanh())
        has_value = options.value != "identity"
        self.value = nn.Linear(self.width, self.width) if has_value else None
        self.dropout = nn.Dropout(options.dropout if has_value else 0.0)
        #: Row c * C + k takes B_k to the output c.
        self.mix = nn.Linear(self.width, outputs * outputs, bias=False)
        bound = (outputs * self.width) ** -0.5
        nn.init.uniform_(self.mix.weight, -bound, bound)
        self._last: Tensor | None = None

    def pool(self, tokens: BagBatch) -> Pooled:
        """Pool; each output is a map."""
        instances = full_precision(self.instance(tokens.features))
        critical = segment_argmax(instances.detach(), tokens)
        maps = segment_softmax(self._likeness(tokens, critical), tokens)
        vectors = segment_sum(self._mixed(tokens, maps), tokens)
        best = instances.gather(0, critical)
        self._last = best if self.training else None
        if not self.training and self.options.prediction == "mean":
            vectors = (vectors + best) / 2
        return Pooled(vectors, maps)

    def contributions(self, tokens: BagBatch, pooled: Pooled) -> Tensor:
        """What a tile's value adds to the bag's outputs and, where the prediction is the mean, as critical instance."""
        parts = self._mixed(tokens, pooled.maps)
        if self.training or self.options.prediction == "bag":
            return parts
        instances = full_precision(self.instance(tokens.features))
        critical = segment_argmax(instances.detach(), tokens)
        best = torch.zeros_like(instances).scatter(0, critical, instances.gather(0, critical))
        return (parts + best) / 2

    def _likeness(self, tokens: BagBatch, critical: Tensor) -> Tensor:
        """(T, C) of the tokens to the rows of `critical` (B, C)."""
        queries = full_precision(self.query(tokens.features))
        found = [(queries * queries[rows][tokens.segments]).sum(1) for rows in critical.unbind(1)]
        return torch.stack(found, 1) / self.options.query_width**0.5

    def _mixed(self, tokens: BagBatch, maps: Tensor) -> Tensor:
        """(T, C) summands of the bag's outputs: mixing each token's value first is the same, without (T, C, width)."""
        values = self.dropout(tokens.features)
        if self.value is not None and self.options.value == "linear":
            # two linear layers are one; the attention sums to 1, so that the bias too is a weighted sum
            joint = self.mix.weight @ self.value.weight
            mixed = linear(values, joint, self.mix.weight @ self.value.bias)
        else:
            mixed = self.mix(values if self.value is None else self.value(values).relu())
        return (full_precision(mixed).unflatten(1, (self.dim_out, self.dim_out)) * maps[:, None, :]).sum(2)

    def penalty(self, targets: Mapping[str, Tensor], loss: Loss) -> Tensor | None:
        """The weighted loss of the critical instances' outputs."""
        best, self._last = self._last, None
        if best is None:
            return None
        weight: Any = self.options.instance_weight
        return weight / (1 - weight) * loss(best)
