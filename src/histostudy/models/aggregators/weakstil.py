"""WeakSTIL: a slide's percentage as the mean of its tiles' percentages (SPIE MI 2022, arXiv 2109.05892); our reading.

WeakSTIL learns the share of tumour-infiltrating lymphocytes of a tile from one number a slide. No code was published,
so this follows the abstract: a regressor of tiles, and a slide that is the (even or attended) mean of its tiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from histostudy.errors import ModelError
from histostudy.models.attention import AttentionAggregator, Pooled
from histostudy.models.batch import BagBatch, even_attention, segment_softmax, segment_sum
from histostudy.models.layers import GatedAttention, full_precision, relu_layers
from histostudy.models.registry import AGGREGATORS, is_count, is_number, is_share, require

POOLINGS = ("mean", "attention")


@dataclass(frozen=True)
class WeakSTILOptions:
    """Options of `WeakSTIL`.

    range : lowest and highest value that a tile, and so a slide, can have, in the unit of the target (percent: 0 and
    100); pooling : ``mean`` weighs all tiles alike, ``attention`` by gated attention; hidden : width of the tile
    embedding; attention : width of the attention layer; dropout : of the embedding.
    """

    range: Sequence[float] = (0.0, 1.0)
    pooling: str = "mean"
    hidden: int = 128
    attention: int = 64
    dropout: float = 0.25

    def __post_init__(self) -> None:
        ends = self.range
        pair = isinstance(ends, list | tuple) and len(ends) == 2 and all(map(is_number, ends))
        require(pair and ends[0] < ends[1], "range is a list of two numbers, the lower first")
        require(self.pooling in POOLINGS, f"pooling is one of {', '.join(POOLINGS)}")
        for name in ("hidden", "attention"):
            require(is_count(getattr(self, name)), f"{name} is a whole number from 1")
        require(is_share(self.dropout), "dropout is from 0 up to 1")


@AGGREGATORS.register("weakstil")
class WeakSTIL(AttentionAggregator):
    """Tile scores r_i = low + (high - low) sigmoid(w' phi(x_i)), slide S = sum_i a_i r_i; a is even or attention.

    The vectors are (S - centre) / spread with the training part's mean and population deviation, which is the scale
    that the regression head fits. Every tile starts at the training part's mean. The head's bias, which starts at
    zero, is trained too: a prediction is S plus a constant, which is no part of `tile_scores`, and so may leave the
    range by as much.

    How well slides are predicted says nothing of the tiles: on synthetic slides the slides' R2 rose with more of them
    while the correlation of r_i with the tiles' truth fell. A map of `tile_scores` needs its own check.
    """

    Options = WeakSTILOptions
    scores = True
    centre: Tensor
    spread: Tensor

    def __init__(self, dim_in: int, options: WeakSTILOptions, outputs: int) -> None:
        super().__init__(dim_in, options)
        self.width, self.dim_out = options.hidden, outputs
        self.embed = relu_layers(dim_in, options.hidden, dropout=options.dropout)
        self.score = nn.Linear(options.hidden, outputs)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)
        self.attention = GatedAttention(options.hidden, options.attention) if options.pooling == "attention" else None
        self.register_buffer("centre", torch.zeros(outputs))
        self.register_buffer("spread", torch.ones(outputs))

    def start(self, targets: Mapping[str, Tensor]) -> None:
        """Take the targets' mean and deviation, as `histostudy.models.heads.RegressionHead` does.

        Raises
        ------
        ModelError
            If the task is not the regression of one number, or a target is outside `range`.
        """
        y = targets.get("y")
        if y is None or not y.is_floating_point() or y.ndim != 2 or y.shape[1] != 1:
            raise ModelError("weakstil predicts one number a patient", todo="use it for a task of kind regression")
        known = y[y.isfinite()].double().cpu()
        if not len(known):
            raise ModelError("weakstil: no patient of the training part has the target", todo="check its column")
        low, high = map(float, self.options.range)
        if known.min() < low or known.max() > high:
            raise ModelError(
                f"weakstil: targets run from {known.min():g} to {known.max():g}, tiles from {low:g} to {high:g}",
                todo="set the model's option `range` to the lowest and highest value the target can have",
            )
        spread = known.std(correction=0)
        self.centre.fill_(known.mean())
        self.spread.fill_(spread if spread > 1e-8 else 1.0)
        with torch.no_grad():  # an end of the range would leave no gradient
            self.score.bias.fill_(torch.logit((known.mean() - low) / (high - low), eps=0.01))

    def pool(self, tokens: BagBatch) -> Pooled:
        """Pool; the map is a_i."""
        if self.attention is None:
            maps = full_precision(even_attention(tokens))[:, None]
        else:
            maps = segment_softmax(self.attention(tokens.features), tokens)
        return Pooled(segment_sum(maps * self._standardised(tokens.features), tokens), maps)

    def contributions(self, tokens: BagBatch, pooled: Pooled) -> Tensor:
        """a_i (r_i - centre) / spread."""
        return pooled.maps * self._standardised(tokens.features)

    def tile_scores(self, batch: BagBatch) -> Tensor:
        """(T,) r_i of standardised tiles, in the unit of the target and within `range`.

        Recipes may put tokens in the place of tiles; this is of tiles, so call it in evaluation mode.
        """
        return self._scores(self.embed(batch.features))[:, 0]

    def _scores(self, embedded: Tensor) -> Tensor:
        """(T, outputs), in float32 or better."""
        low, high = map(float, self.options.range)
        return low + (high - low) * torch.sigmoid(full_precision(self.score(embedded)))

    def _standardised(self, embedded: Tensor) -> Tensor:
        return (self._scores(embedded) - self.centre) / self.spread
