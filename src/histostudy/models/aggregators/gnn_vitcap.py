"""GNN-ViTCap: clusters of tiles, one representative each, and a graph of those (IJCNN 2025), our reading.

No code was published. Only the classification part is here; captions are not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from histostudy.errors import ModelError
from histostudy.models.attention import AttentionAggregator, Pooled
from histostudy.models.batch import BagBatch
from histostudy.models.clusters import cluster_labels
from histostudy.models.layers import full_precision, relu_layers
from histostudy.models.registry import AGGREGATORS, DrawTiles, Loss, is_count, is_number, is_positive, is_share, require

REPRESENTATIVES = ("attention", "member")
QUERIES = ("learned", "centre")
#: Tiles a step of the clustering before training.
STEP_TILES = 256


@dataclass(frozen=True)
class GnnViTCapOptions:
    """Options of `GnnViTCap`; all values are ours but gamma.

    clusters : over all training tiles; hidden : width of the embedding; latent : width of z, in which tiles are
    clustered; representative : of a cluster, the ``attention``-weighted mean of its tiles or its ``member`` of most
    attention; query : of that attention, ``learned`` or the cluster's ``centre``; neighbours : of a representative in
    the graph; layers : of graph convolution; gamma : weight of the clustering loss; tiles : drawn for the clustering
    before training, at most; steps : of it, 0 for k-means alone; refresh : steps between two targets; lr : of it;
    dropout : of the embedding.
    """

    clusters: int = 10
    hidden: int = 128
    latent: int = 32
    representative: str = "attention"
    query: str = "learned"
    neighbours: int = 3
    layers: int = 2
    gamma: float = 0.1
    tiles: int = 10_000
    steps: int = 200
    refresh: int = 20
    lr: float = 1e-3
    dropout: float = 0.25

    def __post_init__(self) -> None:
        for name in ("clusters", "hidden", "latent", "neighbours", "layers", "tiles", "refresh"):
            require(is_count(getattr(self, name)), f"{name} is a whole number from 1")
        require(is_count(self.steps) or self.steps == 0 and type(self.steps) is int, "steps is a whole number from 0")
        require(self.representative in REPRESENTATIVES, f"representative is one of {', '.join(REPRESENTATIVES)}")
        require(self.query in QUERIES, f"query is one of {', '.join(QUERIES)}")
        require(is_number(self.gamma) and self.gamma >= 0, "gamma is a number from 0")
        require(is_positive(self.lr), "lr is a number above 0")
        require(is_share(self.dropout), "dropout is from 0 up to 1")


def soft_assignment(points: Tensor, centres: Tensor) -> Tensor:
    """(N, K) shares q_nk in proportion to 1 / (1 + |z_n - mu_k|^2) (Xie et al., DEC, ICML 2016, equation 1)."""
    square = points.square().sum(1, keepdim=True) - 2 * points @ centres.T + centres.square().sum(1)
    closeness = 1 / (1 + square.clamp(min=0))
    return closeness / closeness.sum(1, keepdim=True)


@torch.no_grad()
def target_shares(shares: Tensor) -> Tensor:
    """(N, K) targets p_nk in proportion to q_nk^2 / sum_n q_nk: sharper, and large clusters count less (equation 3)."""
    weight = shares.square() / shares.sum(0)
    return weight / weight.sum(1, keepdim=True)


def clustering_loss(target: Tensor, shares: Tensor) -> Tensor:
    """KL(P || Q), the mean over the tiles (equation 2)."""
    return torch.xlogy(target, target / shares).sum(1).mean()


def neighbour_graph(tokens: Tensor, real: Tensor, neighbours: int) -> Tensor:
    """D^-1/2 (A + I) D^-1/2 of graphs that join each token with those most like it by the cosine.

    Parameters
    ----------
    tokens : Tensor
        (B, K, D).
    real : Tensor
        (B, K) bool; rows and columns of the others are 0.
    neighbours : int
        Of each; two tokens are joined if either is among the other's.

    Returns
    -------
    Tensor
        (B, K, K); no gradient goes through the choice of neighbours.
    """
    count = tokens.shape[1]
    with torch.no_grad():
        unit = normalize(tokens, dim=2)
        alone = torch.eye(count, dtype=torch.bool, device=tokens.device)
        likeness = (unit @ unit.transpose(1, 2)).masked_fill(alone | ~real[:, None, :], -torch.inf)
        best = likeness.topk(min(neighbours, count - 1), dim=2)
        joined = torch.zeros_like(likeness, dtype=torch.bool)
        joined = joined.scatter(2, best.indices, best.values > -torch.inf) & real[:, :, None]
        graph = ((joined | joined.transpose(1, 2) | alone) & real[:, :, None] & real[:, None, :]).to(tokens.dtype)
        scale = graph.sum(2).clamp(min=1).rsqrt()
        return scale[:, :, None] * graph * scale[:, None, :]


@AGGREGATORS.register("gnn_vitcap")
class GnnViTCap(AttentionAggregator):
    """Tiles in learned clusters, a representative of each cluster of a bag, graph convolutions, their mean.

    Tiles are embedded (h) and projected (z); `clusters` centres are shared by all patients and found before training
    on tiles of the training part: k-means of z, then DEC (Xie et al., ICML 2016), which moves embedding, projection and
    centres towards the sharper assignment. A tile is of the cluster whose centre is nearest. In each cluster of a bag
    a = softmax(<z, w> / sqrt(d)) gives the representative sum a h; representatives are joined to their nearest by
    the cosine, go through X <- ReLU(D^-1/2 (A + I) D^-1/2 X W), and are averaged. So the same tile twice counts
    once: it is what the clusters look like that matters, not how large they are.

    The map of a tile is its attention in its cluster over the number of the bag's clusters. ``member`` takes the tile
    of most attention for the representative; in training w has the gradient of the attention (straight-through).
    Training adds gamma KL(P || Q) over the tiles of the batch, with P of this batch. The order of tiles does not
    matter and coordinates are not used.
    """

    Options = GnnViTCapOptions

    def __init__(self, dim_in: int, options: GnnViTCapOptions) -> None:
        super().__init__(dim_in, options)
        self.width = self.dim_out = hidden = options.hidden
        self.embed = relu_layers(dim_in, hidden, dropout=options.dropout)
        self.project = nn.Linear(hidden, options.latent)
        self.centres = nn.Parameter(torch.randn(options.clusters, options.latent))
        self.query = nn.Parameter(torch.randn(options.latent)) if options.query == "learned" else None
        self.layers = nn.ModuleList(nn.Linear(hidden, hidden, bias=False) for _ in range(options.layers))
        self._shares: Tensor | None = None

    def prepare(self, draw: DrawTiles, seed: int) -> None:
        """Start the centres by k-means on training tiles, then train embedding, projection and centres by DEC.

        The projection is scaled so that tiles are at distance 1 from their centre on average (root mean square): the
        closeness 1 / (1 + distance^2) has a scale of its own (ours).

        Raises
        ------
        ModelError
            If there are fewer tiles than clusters.
        """
        tiles, options = draw(self.options.tiles).float(), self.options
        if len(tiles) < options.clusters:
            raise ModelError(
                f"gnn_vitcap: {len(tiles)} training tiles for {options.clusters} clusters", todo="lower `clusters`"
            )
        was_training = self.training
        self.eval()
        with torch.no_grad():
            self._start(self.project(self.embed(tiles)))
        generator = torch.Generator().manual_seed(seed)
        trained = [*self.embed.parameters(), *self.project.parameters(), self.centres]
        optimiser = torch.optim.Adam(trained, lr=options.lr)
        for step in range(options.steps):
            if step % options.refresh == 0:
                with torch.no_grad():
                    target = target_shares(self.shares(self.embed(tiles)))
            some = torch.randint(len(tiles), (min(STEP_TILES, len(tiles)),), generator=generator)
            loss = clustering_loss(target[some], self.shares(self.embed(tiles[some])))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        optimiser.zero_grad()
        self.train(was_training)

    def _start(self, points: Tensor) -> None:
        labels = cluster_labels(points, self.options.clusters, iterations=100)
        found = int(labels.max()) + 1
        sizes = torch.bincount(labels)
        means = points.new_zeros(found, points.shape[1]).index_add(0, labels, points) / sizes[:, None]
        spread = (points - means[labels]).square().sum(1).mean().sqrt()
        scale = 1 / spread if spread > 1e-6 else torch.ones(())
        self.project.weight.mul_(scale)
        self.project.bias.mul_(scale)
        # where tiles coincide there are fewer clusters than centres: the rest lie on those there are, and stay empty
        self.centres.copy_(scale * means[torch.arange(len(self.centres)) % found])

    def shares(self, embedded: Tensor) -> Tensor:
        """(T, K) soft assignment of embedded tiles (T, hidden), in float32 or better."""
        points = full_precision(self.project(embedded))
        with torch.autocast(points.device.type, enabled=False):
            return soft_assignment(points, full_precision(self.centres, like=points))

    def pool(self, tokens: BagBatch) -> Pooled:
        """Pool."""
        clusters = self.options.clusters
        points = full_precision(self.project(tokens.features))
        with torch.autocast(points.device.type, enabled=False):
            centres = full_precision(self.centres, like=points)
            shares = soft_assignment(points, centres)
            self._shares = shares if self.training else None
            nearest = shares.argmax(1)
            query = centres[nearest] if self.query is None else full_precision(self.query, like=points)
            scores = (points * query).sum(1) / math.sqrt(self.options.latent)
            group = tokens.segments * clusters + nearest
            weights = self._within(scores, group, len(tokens) * clusters)
            features = full_precision(tokens.features)
            held = weights[:, None] * features
            x = features.new_zeros(len(tokens) * clusters, self.width).index_add(0, group, held)
            x = x.unflatten(0, (len(tokens), clusters))
            real = torch.bincount(group, minlength=len(tokens) * clusters).reshape(len(tokens), clusters) > 0
            graph = neighbour_graph(x, real, self.options.neighbours)
        for layer in self.layers:
            x = torch.relu(graph @ full_precision(layer(x), like=graph))
        count = real.sum(1)
        vectors = (x * real[:, :, None]).sum(1) / count[:, None]
        return Pooled(vectors, (weights / count[tokens.segments])[:, None])

    def _within(self, scores: Tensor, group: Tensor, groups: int) -> Tensor:
        """Weights (T,) of tiles that sum to 1 over each group."""
        empty = scores.new_zeros(groups)
        largest = empty.scatter_reduce(0, group, scores.detach(), "amax", include_self=False)
        weights = (scores - largest[group]).exp()
        weights = weights / empty.index_add(0, group, weights)[group]
        if self.options.representative == "attention":
            return weights
        top = (scores.detach() == largest[group]).to(scores.dtype)  # the same tile twice: half each
        return top / empty.index_add(0, group, top)[group] + (weights - weights.detach())

    def penalty(self, targets: Mapping[str, Tensor], loss: Loss) -> Tensor | None:
        """gamma KL(P || Q) of the tiles of the last training batch."""
        if self._shares is None or not self.options.gamma:
            return None
        return self.options.gamma * clustering_loss(target_shares(self._shares), self._shares)
