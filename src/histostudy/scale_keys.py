"""Keys of the study file about the scales that tiles are read at: `scales` and `jpeg_scale` of its tiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from histostudy.tasks import Keys


class ScaleKeys(Keys):
    """Further scales of the same places, and how the JPEG of a slide is brought to scale."""

    scales: list[float] = Field(
        default_factory=list,
        description="Further um/px of the same places, whole multiples of `mpp` and of each other: each tile's parents "
        "on lattices with the same corner, for aggregators that see several magnifications.",
    )
    jpeg_scale: Literal["exact", "fast"] = Field(
        "exact",
        description="fast: libjpeg decodes at a half, a quarter or an eighth where tiles are that much coarser than "
        "the slide; other pixels than the area mean of a full decode, in less time.",
    )


def multiple(mpp: float, coarser: float) -> int:
    """How many tiles of `mpp` lie along one of `coarser`.

    Raises
    ------
    ValueError
        If that is not a whole number from 2.
    """
    k = round(coarser / mpp)
    if k < 2 or abs(coarser / mpp - k) > 1e-6 * k:
        raise ValueError(
            f"tiles.scales: {coarser:g} um/px is {coarser / mpp:.4g} times {mpp:g}; lattices are aligned only where "
            f"each scale is a whole multiple, from 2, of mpp and of the scale before it ({2 * mpp:g}, {4 * mpp:g})"
        )
    return k


def check_scales(mpp: float, scales: Sequence[float], spots: bool) -> None:
    """Refuse scales whose lattices do not fit into each other.

    Raises
    ------
    ValueError
        What is wrong.
    """
    for finer, coarser in zip([mpp, *scales], scales, strict=False):
        multiple(finer, coarser)
    if scales and spots:
        raise ValueError(
            "tiles.scales: tiles around spots lie on no lattice, and have no parents; leave one of them out"
        )


def check_pixels(scales: Sequence[float], pixels: bool) -> None:
    """Refuse further scales of a study whose features are not made of its slides' pixels.

    Raises
    ------
    ValueError
        What is wrong.
    """
    if scales and not pixels:
        raise ValueError("tiles.scales: precomputed or drawn features have no tiles to read; leave scales out")


def scale_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of tiles without `jpeg_scale`, which moves no tile, and without `scales` where there are none."""
    left_out = {"jpeg_scale"} if settings.get("scales") else {"jpeg_scale", "scales"}
    return {key: value for key, value in settings.items() if key not in left_out}
