"""MoE-PKT: a routed mixture of experts over frozen models of other cohorts or outcomes (Path-PKT, 2025)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from histostudy.errors import ModelError
from histostudy.models.batch import BagBatch, segment_softmax, segment_sum
from histostudy.models.layers import GatedAttention, full_precision, relu_layers
from histostudy.models.registry import AGGREGATORS, Aggregator, Loss, is_count, is_number, is_share, require

if TYPE_CHECKING:
    from histostudy.models.model import MILModel


@dataclass(frozen=True)
class MoEPKTOptions:
    """Options of `MoEPKT`.

    sources : configurations of the frozen source models (`MILModel.config`), filled in by what trains; hidden : width
    of the experts (512 in the paper); router : width of the router's tile embedding (512); attention : of its
    attention layer (384); top_k : experts that speak, at most; renormalise : make their weights sum to 1 (the paper
    does not); dropout : of the embedding and the experts; balance, z : weights of the two penalties.
    """

    sources: Sequence[Mapping[str, Any]] = ()
    hidden: int = 128
    router: int = 128
    attention: int = 64
    top_k: int = 5
    renormalise: bool = False
    dropout: float = 0.25
    balance: float = 0.01
    z: float = 0.01

    def __post_init__(self) -> None:
        require(
            isinstance(self.sources, list | tuple) and all(isinstance(s, Mapping) for s in self.sources),
            "sources is a list of models' configurations",
        )
        for name in ("hidden", "router", "attention", "top_k"):
            require(is_count(getattr(self, name)), f"{name} is a whole number from 1")
        require(isinstance(self.renormalise, bool), "renormalise is true or false")
        require(is_share(self.dropout), "dropout is from 0 up to 1")
        for name in ("balance", "z"):
            value = getattr(self, name)
            require(is_number(value) and value >= 0, f"{name} is a number from 0")


class Source(nn.Module):
    """A trained model's standardisation and aggregator, which nothing changes any more.

    Parameters
    ----------
    model : MILModel
        Copied; its head is left behind.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, model: MILModel) -> None:
        super().__init__()
        self.aggregator = copy.deepcopy(model.aggregator)
        self.register_buffer("mean", model.mean.detach().clone())
        self.register_buffer("scale", model.scale.detach().clone())
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, batch: BagBatch) -> Tensor:
        """(B, dim_out) of a batch of features as the encoder wrote them."""
        return self.aggregator(batch.with_features((batch.features - self.mean) / self.scale))[0]


