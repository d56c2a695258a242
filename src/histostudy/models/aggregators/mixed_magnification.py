"""Mixed-magnification aggregation: a transformer over the tiles of each region, pretrained by masking; our reading.

Tiles of one tissue at several scales are tokens of a region, encoded together; encoded regions are pooled by gated
attention. Masked embedding modelling trains the encoder first, without labels (arXiv 2602.22176, 2026; no code was
published, so widths, masks and targets follow what summaries of the paper say).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, mse_loss

from histostudy.models.attention import AttentionAggregator, Pooled
from histostudy.models.batch import BagBatch, segment_softmax, segment_sum
from histostudy.models.layers import GatedAttention
from histostudy.models.registry import AGGREGATORS, DrawBags, is_count, is_number, is_positive, is_share, require

REGIONS = ("tokens", "class")
#: Half waves along a region of the features of a position.
WAVES = (1.0, 2.0, 4.0, 8.0)
#: Doublings of the scale that have an embedding of their own, from 0.25 um per pixel on.
OCTAVES, FINEST_MPP = 8, 0.25


@dataclass(frozen=True)
class MixedMagnificationOptions:
    """Options of `MixedMagnification`.

    region_px0 : side of a region, level-0 px (null: one tile of the coarsest scale, or of one scale `region_tiles`
    tiles, found from the coordinates of each bag); region_tiles : tiles along a region of one scale; region_tokens :
    tiles of a region where no coordinates are known; region : its vector is the mean of its ``tokens`` or a ``class``
    token; hidden, layers, heads, feedforward : of the encoder (the paper: 384 to 768 wide, 2 to 6 layers); dropout : of
    the encoder; attention : width of the attention layer; mask_rate : share of a region's tokens masked in pretraining;
    pretrain_epochs : of it (0: none); pretrain_lr : its learning rate.
    """

    region_px0: float | None = None
    region_tiles: int = 4
    region_tokens: int = 16
    region: str = "tokens"
    hidden: int = 128
    layers: int = 2
    heads: int = 4
    feedforward: int = 256
    dropout: float = 0.1
    attention: int = 64
    mask_rate: float = 0.25
    pretrain_epochs: int = 10
    pretrain_lr: float = 1e-3

    def __post_init__(self) -> None:
        require(self.region_px0 is None or is_positive(self.region_px0), "region_px0 is null or a number above 0")
        for name in ("region_tiles", "region_tokens", "hidden", "layers", "heads", "feedforward", "attention"):
            require(is_count(getattr(self, name)), f"{name} is a whole number from 1")
        require(self.hidden % self.heads == 0, "heads divide hidden")
        require(self.region in REGIONS, f"region is one of {', '.join(REGIONS)}")
        require(is_share(self.dropout), "dropout is from 0 up to 1")
        rate = self.mask_rate
        require(is_number(rate) and 0 < rate < 1, "mask_rate is a number between 0 and 1")
        epochs = self.pretrain_epochs
        require(epochs == 0 and not isinstance(epochs, bool) or is_count(epochs), "pretrain_epochs is from 0, whole")
        require(is_positive(self.pretrain_lr), "pretrain_lr is a number above 0")


class Regions(NamedTuple):
    """Which region each token is in.

    Attributes
    ----------
    row : Tensor
        (T,) number of the token's region; regions are numbered bag after bag.
    column : Tensor
        (T,) number of the token within its region.
    lengths : Tensor
        (R,) tokens of each region.
    bag : Tensor
        (R,) bag of each region.
    position : Tensor
        (T, 2) of the token's middle, in sides of the region: 0 to 1.
    """

    row: Tensor
    column: Tensor
    lengths: Tensor
    bag: Tensor
    position: Tensor


@AGGREGATORS.register("mixed_magnification")
class MixedMagnification(AttentionAggregator):
    """Tokens W x + position in the region + magnification, encoded region by region, pooled by gated attention.

    A region is a square of the slide; what tiles it has (children that are no tissue are missing) are its tokens, of
    all scales in `batch.scales`, whose middles lie in it. The magnification has a learned embedding for each doubling
    of the scale. Without coordinates a region is a run of `region_tokens` tiles in file order, and tokens that a
    recipe adds are treated so too. Slides of one patient share one system of coordinates, so a region may mix theirs;
    give `region_px0` where such slides have lattices of different steps.

    Pretraining replaces W x of a drawn `mask_rate` of each region's tokens by a learned vector, keeps position and
    magnification, and predicts the layer-normalised features of those tokens alone, by squared error. A region of one
    token has nothing to be predicted from. The predicting layers are kept with the weights, but not trained further.

    Parameters
    ----------
    dim_in : int
        Width of the features.
    options : MixedMagnificationOptions
        Options.
    """

    Options = MixedMagnificationOptions
    places = True
    scales = True

    def __init__(self, dim_in: int, options: MixedMagnificationOptions) -> None:
        super().__init__(dim_in, options)
        self.width = self.dim_out = width = options.hidden
        self.embed = nn.Linear(dim_in, width)
        self.position = nn.Linear(4 * len(WAVES), width, bias=False)
        self.magnification = nn.Embedding(OCTAVES, width)
        layer = nn.TransformerEncoderLayer(
            width, options.heads, options.feedforward, options.dropout, "gelu", batch_first=True, norm_first=True
        )
        # norm_first layers know no nested tensors; saying so saves a warning
        self.encoder = nn.TransformerEncoder(layer, options.layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.attention = GatedAttention(width, options.attention)
        if options.region == "class":
            self.class_token = nn.Parameter(0.02 * torch.randn(width))
        if options.pretrain_epochs:
            self.mask_token = nn.Parameter(0.02 * torch.randn(width))
            self.decoder = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, dim_in))
            self._only_pretrained(False)

    def pool(self, tokens: BagBatch) -> Pooled:
        """Encode regions and pool them; a token's share of the map is its region's, evenly."""
        regions = self.regions(tokens)
        encoded, summary = self.encode(tokens, regions)
        if summary is None:
            total = encoded.new_zeros(len(regions.lengths), self.width).index_add(0, regions.row, encoded)
            summary = total / regions.lengths[:, None].to(total.dtype)
        counts = torch.bincount(regions.bag, minlength=len(tokens))
        pooled = BagBatch(summary, torch.cat([counts.new_zeros(1), counts.cumsum(0)]))
        weights = segment_softmax(self.attention(summary), pooled)
        return Pooled(segment_sum(weights * summary, pooled), (weights / regions.lengths[:, None])[regions.row])

    def encode(self, tokens: BagBatch, regions: Regions) -> tuple[Tensor, Tensor | None]:
        """Encode embedded tokens (T, width): (T, width), and the class tokens (R, width) where there are such."""
        values = tokens.features + self.position(_waves(regions.position).to(self.position.weight.dtype))
        if tokens.scales is not None:
            octave = (tokens.scales / FINEST_MPP).log2().round().long().clamp(0, OCTAVES - 1)
            values = values + self.magnification(octave)
        first = int(self.options.region == "class")
        size = first + int(regions.lengths.max())
        padded = values.new_zeros(len(regions.lengths), size, self.width)
        padded[regions.row, regions.column + first] = values
        if first:
            padded[:, 0] = self.class_token.to(values.dtype)
        missing = torch.arange(size, device=values.device) >= regions.lengths[:, None] + first
        encoded = self.encoder(padded, src_key_padding_mask=missing)
        return encoded[regions.row, regions.column + first], encoded[:, 0] if first else None

    @torch.no_grad()
    def regions(self, batch: BagBatch) -> Regions:
        """The regions of a batch."""
        options = self.options
        if batch.coords is None:
            cell = (batch.place // options.region_tokens)[:, None]
            along = (batch.place % options.region_tokens + 0.5) / options.region_tokens
            position = torch.stack([along, torch.zeros_like(along)], 1)
        else:
            scales = None if batch.scales is None else batch.scales.double().split(batch.lengths.tolist())
            found = [
                cells(coords.double(), None if scales is None else scales[k], options.region_px0, options.region_tiles)
                for k, coords in enumerate(batch.coords.split(batch.lengths.tolist()))
            ]
            place = torch.cat(found)
            cell = place.floor()
            position = place - cell
        keys, row = torch.cat([batch.segments[:, None], cell.long()], 1).unique(dim=0, return_inverse=True)
        lengths = torch.bincount(row, minlength=len(keys))
        order = row.argsort(stable=True)
        column = torch.empty_like(row)
        column[order] = torch.arange(len(row), device=row.device) - (lengths.cumsum(0) - lengths)[row[order]]
        return Regions(row, column, lengths, keys[:, 0], position)

    def masked_loss(self, batch: BagBatch, regions: Regions, masked: Tensor) -> Tensor:
        """Squared error of the layer-normalised features (T, dim_in) of the tokens where `masked` (T,) is true."""
        wanted = layer_norm(batch.features, (self.dim_in,))[masked]
        return mse_loss(self.predict_masked(batch, regions, masked), wanted)

    def predict_masked(self, batch: BagBatch, regions: Regions, masked: Tensor) -> Tensor:
        """Predict the layer-normalised features of the masked tokens from the others: (masked, dim_in)."""
        embedded = self.embed(batch.features)
        hidden = torch.where(masked[:, None], self.mask_token.to(embedded.dtype), embedded)
        encoded, _ = self.encode(batch.with_features(hidden), regions)
        return self.decoder(encoded[masked])

    def pretrain(self, bags: DrawBags, seed: int) -> None:
        """Masked embedding modelling by AdamW on the training part's bags, `pretrain_epochs` times."""
        options = self.options
        if not options.pretrain_epochs:
            return
        self._only_pretrained(True)
        self.train()
        generator = torch.Generator().manual_seed(seed)
        optimiser = torch.optim.AdamW(self.parameters(), lr=options.pretrain_lr, weight_decay=1e-4)
        for epoch in range(options.pretrain_epochs):
            rate = 0.5 * (1 + math.cos(math.pi * epoch / options.pretrain_epochs))
            for group in optimiser.param_groups:
                group["lr"] = options.pretrain_lr * rate
            for batch in bags():
                regions = self.regions(batch)
                masked = draw_masked(regions, options.mask_rate, generator)
                if masked.any():
                    optimiser.zero_grad()
                    self.masked_loss(batch, regions, masked).backward()
                    optimiser.step()
        self.zero_grad()
        self._only_pretrained(False)

    def _only_pretrained(self, trained: bool) -> None:
        """Whether what only pretraining uses is trained."""
        self.mask_token.requires_grad_(trained)
        self.decoder.requires_grad_(trained)


