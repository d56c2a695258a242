"""Micrometres per pixel of a slide: which source is believed, and which value cannot be true."""

from __future__ import annotations

import math
from typing import NamedTuple

from histostudy.errors import BadSlideError, TableError

#: Below 0.05 um a pixel is a quarter of what any light microscope resolves (0.2 um).
MPP_MIN = 0.05
#: The resolutions that image software writes unasked (72, 96, 100, 300 dots an inch, 10 a centimetre) are
#: 353, 265, 254, 85 and 1000 um a pixel, all above 50; the coarsest levels that scanners store as a file of
#: their own (25 to 32 um) are below it. Such a level opens, and is refused where tiles are finer.
MPP_MAX = 50.0
#: x and y of a scanner differ by less than a percent; more is a wrong tag, and one mpp would be a lie.
ANISOTROPY_MAX = 0.05


class Scale(NamedTuple):
    """Micrometres per pixel at level 0 and where it comes from: ``table``, ``metadata`` or ``objective``."""

    mpp: float
    source: str


def plausible(mpp: float) -> bool:
    """Whether a microscope slide can have this scale (um per pixel)."""
    return math.isfinite(mpp) and MPP_MIN <= mpp <= MPP_MAX


def mean_mpp(xy: tuple[float, float] | None) -> float | None:
    """Mean of the x and y scale in the file, um per pixel; None where the file has none."""
    return None if xy is None else (xy[0] + xy[1]) / 2


def resolve_mpp(table: float | None, metadata: tuple[float, float] | None, objective_power: float | None) -> Scale:
    """Choose the scale of a slide: the table's, else the file's, else 10 / objective power.

    Parameters
    ----------
    table : float, optional
        From the slide table; NaN counts as not given.
    metadata : (float, float), optional
        x and y scale of the file, um per pixel. A wrong value is refused, never replaced by a guess.
    objective_power : float, optional
        Used only where the file says no scale at all (20x is taken as 0.5 um per pixel).

    Raises
    ------
    TableError
        If the table's value cannot be true.
    BadSlideError
        ``no_mpp`` or ``implausible_mpp``.
    """
    if table is not None and not math.isnan(table):
        if not plausible(table):
            raise TableError(
                f"mpp {table:g} is not a microscope's scale",
                todo=f"give micrometres per pixel at full resolution, {MPP_MIN:g} to {MPP_MAX:g}",
            )
        return Scale(float(table), "table")
    rescue = "give `mpp` in the slide table"
    if metadata is not None:
        x, y = metadata
        if not plausible(x) or not plausible(y):
            raise BadSlideError("implausible_mpp", f"the file says {x:g} um per pixel; {rescue}")
        if abs(x - y) > ANISOTROPY_MAX * max(x, y):
            raise BadSlideError("implausible_mpp", f"the file says {x:g} by {y:g} um per pixel; {rescue}")
        return Scale((x + y) / 2, "metadata")
    if objective_power is not None and objective_power > 0 and plausible(10 / objective_power):
        return Scale(10 / objective_power, "objective")
    raise BadSlideError("no_mpp", f"the file says neither mpp nor objective power; {rescue}")
