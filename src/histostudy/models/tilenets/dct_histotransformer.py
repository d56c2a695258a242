"""DCT-HistoTransformer: attention over low frequencies beside mobile convolutions (arXiv 2410.19166); our reading.

No code was published. As the abstract and summaries have it, each stage has two paths, one of attention over the low
frequencies of its maps, one of inverted residual convolutions, and joins them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from histostudy.errors import ModelError
from histostudy.models.layers import full_precision
from histostudy.models.registry import is_count, is_share, require
from histostudy.models.tilenets.base import TILENETS, TileNet
from histostudy.models.tilenets.dct import dct2, idct2

PATHS = ("both", "dct", "conv")
FUSIONS = ("concat", "add")
#: Half waves over the frequencies of the features of a frequency's place.
WAVES = (1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True)
class DCTHistoTransformerOptions:
    """Options of `DCTHistoTransformer`.

    widths : of the stages, each of which halves the map; stem : side of the squares of pixels that are embedded first
    (1: single pixels); keep : share of the frequencies kept along each axis, up to 1; heads : of the attention;
    expand : widening inside the convolutions; squeeze : weigh their channels by the map's mean (squeeze and
    excitation); fusion : ``concat`` and a 1x1 convolution, or ``add``; paths : ``both``, or one alone, to see what
    each sees; dropout : before the last layer.
    """

    widths: Sequence[int] = (32, 64, 128)
    stem: int = 2
    keep: float = 0.25
    heads: int = 4
    expand: int = 4
    squeeze: bool = False
    fusion: str = "concat"
    paths: str = "both"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        widths = self.widths
        given = isinstance(widths, list | tuple) and len(widths) > 0 and all(map(is_count, widths))
        require(given, "widths is a list of whole numbers from 1")
        for name in ("stem", "heads", "expand"):
            require(is_count(getattr(self, name)), f"{name} is a whole number from 1")
        require(all(width % self.heads == 0 for width in widths), "heads divide each of widths")
        whole = self.keep == 1 and not isinstance(self.keep, bool)
        require(whole or (is_share(self.keep) and self.keep > 0), "keep is above 0 and at most 1")
        require(isinstance(self.squeeze, bool), "squeeze is true or false")
        require(self.fusion in FUSIONS, f"fusion is one of {', '.join(FUSIONS)}")
        require(self.paths in PATHS, f"paths is one of {', '.join(PATHS)}")
        require(is_share(self.dropout), "dropout is from 0 up to 1")


class DCTAttention(nn.Module):
    """Self-attention whose tokens are the low frequencies of a map, over its channels.

    The map is transformed channel by channel, the lowest `keep` of its frequencies along each axis are tokens,
    attention is added to them, and they are transformed back to a map of half the side: all other frequencies are
    zero. Where more frequencies are kept than the half map has, the highest are dropped on the way back.

    Parameters
    ----------
    width : int
        Channels.
    heads : int
        Of the attention.
    keep : float
        Share of the frequencies kept along each axis, rounded up.
    """

    def __init__(self, width: int, heads: int, keep: float) -> None:
        super().__init__()
        self.heads, self.keep = heads, keep
        self.norm = nn.LayerNorm(width)
        self.place = nn.Linear(4 * len(WAVES), width, bias=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H / 2, W / 2), halves rounded up."""
        batch, channels, height, width = maps.shape
        rows, columns = math.ceil(self.keep * height), math.ceil(self.keep * width)
        tokens = dct2(maps, (rows, columns)).flatten(2).transpose(1, 2)
        place = self.place(_waves(rows, columns, height, width).to(self.place.weight))
        query, key, value = self.qkv(self.norm(tokens) + place).chunk(3, 2)
        heads = [part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (query, key, value)]
        scores = full_precision(heads[0] @ heads[1].transpose(2, 3)) / math.sqrt(channels / self.heads)
        mixed = scores.softmax(3).to(value.dtype) @ heads[2]
        tokens = tokens + self.out(mixed.transpose(1, 2).flatten(2))
        half = math.ceil(height / 2), math.ceil(width / 2)
        spectrum = tokens.transpose(1, 2).unflatten(2, (rows, columns))[:, :, : half[0], : half[1]]
        # the same values on fewer pixels: orthonormal coefficients shrink by the root of their number
        return idct2(spectrum, half) * math.sqrt(half[0] * half[1] / (height * width))


