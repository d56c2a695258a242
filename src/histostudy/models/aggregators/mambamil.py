"""MambaMIL: tiles mixed along their order and along strides of it (Yang, Wang and Chen, MICCAI 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from histostudy.models.batch import BagBatch
from histostudy.models.mamba import MambaAggregator, MambaOptions, Path, strided, turned
from histostudy.models.registry import AGGREGATORS, is_count, require
from histostudy.models.selective_scan import selective_scan

SCANS = {"sr": 2, "forward": 1, "bidirectional": 2}


@dataclass(frozen=True)
class MambaMILOptions(MambaOptions):
    """Options of `MambaMIL` beside those of `MambaOptions` (published width 512).

    scan : ``sr`` in order and in strides, ``forward`` in order alone (Mamba), ``bidirectional`` in order and from the
    end; rate : tiles from one to the next of a stride (5 in the published scripts, 10 where none is given).
    """

    scan: str = "sr"
    rate: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        require(isinstance(self.scan, str) and self.scan in SCANS, f"scan is one of {', '.join(SCANS)}")
        require(is_count(self.rate), "rate is a whole number from 1")


@AGGREGATORS.register("mambamil")
class MambaMIL(MambaAggregator):
    """Two Mamba layers, each with a branch in file order and one in strides of it; attention pooling.

    The result depends on the order of the tiles, which is that of the file; coordinates are not looked at.

    The published code fills a bag up to whole strides with zeros that lie inside the reordered sequence and decay the
    state; here a bag is reordered as it is. It draws all weights anew after Mamba's own start (see
    `histostudy.models.mamba.Branch`), and its way for the CPU is another method (a flipped sequence, and the first
    branch's input overwritten); neither is repeated.
    """

    Options = MambaMILOptions
    options: MambaMILOptions

    def __init__(self, dim_in: int, options: MambaMILOptions) -> None:
        super().__init__(dim_in, options, SCANS[options.scan])

    def mixed(self, tokens: BagBatch) -> Tensor:
        """Tokens after the layers."""
        scan = partial(selective_scan, offsets=tokens.offsets)
        paths = [Path(None, tokens.place, scan)]
        if self.options.scan == "sr":
            paths.append(Path(strided(tokens, self.options.rate), tokens.place, scan))
        elif self.options.scan == "bidirectional":
            paths.append(Path(turned(tokens), tokens.place, scan))
        return self.through(tokens.features, [paths] * self.options.layers)
