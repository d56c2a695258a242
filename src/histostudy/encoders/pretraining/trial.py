"""A network tried on nothing before it is trained: what cannot be is one line before any work starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from histostudy.encoders.pretraining.students import Student, build_student
from histostudy.encoders.pretraining.views import sides
from histostudy.errors import EncoderError

if TYPE_CHECKING:
    from histostudy.pretrain_keys import Pretrain


def crop_sides(settings: Pretrain, tile_px: int, student: Student) -> tuple[int, int]:
    """Sides of a global and a local crop, px, whole patches of the network.

    Raises
    ------
    EncoderError
        If they are not.
    """
    found = sides(settings.views, tile_px, student.patch)
    for name, side in zip(("size", "local_size"), found, strict=True):
        if side % student.patch:
            raise EncoderError(
                f"a crop of {side} px is not whole patches of {student.patch} px",
                todo=f"correct pretrain.views.{name} or pretrain.options",
            )
    return found


def try_student(settings: Pretrain, tile_px: int) -> None:
    """Build the network that the settings name, and give it two empty crops of each size.

    Parameters
    ----------
    settings : histostudy.pretrain_keys.Pretrain
    tile_px : int
        Side of a tile.

    Raises
    ------
    ConfigError
        If the network is not known.
    EncoderError
        If it cannot be built so, or takes no crops of these sizes.
    """
    student = build_student(settings.network, settings.views.size or tile_px, settings.options).eval()
    for side in crop_sides(settings, tile_px, student):
        try:
            with torch.no_grad():
                student.forward_tokens(torch.zeros(2, 3, side, side))
        except (RuntimeError, AssertionError, ValueError, TypeError, AttributeError) as bad:
            reason = " ".join(str(bad).split())[:160]
            raise EncoderError(
                f"network {settings.network} takes no crops of {side} px ({reason})",
                todo="correct pretrain.network, options or views",
            ) from bad
