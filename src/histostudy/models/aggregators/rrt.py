"""RRT: tiles are embedded anew by attention in and across regions (Tang et al., R2T-MIL, CVPR 2024)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from histostudy.models.attention import AttentionAggregator, Pooled
from histostudy.models.batch import BagBatch, segment_softmax, segment_sum
from histostudy.models.layers import GatedAttention, full_precision, relu_layers
from histostudy.models.registry import AGGREGATORS, is_count, is_share, require
from histostudy.models.squares import bags_by_side

#: Bags above this many tiles have twice the regions along an axis.
LARGE_BAG = 100_000
#: Most numbers of an attention matrix at a time, unless one bag has more.
NUMBERS = 1 << 25
AXES = ("queries", "keys")


@dataclass(frozen=True)
class RRTOptions:
    """Options of `RRT` (in brackets the published values where they differ).

    hidden : width of the tokens, a multiple of `heads` (512); heads : of both attentions; regions : along each axis of
    the square; least_side : tiles along a region at least, where the square is small (1, which leaves bags of up to 64
    tiles without any attention inside a region); epeg : length of the positional convolution, odd; epeg_axis : it
    runs over ``queries``, as published, or ``keys``; representatives : of a region, k; shortcut : adds the embedding to
    what becomes of it; attention : width of the gated attention (128); dropout : of the embedding; attention_dropout :
    of what attention gives.
    """

    hidden: int = 128
    heads: int = 8
    regions: int = 8
    least_side: int = 4
    epeg: int = 15
    epeg_axis: str = "queries"
    representatives: int = 3
    shortcut: bool = False
    attention: int = 64
    dropout: float = 0.25
    attention_dropout: float = 0.1

    def __post_init__(self) -> None:
        for name in ("hidden", "heads", "regions", "least_side", "representatives", "attention"):
            require(is_count(getattr(self, name)), f"{name} is a whole number from 1")
        require(self.hidden % self.heads == 0, "hidden is a multiple of heads")
        require(is_count(self.epeg) and self.epeg % 2 == 1, "epeg is an odd number from 1")
        require(self.epeg_axis in AXES, f"epeg_axis is one of {', '.join(AXES)}")
        require(isinstance(self.shortcut, bool), "shortcut is true or false")
        for name in ("dropout", "attention_dropout"):
            require(is_share(getattr(self, name)), f"{name} is from 0 up to 1")


class MaskedAttention(nn.Module):
    """Attention of several heads among the real tokens of short sequences.

    With `epeg`, a convolution of the logits along the queries or the keys, one kernel a head, is added to them before
    the softmax (EPEG; its bias cannot change a softmax and is left out).

    Parameters
    ----------
    width, heads : int
        Of the tokens, and number of heads.
    epeg : int
        Length of the kernels; 0 for none.
    axis : str
        ``queries`` or ``keys``.
    dropout : float
        Of the output.
    """

    def __init__(self, width: int, heads: int, epeg: int = 0, axis: str = "queries", dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(width, 3 * width)
        self.out = nn.Sequential(nn.Linear(width, width), nn.Dropout(dropout))
        self.position: nn.Conv2d | None = None
        if epeg:
            kernel = (epeg, 1) if axis == "queries" else (1, epeg)
            padding = (kernel[0] // 2, kernel[1] // 2)
            self.position = nn.Conv2d(heads, heads, kernel, padding=padding, groups=heads, bias=False)

    def forward(self, tokens: Tensor, real: Tensor) -> Tensor:
        """(S, n, width) tokens, of which (S, n) are real, to (S, n, width); what others get means nothing."""
        parts = full_precision(self.project(tokens)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = parts
        with torch.autocast(tokens.device.type, enabled=False):
            logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
            if self.position is not None:
                pairs = real[:, None, :, None] & real[:, None, None, :]
                logits = logits + self.position(torch.where(pairs, logits, 0.0))
            # a sequence of no real token may attend to anything: nobody reads it
            hidden = ~real & real.any(1, keepdim=True)
            mixed = logits.masked_fill(hidden[:, None, None, :], -torch.inf).softmax(-1) @ value
        return self.out(mixed.transpose(1, 2).flatten(2))


class CrossRegion(nn.Module):
    """CR-MSA: k tokens stand for each region, attend to those of other regions, and hand back what they learned.

    The logits of a tile are l = x Phi (k of them). Region token j is the mean of x weighed by the softmax of l_j over
    the region; each j attends across regions; a tile gets back sum_j token_j m_j softmax_j(l), where m_j is l_j scaled
    to 0 to 1 over the region. A region of one tile gets nothing.

    Parameters
    ----------
    width, heads : int
        Of the tokens, and number of heads.
    representatives : int
        k.
    dropout : float
        Of the attention's output.
    """

    def __init__(self, width: int, heads: int, representatives: int, dropout: float) -> None:
        super().__init__()
        self.logits = nn.Linear(width, representatives, bias=False)
        self.attention = MaskedAttention(width, heads, dropout=dropout)

    def forward(self, tokens: Tensor, real: Tensor) -> Tensor:
        """(G, R, P, width) tiles of regions, of which (G, R, P) are real, to the same shape."""
        logits, shown = full_precision(self.logits(tokens)), real[..., None]
        filled = real.any(2)
        with torch.autocast(tokens.device.type, enabled=False):
            gone = ~shown & filled[:, :, None, None]
            combine = logits.masked_fill(gone, -torch.inf).softmax(2)
            low = torch.where(shown, logits, torch.inf).amin(2, keepdim=True)
            high = torch.where(shown, logits, -torch.inf).amax(2, keepdim=True)
            scaled = torch.where(shown, (logits - low) / (high - low + 1e-8), 0.0)
            regions = torch.einsum("grpk,grpd->gkrd", combine, full_precision(tokens))
        count, k, sites, width = regions.shape
        mixed = self.attention(regions.reshape(count * k, sites, width), filled.repeat_interleave(k, 0))
        back = scaled * logits.softmax(3)
        return torch.einsum("gkrd,grpk->grpd", mixed.reshape(count, k, sites, width).to(back.dtype), back)


@AGGREGATORS.register("rrt")
class RRT(AttentionAggregator):
    """x = x + R-MSA(LN(x)), x = x + CR-MSA(LN(x)), LayerNorm; then gated attention (`GatedAttention`).

    The tiles lie in their order on a square, which is cut into `regions` times `regions` regions: so the result depends
    on the order of tiles, and coordinates are not used. R-MSA is attention inside each region with EPEG
    (`MaskedAttention`), CR-MSA attention across them (`CrossRegion`). The published code fills regions with zeros
    that take part in attention and in the scaling of CR-MSA; here only tiles do.
    """

    Options = RRTOptions

    def __init__(self, dim_in: int, options: RRTOptions) -> None:
        super().__init__(dim_in, options)
        self.width = self.dim_out = width = options.hidden
        dropout = options.attention_dropout
        self.embed = relu_layers(dim_in, width, dropout=options.dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.within = MaskedAttention(width, options.heads, options.epeg, options.epeg_axis, dropout)
        self.across = CrossRegion(width, options.heads, options.representatives, dropout)
        self.attention = GatedAttention(width, options.attention)

    def pool(self, tokens: BagBatch) -> Pooled:
        """Embed anew and pool; a bag's result depends on its own tokens alone."""
        rows, values = [], []
        for index, real in self._regions(tokens):
            x = full_precision(tokens.features[index])
            x = self._regional(x, real)
            rows.append(index[real])
            values.append(x[real])
        features = torch.cat(values)[torch.cat(rows).argsort()]
        if self.options.shortcut:
            features = features + tokens.features
        features = self.norms[2](features)
        maps = segment_softmax(self.attention(features), tokens)
        return Pooled(segment_sum(maps * features, tokens), maps)

    def _regional(self, x: Tensor, real: Tensor) -> Tensor:
        """(G, R, P, width) tiles of regions, of which (G, R, P) are real, embedded anew."""
        inside = self.within(self.norms[0](x).flatten(0, 1), real.flatten(0, 1))
        x = x + inside.unflatten(0, x.shape[:2])
        return x + self.across(self.norms[1](x), real)

    def _regions(self, tokens: BagBatch) -> Iterator[tuple[Tensor, Tensor]]:
        """Groups of bags: rows (G, R, P) of the tiles of their regions, and which of them there are."""
        for side, bags in bags_by_side(tokens.lengths):
            index = self.layout(side).to(bags.device)
            index = index[index[:, 0] < tokens.lengths[bags].max()]  # the last regions may hold nothing
            numbers = self.options.heads * index.numel() * index.shape[1]
            for some in bags.split(max(1, NUMBERS // numbers)):
                real = index < tokens.lengths[some, None, None]
                yield torch.where(real, tokens.offsets[some, None, None] + index, 0), real

    def layout(self, side: int) -> Tensor:
        """(R, P) places, in the order of tiles, of the regions of a square that holds side * side tiles."""
        most = self.options.regions * (2 if side * side > LARGE_BAG else 1)
        across = min(most, max(1, side // self.options.least_side))
        size = -(-side // across)
        places = torch.arange((across * size) ** 2).reshape(across, size, across, size)
        return places.transpose(1, 2).reshape(across * across, size * size)
