"""The attention-driven downsampler of PackMIL (Tang et al., arXiv 2509.20923): in training tiles are joined."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from histostudy.models.batch import BagBatch, segment_softmax
from histostudy.models.front import FRONTS, Front
from histostudy.models.layers import full_precision

CHANNELS = ("pick", "subset")


@FRONTS.register("downsampler")
class Downsampler(Front):
    """x <- x + a x, a the softmax of w' tanh(V x) over the bag; e = GELU(x W + b); groups of tiles to one e; e W' + b'.

    In training the tiles of a bag of T > `min_tiles` x `ratio` are grouped at random, `ratio` each, the last group
    perhaps fewer: ceil(T / ratio) tokens. In evaluation mode, and in smaller bags, every tile is a group of its own and
    all tiles keep their order. Nothing else differs between the two, so that the weights are those of single tiles.

    What a group's D numbers are:

    ``pick`` : each channel is that of one of the group's tiles, drawn for every token and channel, so that a token is
    on average the mean of its tiles, and channel k is always a channel k. Recommended here; not the published choice.
    ``subset`` : as published, the tiles' channels side by side, channel by channel (all tiles' first channel first), of
    which one sorted random subset of D is drawn a forward pass, the same for all tokens. A position then holds now one
    channel, now its neighbour, which it never does in evaluation mode. A last group that lacks tiles is
    filled with zeros before the embedding (published: the zeros are shuffled among all groups), one of a single tile is
    that tile.

    Tiles of several scales are grouped within a scale. A token lies where one of its tiles lies: grouping is blind to
    positions, as published. Results depend on torch's global generator, in training alone.

    Parameters
    ----------
    dim : int
        Width D of the tiles and of the tokens. The layers hold about 2 D^2 weights.
    ratio : int
        Tiles a token; from 2 (4 and 3 in the paper).
    min_tiles : int
        Bags of at most `ratio` times as many tiles are not grouped.
    channels : str
        ``pick`` or ``subset``.
    attention : int
        Width of V (128 in the paper).
    """

    def __init__(
        self, dim: int, ratio: int = 4, min_tiles: int = 8, channels: str = "pick", attention: int = 128
    ) -> None:
        super().__init__(dim)
        self.ratio, self.min_tiles, self.channels = ratio, min_tiles, channels
        self.attention = nn.Sequential(nn.Linear(dim, attention), nn.Tanh(), nn.Linear(attention, 1))
        self.embed = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, batch: BagBatch) -> BagBatch:
        """The same bags, of tokens."""
        tiles = batch.features
        weights = segment_softmax(full_precision(self.attention(tiles)), batch)
        embedded = gelu(self.embed(tiles + weights.to(tiles.dtype) * tiles))
        if not self.training or not bool((batch.lengths > self.min_tiles * self.ratio).any()):
            return batch.with_features(self.out(embedded))
        members, offsets = self.groups(batch)
        first = members[:, 0]
        return BagBatch(
            self.out(self.joined(embedded, members)),
            offsets,
            None if batch.coords is None else batch.coords[first],
            batch.modalities,
            None if batch.scales is None else batch.scales[first],
        )

    def groups(self, batch: BagBatch) -> tuple[Tensor, Tensor]:
        """Group the tiles of each bag.

        Returns
        -------
        tuple of Tensor
            (G, ratio) the tiles of each token, -1 after the last of them, and (B + 1,) the tokens of each bag.
        """
        large = (batch.lengths > self.min_tiles * self.ratio)[batch.segments]
        # what is grouped: tiles of one bag and one scale
        scale = torch.zeros_like(batch.segments)
        if batch.scales is not None:
            scale = batch.scales.unique(return_inverse=True)[1] * large
        unit = batch.segments * (scale.max() + 1) + scale
        # small bags keep their order, large ones are shuffled
        key = torch.where(large, torch.rand(len(unit), device=unit.device), batch.place.float())
        order = key.argsort(stable=True)
        order = order[unit[order].argsort(stable=True)]
        _, unit, count = unit[order].unique_consecutive(return_inverse=True, return_counts=True)
        rank = torch.arange(len(order), device=order.device) - (count.cumsum(0) - count)[unit]
        slot = torch.where(large[order], rank % self.ratio, 0)
        token = (slot == 0).long().cumsum(0) - 1
        tokens = int(token[-1]) + 1
        members = order.new_full((tokens, self.ratio), -1)
        members[token, slot] = order
        per_bag = torch.bincount(batch.segments[members[:, 0]], minlength=len(batch))
        return members, torch.cat([per_bag.new_zeros(1), per_bag.cumsum(0)])

    def joined(self, embedded: Tensor, members: Tensor) -> Tensor:
        """(T, D) embedded tiles to (G, D): what the group of each token is."""
        there = members >= 0
        if self.channels == "pick":
            draw = torch.rand(len(members), self.dim, device=embedded.device)
            slot = (draw * there.sum(1, keepdim=True)).long()  # rand is below 1, so the slot is one that is there
            return embedded.gather(0, members.gather(1, slot))
        pad = gelu(self.embed(embedded.new_zeros(1, self.dim)))
        padded = torch.cat([embedded, pad.to(embedded.dtype)])
        kept = torch.randperm(self.dim * self.ratio, device=embedded.device)[: self.dim].sort().values
        rows = torch.where(there, members, len(embedded))[:, kept % self.ratio]
        subset = padded[rows, (kept // self.ratio)[None]]
        alone = there.sum(1, keepdim=True) == 1
        return torch.where(alone, embedded[members[:, 0]], subset)
