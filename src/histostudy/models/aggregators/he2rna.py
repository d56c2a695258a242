"""Gene expression as the mean of each gene's highest tile scores (Schmauch et al., HE2RNA, Nat Commun 2020)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from histostudy.errors import ModelError
from histostudy.models.batch import BagBatch
from histostudy.models.clusters import ClusterCache, cluster_means, spread_over_tiles
from histostudy.models.layers import full_precision, relu_layers
from histostudy.models.registry import AGGREGATORS, Aggregator, is_count, is_share, require

#: Padded scores held at a time, whatever the number of genes.
SCORES_AT_A_TIME = 1 << 24


@dataclass(frozen=True)
class HE2RNAOptions:
    """Options of `HE2RNA`.

    widths : of the tile MLP (the paper: 1024, 1024); dropout : after each of its layers (the paper's); ks : tiles a
    gene is averaged over (the paper's), drawn anew in each training step, all of them averaged at evaluation, and
    each clipped to the bag; supertiles : k-means of the tiles' coordinates merges a bag of more tiles into so many
    super-tiles first (the paper's second variant: 100; it needs coordinates; null: tiles).
    """

    widths: Sequence[int] = (128, 128)
    dropout: float = 0.25
    ks: Sequence[int] = (1, 2, 5, 10, 20, 50, 100)
    supertiles: int | None = None

    def __post_init__(self) -> None:
        for name in ("widths", "ks"):
            values = getattr(self, name)
            given = isinstance(values, list | tuple) and len(values) > 0
            require(given and all(map(is_count, values)), f"{name} is a list of whole numbers from 1")
        require(is_share(self.dropout), "dropout is from 0 up to 1")
        require(self.supertiles is None or is_count(self.supertiles), "supertiles is null or a whole number from 1")


@AGGREGATORS.register("he2rna")
class HE2RNA(Aggregator):
    """Scores of every tile for every gene, s = MLP(x); the prediction of a gene is the mean of its k highest.

    The last layer starts at zero and has no bias, as the head adds one: at the first step every patient is predicted
    the training part's mean of each gene.

    A bag of several slides has one system of coordinates for all of them, so its super-tiles may mix slides.
    """

    Options = HE2RNAOptions
    scores = True

    def __init__(self, dim_in: int, options: HE2RNAOptions, outputs: int) -> None:
        super().__init__(dim_in, options)
        self.dim_out = outputs
        self.embed = relu_layers(dim_in, *options.widths, dropout=options.dropout)
        self.score = nn.Linear(options.widths[-1], outputs, bias=False)
        nn.init.zeros_(self.score.weight)
        self._clusters = ClusterCache(options.supertiles) if options.supertiles is not None else None

    def forward(self, batch: BagBatch) -> tuple[Tensor, Tensor | None]:
        """Predict; a tile's attention, at evaluation, is its mean weight in the predictions of the genes."""
        place = None
        if self._clusters is not None:
            batch, place = self._merge(batch, self._clusters)
        ks = tuple(self.options.ks)
        if self.training:
            ks = (ks[int(torch.randint(len(ks), ()))],)
        hidden = self.embed(batch.features)
        predictions, shares = [], torch.zeros(len(batch.features), device=hidden.device)
        for genes in self._some_genes(batch):
            scores = nn.functional.linear(hidden, self.score.weight[genes])
            means, chosen = top_means(full_precision(scores), batch, ks)
            predictions.append(means)
            if not self.training:
                shares += top_weights(chosen, batch, ks)
        attention = None
        if not self.training:
            attention = shares / self.dim_out
            attention = attention if place is None else spread_over_tiles(attention, place)
        return torch.cat(predictions, 1), attention

    def _merge(self, batch: BagBatch, clusters: ClusterCache) -> tuple[BagBatch, Tensor]:
        if batch.coords is None:
            raise ModelError("he2rna: super-tiles need the tiles' coordinates", todo="leave out `supertiles`")
        return cluster_means(batch, clusters.labels(batch.coords, batch.offsets.tolist()))

    def _some_genes(self, batch: BagBatch) -> Iterator[slice]:
        """Genes at a time such that their padded scores stay within `SCORES_AT_A_TIME`."""
        step = max(1, SCORES_AT_A_TIME // (len(batch) * int(batch.lengths.max())))
        for start in range(0, self.dim_out, step):
            yield slice(start, min(start + step, self.dim_out))


def top_means(scores: Tensor, batch: BagBatch, ks: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Mean over `ks` of the mean of each bag's k highest scores, column by column.

    Parameters
    ----------
    scores : Tensor
        (T, G) of the tiles of `batch`.
    batch : BagBatch
        Bags.
    ks : sequence of int
        Each is clipped to the bag.

    Returns
    -------
    means : Tensor
        (B, G).
    chosen : Tensor
        (B, K, G) row of the packed tiles that is the first, second, ... of each bag, for the largest k; beyond the
        tiles of a bag it means nothing.
    """
    padded, real = batch.with_features(scores).padded()
    padded = padded.masked_fill(~real[..., None], -torch.inf)
    most = min(max(ks), padded.shape[1])
    top, chosen = padded.topk(most, dim=1)
    weights = _rank_weights(batch, ks, most).to(top.dtype)[..., None]
    # a padded place has weight zero, but zero times minus infinity is not zero
    means = (weights * torch.where(weights > 0, top, 0.0)).sum(1)
    return means, chosen + batch.offsets[:-1, None, None]


def top_weights(chosen: Tensor, batch: BagBatch, ks: Sequence[int]) -> Tensor:
    """(T,) the weights that `top_means` gave to tiles, summed over columns; `chosen` as it returned."""
    weights = _rank_weights(batch, ks, chosen.shape[1])[..., None].expand(chosen.shape)
    rows = torch.where(weights > 0, chosen, 0)
    return torch.zeros(len(batch.features), device=chosen.device).index_add(0, rows.flatten(), weights.flatten())


def _rank_weights(batch: BagBatch, ks: Sequence[int], most: int) -> Tensor:
    """(B, most) weight of the first, second, ... highest tile of each bag, each row with sum 1."""
    ranks = torch.arange(most, device=batch.offsets.device)
    weights = torch.zeros(len(batch), most, device=batch.offsets.device)
    for k in ks:
        clipped = batch.lengths.clamp(max=k)[:, None]
        weights += (ranks < clipped) / clipped
    return weights / len(ks)
