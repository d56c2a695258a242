"""Size-aware token merging before gated attention: the mechanism of PathoHR, with ToMe as one of its ways.

PathoHR (2025) halves the sequence of patch features round by round, each merged token an attention of the pair's
pooled query on the pair, with several similarities; one of its variants is ToMe (Bolya et al., ICLR 2023: bipartite
soft matching, size-weighted means, proportional attention). This is our reading: the published training cannot be
followed (a classifier refitted on each batch), so only the mechanism is here, under the gated attention of
`GatedAttention`. Its jittered positional code is left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize

from histostudy.models.batch import BagBatch, segment_softmax, segment_sum
from histostudy.models.layers import GatedAttention, relu_layers
from histostudy.models.registry import AGGREGATORS, Aggregator, is_count, is_positive, is_share, require

METHODS = ("tome", "cosine", "euclidean", "attention")
#: Rows of a similarity matrix held at once.
BLOCK = 2048


@dataclass(frozen=True)
class TokenMergingOptions:
    """Options of `TokenMerging`.

    method : ``tome`` (best partner in the other half, size-weighted mean), or the next token as the partner with
    weights by the similarity of each to their mean: ``cosine``, ``euclidean`` (minus the distance) or ``attention``
    (a learned query and key); rounds : of merging; keep : share of tokens left by a round, from 0.5; temperature :
    similarities are divided by it; hidden : width of the token embedding; attention : width of the attention layer
    and of the learned query; dropout : of the embedding.
    """

    method: str = "tome"
    rounds: int = 2
    keep: float = 0.5
    temperature: float = 1.0
    hidden: int = 128
    attention: int = 64
    dropout: float = 0.25

    def __post_init__(self) -> None:
        require(self.method in METHODS, f"method is one of {', '.join(METHODS)}")
        for name in ("rounds", "hidden", "attention"):
            require(is_count(getattr(self, name)), f"{name} is a whole number from 1")
        require(is_share(self.keep) and self.keep >= 0.5, "keep is from 0.5 up to 1")
        require(is_positive(self.temperature), "temperature is a number above 0")
        require(is_share(self.dropout), "dropout is from 0 up to 1")


@dataclass
class Tokens:
    """Merged tiles of one bag.

    Attributes
    ----------
    values : Tensor
        (m, D) each a weighted mean of the tiles it holds.
    size : Tensor
        (m,) how many; they sum to n.
    owner : Tensor
        (n,) the token that holds each tile.
    share : Tensor
        (n,) weight of each tile in its token; they sum to 1 over a token.
    """

    values: Tensor
    size: Tensor
    owner: Tensor
    share: Tensor

    @classmethod
    def of(cls, tiles: Tensor) -> Tokens:
        """Each tile (n, D) a token of its own."""
        one = tiles.new_ones(len(tiles), dtype=torch.float32)
        return cls(tiles, one, torch.arange(len(tiles), device=tiles.device), one)


@torch.no_grad()
def best_partner(sources: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """For each source (a, D) the cosine similarity and the index of its nearest target (b, D)."""
    sources, targets = normalize(sources.float(), dim=1), normalize(targets.float(), dim=1)
    found = [(block @ targets.T).max(1) for block in sources.split(BLOCK)]
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


def merge(tokens: Tokens, sources: Tensor, targets: Tensor, logits: Tensor | None = None) -> Tokens:
    """Merge token `sources[i]` into token `targets[i]`, which is none of the sources.

    The weight of a token in the merged one is its size times exp(logit): without logits a size-weighted mean, and
    with identical tokens nothing is lost whatever the logits say.
    """
    kept = torch.ones(len(tokens.size), dtype=torch.bool, device=sources.device)
    kept[sources] = False
    place = kept.cumsum(0) - 1
    place[sources] = place[targets]
    weight = tokens.size
    if logits is not None:
        largest = logits.detach().clone()  # of each pair, for a softmax that cannot overflow
        top = torch.maximum(logits[sources], logits[targets]).detach()
        largest[sources], largest[targets] = top, top
        weight = weight * (logits - largest).exp()
    count = int(kept.sum())
    total = weight.new_zeros(count).index_add(0, place, weight)
    weight = weight / total[place]
    values = tokens.values.new_zeros(count, tokens.values.shape[1])
    values = values.index_add(0, place, (weight[:, None] * tokens.values).to(values.dtype))
    size = tokens.size.new_zeros(count).index_add(0, place, tokens.size)
    return Tokens(values, size, place[tokens.owner], tokens.share * weight[tokens.owner])


@AGGREGATORS.register("token_merging")
class TokenMerging(Aggregator):
    """Merge tiles into fewer tokens, embed them, pool by gated attention with log(size) added to the scores.

    Each round sets even tokens against odd ones and merges the most similar pairs, down to ceil(keep m) tokens, so
    that with `keep` 0.5 a round halves. Which tokens are even depends on their order: with coordinates it is
    row-major (so that a next token is the neighbour), whatever the order they came in; without, it is the order
    of the features. Tiles of two slides of a patient at one place keep their given order. Adding log(size)
    ("proportional attention") makes a token count as the tiles it holds: merging identical tiles changes nothing.
    """

    Options = TokenMergingOptions

    def __init__(self, dim_in: int, options: TokenMergingOptions) -> None:
        super().__init__(dim_in, options)
        self.dim_out = options.hidden
        self.embed = relu_layers(dim_in, options.hidden, dropout=options.dropout)
        self.attention = GatedAttention(options.hidden, options.attention)
        if options.method == "attention":
            self.query = nn.Linear(dim_in, options.attention, bias=False)
            self.key = nn.Linear(dim_in, options.attention, bias=False)

    def forward(self, batch: BagBatch) -> tuple[Tensor, Tensor]:
        """Pool; a tile's attention is its share of its token's."""
        order = row_major(batch)
        bags = [self.merged(tiles) for tiles in batch.features[order].split(batch.lengths.tolist())]
        merged = BagBatch.pack([bag.values for bag in bags])
        size = torch.cat([bag.size for bag in bags])
        embedded = self.embed(merged.features)
        weights = segment_softmax(self.attention(embedded) + size.log()[:, None], merged)
        pooled = segment_sum(weights * embedded, merged)
        owner = torch.cat([bag.owner + first for bag, first in zip(bags, merged.offsets, strict=False)])
        attention = weights[owner, 0] * torch.cat([bag.share for bag in bags])
        return pooled, attention.new_zeros(len(order)).index_copy(0, order, attention)

    def merged(self, tiles: Tensor) -> Tokens:
        """All rounds on one bag (n, D)."""
        tokens = Tokens.of(tiles)
        for _ in range(self.options.rounds):
            tokens = self._round(tokens)
        return tokens

    def _round(self, tokens: Tokens) -> Tokens:
        values, count = tokens.values, len(tokens.size)
        surplus = count - math.ceil(self.options.keep * count)
        if surplus == 0:
            return tokens
        even = torch.arange(0, count, 2, device=values.device)
        odd = torch.arange(1, count, 2, device=values.device)
        logits = None
        if self.options.method == "tome":
            similarity, partner = best_partner(values[even], values[odd])
            targets = odd[partner]
        else:
            even, targets = even[: len(odd)], odd  # an odd count leaves its last token alone
            logits, similarity = self._pairs(tokens, even, odd)
        chosen = similarity.argsort(descending=True, stable=True)[:surplus]
        return merge(tokens, even[chosen], targets[chosen], logits)

    def _pairs(self, tokens: Tokens, even: Tensor, odd: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (m,) of each token in its pair, by its similarity to the pair's mean, and how alike the pairs are."""
        left, right = tokens.values[even], tokens.values[odd]
        sizes = tokens.size[even, None], tokens.size[odd, None]
        mean = (sizes[0] * left + sizes[1] * right) / (sizes[0] + sizes[1])
        logits = tokens.size.new_zeros(len(tokens.size))
        both = torch.cat([even, odd])
        scores = torch.cat([self._similarity(mean, left), self._similarity(mean, right)]) / self.options.temperature
        logits = logits.index_copy(0, both, scores)
        if self.options.method == "euclidean":
            return logits, -(left - right).detach().float().norm(dim=1)
        return logits, cosine_similarity(left.detach().float(), right.detach().float())

    def _similarity(self, query: Tensor, tokens: Tensor) -> Tensor:
        """(p,) in float32."""
        if self.options.method == "attention":
            query, key = self.query(query).float(), self.key(tokens).float()
            return (query * key).sum(1) / math.sqrt(self.options.attention)
        if self.options.method == "euclidean":  # a gradient at distance 0 stays finite
            return -(query.float() - tokens.float()).square().sum(1).add(1e-12).sqrt()
        return cosine_similarity(query.float(), tokens.float())


def row_major(batch: BagBatch) -> Tensor:
    """(T,) tiles bag by bag, each row by row where coordinates are known, else as they come."""
    order = torch.arange(len(batch.features), device=batch.features.device)
    if batch.coords is not None:
        for key in (batch.coords[:, 0], batch.coords[:, 1], batch.segments):  # the last counts most
            order = order[key[order].argsort(stable=True)]
    return order
