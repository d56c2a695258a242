"""One gene over one section: measured and predicted, spot by spot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histostudy.errors import StudyError
from histostudy.figures import style
from histostudy.figures.registry import figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Lengths a scale bar may have, um.
BAR_UM = (50, 100, 200, 500, 1000, 2000, 5000, 10000)
#: Diameter of a spot, in distances to the next spot.
SHARE = 0.85


@figure(
    "spatial_gene",
    table="spatial",
    category="interpretation",
    caption="One gene over one section, a disc a spot, measured beside predicted. Colour is the spot's rank within its "
    "own map (1 is the spot with the most): predictions span less than measurements, ranks make the pattern "
    "comparable. Spots of equal value share their mean rank. r: Pearson's correlation over the spots of this section.",
)
def spatial_gene(table: pd.DataFrame, *, slide_mpp: float) -> Figure:
    """Draw the first gene of the first slide of `curves["spatial"]`.

    Parameters
    ----------
    table : DataFrame
        model, slide_id, x_px0, y_px0 (middle of a spot), gene, truth, prediction.
    slide_mpp : float
        Of that slide: micrometres per level-0 px.

    Raises
    ------
    StudyError
        If `slide_mpp` is not positive.
    """
    if not len(table):
        return style.empty("No spots were predicted.")
    if not slide_mpp > 0:
        raise StudyError(f"slide_mpp is {slide_mpp}", where="spatial_gene", todo="give the slide's um per px")
    for column in ("slide_id", "gene"):
        table = table[table[column] == table[column].iloc[0]]
    models = style.ordered(table, "model")
    measured = table[table["model"] == models[0]]
    xy = measured[["x_px0", "y_px0"]].to_numpy(float) * slide_mpp
    diameter = SHARE * _pitch(xy)
    wide, high = np.ptp(xy, axis=0) + 3 * diameter
    with style.style():
        across = 2.4
        down = float(np.clip(across * high / wide, 1.2, 4.5))
        fig, axes = style.panels(len(models) + 1, across, down + 0.55, sharex=True, sharey=True)
        image = _map(axes[0], xy, measured["truth"].to_numpy(float), diameter)
        axes[0].set_title(f"measured\nn = {len(measured)} spots")
        _scale_bar(axes[0], xy, diameter)
        for ax, model in zip(axes[1:], models, strict=True):
            part = table[table["model"] == model]
            at = part[["x_px0", "y_px0"]].to_numpy(float) * slide_mpp
            image = _map(ax, at, part["prediction"].to_numpy(float), diameter)
            ax.set_title(f"{style.shorten(model)}\nr = {_r(part)}")
        head = f"{table['gene'].iloc[0]}, {style.shorten(table['slide_id'].iloc[0], 30)}"
        fig.suptitle(head, fontsize=8.5, x=0.01, ha="left")
        bar = fig.colorbar(
            image,
            ax=axes,
            shrink=0.8,
            aspect=25 if len(axes) <= style.PER_ROW else 60,
            label="rank of expression (1: most)",
        )
        bar.outline.set_visible(False)  # type: ignore[operator]
    return fig


def ranks(values: np.ndarray) -> np.ndarray:
    """Rank of each value from 0 to 1, ties sharing their mean rank; NaN stays NaN."""
    place = pd.Series(values).rank()
    return ((place - 0.5) / place.notna().sum()).to_numpy(float)


def _map(ax: Axes, xy: np.ndarray, values: np.ndarray, diameter: float):  # type: ignore[no-untyped-def]
    """Discs of the true size, y downwards as on the slide."""
    from matplotlib.collections import EllipseCollection

    size = np.full(len(xy), diameter)
    discs = EllipseCollection(size, size, np.zeros(len(xy)), units="xy", offsets=xy, offset_transform=ax.transData)
    discs.set(array=ranks(values), cmap="viridis", clim=(0, 1), linewidth=0)
    ax.add_collection(discs)
    (left, top), (right, bottom) = xy.min(0) - 1.2 * diameter, xy.max(0) + 1.2 * diameter
    below = 0.1 * (bottom - top)  # room for the scale bar
    ax.set(xlim=(left, right), ylim=(bottom + below, top), aspect="equal")
    ax.set_axis_off()
    return discs


def _pitch(xy: np.ndarray) -> float:
    """Typical distance to the next spot, um."""
    from scipy.spatial import cKDTree

    if len(xy) < 2:
        return 100.0
    nearest = cKDTree(xy).query(xy, k=2)[0][:, 1]
    return float(np.median(nearest)) or 100.0


def _r(part: pd.DataFrame) -> str:
    values = part[["truth", "prediction"]].to_numpy(float)
    if len(part) < 3 or not (np.ptp(values, axis=0) > 0).all():
        return "undefined"
    return f"{np.corrcoef(values.T)[0, 1]:.2f}".replace("-", "\N{MINUS SIGN}")


def _scale_bar(ax: Axes, xy: np.ndarray, diameter: float) -> None:
    left, right = ax.get_xlim()
    um = ([b for b in BAR_UM if b <= 0.35 * (right - left)] or [BAR_UM[0]])[-1]
    bottom, top = ax.get_ylim()
    x, y = left + 0.03 * (right - left), bottom - 0.02 * (bottom - top)
    ax.plot([x, x + um], [y, y], color="black", linewidth=2.5, solid_capstyle="butt")
    text = f"{um / 1000:g} mm" if um >= 1000 else f"{um} \N{MICRO SIGN}m"
    ax.annotate(text, (x + um, y), xytext=(4, 0), textcoords="offset points", ha="left", va="center", fontsize=7)
