"""Mean pooling: the baseline every study must beat, and its principal components as HEST's benchmark takes them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from histostudy.models.batch import BagBatch, even_attention, segment_mean
from histostudy.models.layers import relu_layers
from histostudy.models.registry import AGGREGATORS, Aggregator, DrawTiles, is_count, is_positive, is_share, require

#: Means that the components are fitted to, at most.
MOST_MEANS = 1 << 17
#: A component whose variance is below this share of the largest is rounding, not data.
RANK_TOLERANCE = 1e-12


@dataclass(frozen=True)
class MeanOptions:
    """Options of `Mean`.

    hidden : width of the embedding (None: none, a linear model); dropout : of the embedding; pca : principal
    components of the training part's means that the linear model sees (None: the features themselves), at most n - 1
    and the width of the features; penalty : the linear model's ridge penalty (None: the inner part chooses it), the
    weight of half the squared norm beside the mean loss a patient. For a regression it is the weight beside the mean
    squared error of each standardised target, so alpha = n penalty / 2 on the sum of squares, and HEST's
    alpha = 100 / (256 genes) is a penalty of 200 / (256 genes n), with n patients of the training part.

    Training by steps (recipes) keeps the components and has no use for the penalty.
    """

    hidden: int | None = None
    dropout: float = 0.25
    pca: int | None = None
    penalty: float | None = None

    def __post_init__(self) -> None:
        require(self.hidden is None or is_count(self.hidden), "hidden is null or a whole number from 1")
        require(is_share(self.dropout), "dropout is from 0 up to 1")
        require(self.pca is None or is_count(self.pca), "pca is null or a whole number from 1")
        require(self.penalty is None or is_positive(self.penalty), "penalty is null or a number above 0")
        alone = self.hidden is None or (self.pca is None and self.penalty is None)
        require(alone, "pca and penalty belong to the linear model: leave out hidden")


@AGGREGATORS.register("mean")
class Mean(Aggregator):
    """Mean over the tiles of the features themselves, or of ReLU(features W + b) with `hidden`.

    With a linear head the first is a linear model of the patient's mean, the second the mean of instance logits
    (the two commute). With `pca` the linear model sees the first principal components, as the probe of the HEST
    benchmark (Jaume et al., NeurIPS 2024: StandardScaler, PCA of 256, ridge), which fits them on the training part
    and does not whiten them. Components beyond the rank of the data are zero, so that the shapes stand at the start.
    """

    Options = MeanOptions
    components: Tensor

    def __init__(self, dim_in: int, options: MeanOptions) -> None:
        super().__init__(dim_in, options)
        self.linear = options.hidden is None
        self.dim_out = options.hidden or dim_in
        self.embed: nn.Module | None = None
        if options.hidden is not None:
            self.embed = relu_layers(dim_in, options.hidden, dropout=options.dropout)
        if options.pca is not None:
            self.dim_out = min(options.pca, dim_in)
            self.register_buffer("components", torch.zeros(dim_in, self.dim_out))

    def prepare(self, draw: DrawTiles, seed: int) -> None:
        """Fit the components to all means of the training part (a linear model's store holds one tile a patient)."""
        if self.options.pca is not None:
            self.components.copy_(principal_components(draw(MOST_MEANS), self.dim_out))

    def forward(self, batch: BagBatch) -> tuple[Tensor, Tensor | None]:
        """Pool; every tile of a bag has the same attention."""
        tiles = batch.features if self.embed is None else self.embed(batch.features)
        vectors = segment_mean(tiles, batch)
        if self.options.pca is not None:
            vectors = vectors @ self.components.to(vectors.dtype)
        return vectors, even_attention(batch)


@torch.no_grad()
def principal_components(vectors: Tensor, count: int) -> Tensor:
    """Leading principal axes of vectors, by the eigenvectors of the smaller of the two Gram matrices.

    Parameters
    ----------
    vectors : Tensor
        (n, D) on the CPU; centred here.
    count : int
        Axes asked for; the rank, at most n - 1, bounds how many there are.

    Returns
    -------
    Tensor
        (D, count) float64, orthonormal columns in falling order of variance, each signed so that its largest entry is
        positive; zero columns beyond the rank.
    """
    x = vectors.double()
    x = x - x.mean(0)
    wide = x.shape[1] > x.shape[0]
    values, axes = torch.linalg.eigh(x @ x.T if wide else x.T @ x)
    values, axes = values.flip(0), axes.flip(1)
    known = int((values > RANK_TOLERANCE * values[0]).sum()) if values[0] > 0 else 0
    known = min(known, count, x.shape[0] - 1)
    axes = x.T @ axes[:, :known] / values[:known].sqrt() if wide else axes[:, :known]
    signs = axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    result = x.new_zeros(x.shape[1], count)
    result[:, :known] = axes * signs
    return result
