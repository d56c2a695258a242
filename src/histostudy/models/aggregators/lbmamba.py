"""LBMambaMIL: Mamba with a backward scan in short windows beside the forward one (LBMamba, TMLR 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from histostudy.models.batch import BagBatch
from histostudy.models.mamba import MambaAggregator, MambaOptions, Path, turned
from histostudy.models.registry import AGGREGATORS, is_count, require
from histostudy.models.selective_scan import selective_scan


@dataclass(frozen=True)
class LBMambaOptions(MambaOptions):
    """Options of `LBMamba` beside those of `MambaOptions` (published width 512).

    window : tiles within which a tile sees those after it.
    """

    window: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        require(is_count(self.window), "window is a whole number from 1")


@AGGREGATORS.register("lbmamba")
class LBMamba(MambaAggregator):
    """Our reading of LBMambaMIL, of which no code was published: MambaMIL with the locally bidirectional scan.

    Each layer has one branch, whose states are those of the scan over all tiles before plus those of a scan back over
    the tiles after, up to the end of a window. Every second layer reads the bag from its end, so that two layers see
    all of it. The result depends on the order of the tiles, which is that of the file; coordinates are not looked at.

    The published kernel's windows are 4, 8 or 16 long by the length of the sequence, so that one operator is three;
    here the window is an option, counted from each bag's first tile on the way.
    """

    Options = LBMambaOptions
    options: LBMambaOptions

    def mixed(self, tokens: BagBatch) -> Tensor:
        """Tokens after the layers."""
        scan = partial(selective_scan, offsets=tokens.offsets, window=self.options.window)
        there, back = Path(None, tokens.place, scan), Path(turned(tokens), tokens.place, scan)
        return self.through(tokens.features, [[back if layer % 2 else there] for layer in range(self.options.layers)])
