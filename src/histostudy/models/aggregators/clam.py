"""CLAM: attention pooling whose most and least attended tiles are pulled apart (Lu et al., Nat Biomed Eng 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from histostudy.errors import ModelError
from histostudy.models.attention import AttentionAggregator, Pooled
from histostudy.models.batch import BagBatch, segment_softmax, segment_sum
from histostudy.models.layers import GatedAttention, full_precision, relu_layers
from histostudy.models.registry import AGGREGATORS, Loss, is_count, is_share, require


@dataclass(frozen=True)
class CLAMOptions:
    """Options of `CLAMSB` and `CLAMMB`.

    hidden : width of the tile embedding (the paper: 512); attention : width of the attention layer (256); dropout : of
    the embedding and in the attention; instances : most and least attended tiles that are clustered, each at most half
    of the bag; instance_weight : share of the instance loss in the total, which has no place for other tasks than
    classification: there it must be 0; subtyping : the classes exclude each other, so that the most attended tiles of
    every other class are negative examples of it.
    """

    hidden: int = 128
    attention: int = 64
    dropout: float = 0.25
    instances: int = 8
    instance_weight: float = 0.3
    subtyping: bool = False

    def __post_init__(self) -> None:
        for name in ("hidden", "attention", "instances"):
            require(is_count(getattr(self, name)), f"{name} is a whole number from 1")
        require(is_share(self.dropout), "dropout is from 0 up to 1")
        require(is_share(self.instance_weight), "instance_weight is from 0 up to 1")
        require(isinstance(self.subtyping, bool), "subtyping is true or false")


class Attended(NamedTuple):
    """What the instance loss needs of a forward pass: the tokens and their (T, K) attention before the softmax."""

    tokens: BagBatch
    scores: Tensor


class CLAM(AttentionAggregator):
    """What the two CLAMs share: K attention branches over h = ReLU(x W + b), outputs sum_i a_ik w_c' h_i.

    In training of a classification, the k = min(8, N // 2) most and the k least attended tiles of the true class's
    branch are labelled 1 and 0, and a classifier of that class learns to tell them apart by `smooth_svm`; with
    `subtyping`, the k most attended of each other class's branch are labelled 0 for that class's classifier, and the
    mean over the classes is taken. Bags of one tile have no such loss. As the total loss is the bags' plus a penalty,
    the penalty is weight / (1 - weight) times the instance loss: the paper's 0.7 to 0.3 but for the scale.
    """

    Options = CLAMOptions
    scores: ClassVar[bool] = True

    def __init__(self, dim_in: int, options: CLAMOptions, outputs: int, branches: int) -> None:
        super().__init__(dim_in, options)
        self.width, self.dim_out = options.hidden, outputs
        self.embed = relu_layers(dim_in, options.hidden, dropout=options.dropout)
        self.attention = GatedAttention(options.hidden, options.attention, branches, dropout=options.dropout)
        self.score = nn.Linear(options.hidden, outputs, bias=False)
        self.instances = nn.Linear(options.hidden, 2 * outputs) if options.instance_weight else None
        self._last: Attended | None = None

    def start(self, targets: Mapping[str, Tensor]) -> None:
        """Refuse other outcomes than classes where there is an instance loss.

        Raises
        ------
        ModelError
            If the outcome is no class and `instance_weight` is not 0.
        """
        if self.instances is not None and ("y" not in targets or targets["y"].dtype != torch.int64):
            raise ModelError(
                "CLAM's instance loss needs classes, and this task has none",
                todo="set the model's option `instance_weight: 0`",
            )

    def pool(self, tokens: BagBatch) -> Pooled:
        """Pool; each branch is a map. Pooling the scores of tokens is scoring the pooled tokens, but cheaper."""
        attended = self.attention(tokens.features)
        maps = segment_softmax(attended, tokens)
        self._last = Attended(tokens, attended.detach()) if self.training and self.instances is not None else None
        return Pooled(segment_sum(self._scored(tokens, maps), tokens), maps)

    def contributions(self, tokens: BagBatch, pooled: Pooled) -> Tensor:
        """a_ik w_c' h_i."""
        return self._scored(tokens, pooled.maps)

    def _scored(self, tokens: BagBatch, maps: Tensor) -> Tensor:
        return maps * full_precision(self.score(tokens.features))

    def penalty(self, targets: Mapping[str, Tensor], loss: Loss) -> Tensor | None:
        """The weighted instance loss, a mean over patients."""
        last, self._last = self._last, None
        if last is None:
            return None
        weight = self.options.instance_weight
        return weight / (1 - weight) * self._instance_loss(last, targets["y"]).mean()

    def _instance_loss(self, last: Attended, classes: Tensor) -> Tensor:
        """(B,) of patients of `classes` (B,)."""
        tokens, scores = last
        scores = scores.expand(-1, self.dim_out)  # a single branch is every class's
        own = scores.gather(1, classes[tokens.segments][:, None])[:, 0]
        total = self._clustered(tokens, own, classes, 1) + self._clustered(tokens, -own, classes, 0)
        total = total / 2
        if not self.options.subtyping:
            return total
        for one in range(self.dim_out):
            others = self._clustered(tokens, scores[:, one], torch.full_like(classes, one), 0)
            total = total + torch.where(classes != one, others, 0.0)
        return total / self.dim_out

    def _clustered(self, tokens: BagBatch, scores: Tensor, classes: Tensor, label: int) -> Tensor:
        """(B,) mean loss of each bag's k tokens of the highest `scores` (T,) under its class's classifier."""
        assert self.instances is not None
        rows, real = top_rows(scores, tokens, self.options.instances)
        logits = self.instances(full_precision(tokens.features[rows])).unflatten(-1, (self.dim_out, 2))
        logits = logits[torch.arange(len(tokens), device=rows.device), :, classes]
        losses = torch.where(real, smooth_svm(logits, torch.full_like(rows, label)), 0.0)
        return losses.sum(1) / real.sum(1).clamp(min=1)


def top_rows(scores: Tensor, batch: BagBatch, most: int) -> tuple[Tensor, Tensor]:
    """The min(most, N // 2) tokens of each bag with the highest scores.

    Parameters
    ----------
    scores : Tensor
        (T,).
    batch : BagBatch
        Bags.
    most : int
        Tokens a bag, at most.

    Returns
    -------
    rows, real : Tensor
        (B, k) rows of the packed tokens, and (B, k) whether the bag has so many; where it has not, any row.
    """
    padded, here = batch.with_features(scores[:, None]).padded()
    padded = padded[..., 0].masked_fill(~here, -torch.inf)
    count = min(most, padded.shape[1])
    chosen = padded.topk(count, dim=1).indices
    real = torch.arange(count, device=scores.device) < (batch.lengths // 2)[:, None]
    return torch.where(real, chosen, 0) + batch.offsets[:-1, None], real


def smooth_svm(scores: Tensor, labels: Tensor, *, temperature: float = 1.0, margin: float = 1.0) -> Tensor:
    """Smooth top-1 hinge loss tau log sum_j exp((alpha [j != y] + s_j - s_y) / tau).

    Berrada, Zisserman and Kumar, ICLR 2018, equation 11.

    Parameters
    ----------
    scores : Tensor
        (..., C).
    labels : Tensor
        (...) int64.
    temperature, margin : float
        tau and alpha; 1 in CLAM.

    Returns
    -------
    Tensor
        (...).
    """
    own = scores.gather(-1, labels[..., None])
    away = torch.full_like(scores, margin).scatter(-1, labels[..., None], 0.0)
    return temperature * ((away + scores - own) / temperature).logsumexp(-1)


@AGGREGATORS.register("clam_sb")
class CLAMSB(CLAM):
    """CLAM with a single attention branch, and a linear map of its vector to the outputs."""

    def __init__(self, dim_in: int, options: CLAMOptions, outputs: int) -> None:
        super().__init__(dim_in, options, outputs, branches=1)


@AGGREGATORS.register("clam_mb")
class CLAMMB(CLAM):
    """CLAM with an attention branch an output, each with a score of its own vector."""

    def __init__(self, dim_in: int, options: CLAMOptions, outputs: int) -> None:
        super().__init__(dim_in, options, outputs, branches=outputs)