def cells(coords: Tensor, scales: Tensor | None, side: float | None, tiles: int) -> Tensor:
    """Middles of the tiles of one bag in units of the region: the whole part names the region.

    Regions lie on the lattice of the coarsest tiles. A tile's middle rather than its corner is asked for, since
    corners are rounded to whole pixels.

    Parameters
    ----------
    coords : Tensor
        (N, 2) float64 upper left corners, level-0 px.
    scales : Tensor, optional
        (N,) um per pixel.
    side : float, optional
        Of a region, level-0 px; by default one tile of the coarsest of several scales, or `tiles` tiles of one.
    tiles : int
        Tiles along a region of one scale.

    Returns
    -------
    Tensor
        (N, 2) float64.
    """
    if scales is None:
        scales = coords.new_ones(len(coords))
    largest = scales.max()
    coarsest = scales > largest * 0.99
    step = lattice_step(coords, scales)
    if step is None:  # all tiles at one place, as far as can be told
        step = side if side is not None else 1.0
    if side is None:
        side = step if not bool(coarsest.all()) else tiles * step
    # a lattice begins anywhere: its phase is what its first corner is past a whole number of steps, or short of it
    corner = coords[coarsest].amin(0)
    phase = corner - (corner / step).round() * step
    return (coords + 0.5 * step * (scales / largest)[:, None] - phase) / side


