"""Networks of tiles, one file each; importing this package registers them all."""

from __future__ import annotations

from histostudy.models.tilenets import dct_histotransformer
from histostudy.models.tilenets.base import TILENETS, TileNet, build_tilenet, multiply_adds

__all__ = ["TILENETS", "TileNet", "build_tilenet", "dct_histotransformer", "multiply_adds"]