class MobileConv(nn.Module):
    """Inverted residual convolution of stride 2: widen by 1x1, 3x3 of each channel, narrow by 1x1 (MobileNetV2).

    Parameters
    ----------
    width : int
        Channels.
    expand : int
        How many times wider inside.
    squeeze : bool
        Weigh the inner channels by a function of their means (squeeze and excitation).
    """

    def __init__(self, width: int, expand: int, squeeze: bool) -> None:
        super().__init__()
        inner = width * expand
        self.widen = nn.Sequential(nn.Conv2d(width, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.SiLU())
        self.across = nn.Sequential(
            nn.Conv2d(inner, inner, 3, 2, 1, groups=inner, bias=False), nn.BatchNorm2d(inner), nn.SiLU()
        )
        self.gate = None
        if squeeze:
            less = max(1, width // 4)
            self.gate = nn.Sequential(
                nn.AdaptiveAvgPool2d(1), nn.Conv2d(inner, less, 1), nn.SiLU(), nn.Conv2d(less, inner, 1), nn.Sigmoid()
            )
        self.narrow = nn.Sequential(nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H / 2, W / 2), halves rounded up."""
        inner = self.across(self.widen(maps))
        if self.gate is not None:
            inner = inner * self.gate(inner)
        return self.narrow(inner)


class Stage(nn.Module):
    """A 1x1 convolution to the stage's width, then both paths, joined, normalised and activated.

    Nothing but linear maps of single pixels lies before the low frequencies are taken, so that in the first stage
    the path of attention cannot see what high frequencies would leave in the low ones after an activation.
    """

    def __init__(self, before: int, width: int, options: DCTHistoTransformerOptions) -> None:
        super().__init__()
        self.enter = nn.Conv2d(before, width, 1)
        self.dct = DCTAttention(width, options.heads, options.keep) if options.paths != "conv" else None
        self.conv = MobileConv(width, options.expand, options.squeeze) if options.paths != "dct" else None
        joined = options.paths == "both" and options.fusion == "concat"
        self.join = nn.Conv2d(2 * width if joined else width, width, 1, bias=False)
        self.joined = joined
        self.leave = nn.Sequential(nn.BatchNorm2d(width), nn.SiLU())

    def forward(self, maps: Tensor) -> Tensor:
        """(B, before, H, W) to (B, width, H / 2, W / 2), halves rounded up."""
        maps = self.enter(maps)
        found = [path(maps) for path in (self.dct, self.conv) if path is not None]
        both = torch.cat(found, 1) if self.joined else sum(found[1:], found[0])
        return self.leave(self.join(both))


@TILENETS.register("dct_histotransformer")
class DCTHistoTransformer(TileNet):
    """Squares of pixels embedded, stages of two paths, the mean over the map, a linear layer.

    Any tile size will do, and one network may see several: places of frequencies are features, not a table. Both
    paths end at stride 2: the convolutions by their own, the attention by transforming back to fewer pixels. With
    `keep` k of each axis there are k^2 of the tokens of full attention, and k^4 of its products. The joining
    convolution is there with ``add`` too.

    In training, batch normalisation makes tiles of a batch depend on each other; in evaluation they do not. A batch of
    one tile whose last map has one pixel cannot be trained on.
    """

    Options = DCTHistoTransformerOptions

    def __init__(self, classes: int, options: DCTHistoTransformerOptions) -> None:
        super().__init__(classes, options)
        widths = tuple(options.widths)
        self.stem = nn.Conv2d(3, widths[0], options.stem, options.stem)
        befores = (widths[0], *widths[:-1])
        self.stages = nn.Sequential(*(Stage(a, b, options) for a, b in zip(befores, widths, strict=True)))
        self.last = nn.Sequential(nn.Dropout(options.dropout), nn.Linear(widths[-1], classes))

    def forward(self, tiles: Tensor) -> Tensor:
        """Tiles (B, 3, H, W), standardised, to logits (B, classes) in float32 or better.

        Raises
        ------
        ModelError
            If a tile is smaller than the squares that are embedded.
        """
        stem = self.options.stem
        if min(tiles.shape[2:]) < stem:
            size = " x ".join(map(str, tiles.shape[2:]))
            raise ModelError(f"dct_histotransformer: a tile of {size} pixels", todo=f"give at least {stem}")
        return full_precision(self.last(self.stages(self.stem(tiles)).mean((2, 3))))


def _waves(rows: int, columns: int, height: int, width: int) -> Tensor:
    """(rows columns, 4 waves) sines and cosines of each frequency as a share of the highest, along both axes."""
    waves = math.pi * torch.tensor(WAVES)
    along = [torch.arange(n)[:, None] / size * waves for n, size in ((rows, height), (columns, width))]
    down, right = (torch.cat([angle.sin(), angle.cos()], 1) for angle in along)
    return torch.cat([down.repeat_interleave(columns, 0), right.repeat(rows, 1)], 1)