def lattice_step(coords: Tensor, scales: Tensor) -> float | None:
    """Distance of neighbouring tiles of the coarsest scale of a bag, level-0 px; None where no two tiles tell it.

    Of each scale, the smallest distance along an axis between its tiles; distances that are larger by no more than
    the rounding of corners to whole pixels are averaged. The scales agree, in proportion, unless the few tiles of a
    coarse one are no neighbours: then a finer one tells.
    """
    largest = scales.max()
    found = []
    for scale in scales.unique().flip(0):
        of_scale = coords[scales == scale]
        gaps = torch.cat([of_scale[:, axis].unique().diff() for axis in (0, 1)])
        if len(gaps):
            near = gaps[gaps <= gaps.min() + 1]
            found.append(float(near.mean() * largest / scale))
    return next((step for step in found if step <= 1.05 * min(found)), None)


def draw_masked(regions: Regions, rate: float, generator: torch.Generator) -> Tensor:
    """(T,) the tokens to mask: of a region of n, round(rate n), at least 1 and at most n - 1, drawn evenly."""
    chance = torch.rand(len(regions.row), generator=generator, dtype=torch.float64).to(regions.row.device)
    order = (regions.row + chance).argsort()
    starts = regions.lengths.cumsum(0) - regions.lengths
    rank = torch.empty_like(regions.row)
    rank[order] = torch.arange(len(order), device=order.device) - starts[regions.row[order]]
    count = torch.minimum((rate * regions.lengths).round().clamp(min=1).long(), regions.lengths - 1)
    return rank < count[regions.row]


def _waves(position: Tensor) -> Tensor:
    """Sines and cosines (T, 4 waves) of positions (T, 2) from 0 to 1."""
    angle = math.pi * position[:, :, None] * torch.tensor(WAVES, dtype=position.dtype, device=position.device)
    return torch.cat([angle.sin(), angle.cos()], 2).flatten(1)