@AGGREGATORS.register("moe_pkt")
class MoEPKT(Aggregator):
    """Sum over the chosen experts of p_i E_i(v_i), v_i the slide vector of frozen source model i.

    A router, gated attention over the target's tiles and a linear map to S logits without bias, gives p = softmax;
    the `top_k` largest stay and the others are 0, by default without making the rest sum to 1. E_i is a perceptron
    of one hidden layer; the sources' vectors may differ in width. `penalty` adds `balance` times the Switch loss
    S sum_i mean(p_i) mean(1[i is the largest]) (Fedus et al., JMLR 2022; the paper leaves out S) and `z` times
    mean(logsumexp(logits)^2). The means are over the batch: in the paper it holds one slide, where the sum is max p
    and punishes a router for being sure; so it is here, too, with a batch of one.

    Features reach an aggregator standardised by the target; `mean` and `scale` undo it for the sources, each of
    which has moments of its own. Before the first step `set_sources` gives the trained models. For comparison,
    the best single source (chosen on the inner part) and the mean of all sources' risks can do better still: see
    `histostudy.evaluation.transfer`. The attention returned is the router's.
    """

    Options = MoEPKTOptions
    sources = True
    mean: Tensor
    scale: Tensor

    def __init__(self, dim_in: int, options: MoEPKTOptions) -> None:
        super().__init__(dim_in, options)
        self.dim_out = options.hidden
        self.register_buffer("mean", torch.zeros(dim_in))
        self.register_buffer("scale", torch.ones(dim_in))
        self.embed = relu_layers(dim_in, options.router, dropout=options.dropout)
        self.attention = GatedAttention(options.router, options.attention)
        self.frozen, self.experts = nn.ModuleList(), nn.ModuleList()
        self._logits: Tensor | None = None
        if options.sources:
            from histostudy.models.model import MILModel

            self._hold([MILModel.from_config(config) for config in options.sources])

    def set_sources(self, models: Sequence[MILModel], mean: Tensor, scale: Tensor) -> None:
        """Take the frozen models, before the first step.

        Parameters
        ----------
        models : sequence of MILModel
            Trained, of the same features; in the order of the option `sources` if it was given, without which a
            model cannot be rebuilt from its configuration.
        mean, scale : Tensor
            (dim_in,) of the target, as `MILModel` holds them after `standardise_by`.

        Raises
        ------
        ModelError
            If there is none, one is not of tiles alone, its features have another width, or the models are not
            those of the option `sources`.
        """
        if not models:
            raise ModelError("moe_pkt needs a source model", todo="name models to transfer from")
        if self.options.sources and [model.config for model in models] != self.options.sources:
            raise ModelError("the sources are not those this model was built for", todo="give them in the same order")
        self._hold(models)
        self.mean.copy_(mean)
        self.scale.copy_(scale)

    def _hold(self, models: Sequence[MILModel]) -> None:
        """Copy the sources, and make router and experts of their number and widths if there are none."""
        for number, model in enumerate(models):
            where = f"source {number} of moe_pkt ({model.config['aggregator']})"
            if model.config["dim_in"] != self.dim_in:
                what = f"its features have {model.config['dim_in']} dimensions, the target's {self.dim_in}"
                raise ModelError(what, where=where, todo="extract both with one encoder")
            if model.config["modalities"] or not model.aggregator.uses_tiles:
                raise ModelError("looks at more than tiles, or at none", where=where, todo="leave it out")
        self.options = replace(self.options, sources=[model.config for model in models])
        device = self.mean.device
        frozen = [Source(model) for model in models]
        self.frozen = nn.ModuleList(frozen).to(device)
        if not len(self.experts):
            hidden, drop = self.options.hidden, self.options.dropout
            self.route = nn.Linear(self.options.router, len(models), bias=False, device=device)
            self.experts = nn.ModuleList(
                nn.Sequential(*relu_layers(source.aggregator.dim_out, hidden, dropout=drop), nn.Linear(hidden, hidden))
                for source in frozen
            ).to(device)

    def forward(self, batch: BagBatch) -> tuple[Tensor, Tensor]:
        """Route and mix."""
        if not len(self.frozen):
            raise ModelError("moe_pkt has no source models", todo="give them by `set_sources` before training")
        logits, attention = self.router_logits(batch)
        self._logits = logits if self.training else None
        gates = top_gates(logits, self.options.top_k, self.options.renormalise)
        raw = batch.with_features(batch.features * self.scale + self.mean)
        vectors = [expert(source(raw)) for expert, source in zip(self.experts, self.frozen, strict=True)]
        mixed = torch.stack([gates[:, i, None] * vector for i, vector in enumerate(vectors)]).sum(0)
        return mixed, attention

    def router_logits(self, batch: BagBatch) -> tuple[Tensor, Tensor]:
        """(B, S) logits in float32 or better, and the (T,) attention they come from."""
        tiles = self.embed(batch.features)
        attention = segment_softmax(self.attention(tiles), batch)
        logits = self.route(segment_sum(attention * tiles, batch).to(self.route.weight.dtype))
        return full_precision(logits), attention[:, 0]

    def penalty(self, targets: Mapping[str, Tensor], loss: Loss) -> Tensor | None:
        """The load-balancing and the z-loss of the last training batch."""
        if self._logits is None:
            return None
        logits, self._logits = self._logits, None
        return self.options.balance * balance_loss(logits) + self.options.z * z_loss(logits)


def top_gates(logits: Tensor, top_k: int, renormalise: bool = False) -> Tensor:
    """Softmax of (B, S) logits with all but the `top_k` largest of a row set to exactly 0."""
    shares = logits.softmax(1)
    best = shares.topk(min(top_k, logits.shape[1]), 1).indices
    gates = shares * torch.zeros_like(shares).scatter(1, best, 1.0)
    return gates / gates.sum(1, keepdim=True) if renormalise else gates


def balance_loss(logits: Tensor) -> Tensor:
    """S sum_i mean_b(p_i) mean_b(1[i is the largest of b]): 1 if even, S if one source takes all."""
    shares = logits.softmax(1)
    first = one_hot(logits.argmax(1), logits.shape[1]).to(shares.dtype)
    return logits.shape[1] * (shares.mean(0) * first.mean(0)).sum()


def z_loss(logits: Tensor) -> Tensor:
    """Mean of logsumexp(logits)^2, which keeps them small (Zoph et al., ST-MoE, 2022)."""
    return logits.logsumexp(1).square().mean()
