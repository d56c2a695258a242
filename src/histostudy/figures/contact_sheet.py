"""Every slide's thumbnail with its tissue outline: the first look at a cohort."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histostudy.figures import style
from histostudy.figures.registry import figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TONES = {"tissue": style.OKABE_ITO[2], "pen": style.OKABE_ITO[1]}
PER_ROW = 6
#: Thumbnails are drawn at most this wide, px: a sheet of a hundred slides stays a few megabytes.
SIDE_PX = 320
#: Largest number of slides shown.
MOST = 48


def shown_of(table: pd.DataFrame, most: int = MOST) -> pd.DataFrame:
    """Rows of the slides that a sheet shows, so that nobody reads the images of ten thousand others.

    Those left out come first, so that none of them is cut off.
    """
    bad = table["status"] != "ok"
    return pd.concat([table[bad], table[~bad]]).head(most)


@figure(
    "contact_sheet",
    table="slides",
    category="cohort",
    caption="Thumbnails with the outline of tissue (green) and pen (orange). A red frame is a slide that was "
    "left out, with its reason.",
)
def contact_sheet(
    table: pd.DataFrame,
    *,
    thumbnails: Mapping[str, np.ndarray],
    outlines: Mapping[str, Sequence[tuple[str, np.ndarray]]],
    most: int = MOST,
) -> Figure:
    """Draw a sheet of slides, those of `shown_of`.

    Parameters
    ----------
    table : DataFrame
        slide_id, status, reason, width_px0 (level-0 px; NaN where unreadable) [, n_tiles].
    thumbnails : mapping of slide_id to uint8 (H, W, 3)
        A slide may be missing.
    outlines : mapping of slide_id to sequence of (kind, (n, 2) float)
        Rings in level-0 px; kind is ``tissue`` or ``pen``.
    most : int
        Largest number of slides shown.
    """
    bad = table["status"] != "ok"
    shown = shown_of(table, most)
    columns = min(PER_ROW, max(len(shown), 1))
    rows = max(math.ceil(len(shown) / columns), 1)
    with style.style():
        fig = style.canvas(max(1.25 * columns, style.COLUMN_IN), 1.45 * rows + 0.3)
        axes = fig.subplots(rows, columns, squeeze=False).ravel()
        for ax in axes:
            ax.set_axis_off()
        for ax, one in zip(axes, shown.to_dict("records"), strict=False):
            _cell(ax, one, thumbnails.get(one["slide_id"]), outlines.get(one["slide_id"], ()))
        hidden = f", {len(shown)} shown" if len(shown) < len(table) else ""
        fig.suptitle(f"{len(table)} slides, {int(bad.sum())} left out{hidden}", fontsize=8.5, x=0.01, ha="left")
    return fig


def _cell(ax: object, one: dict, thumbnail: np.ndarray | None, rings: Sequence[tuple[str, np.ndarray]]) -> None:
    from matplotlib.axes import Axes
    from matplotlib.patches import Rectangle

    assert isinstance(ax, Axes)
    good = one["status"] == "ok"
    if thumbnail is None:
        ax.set(xlim=(0, 1), ylim=(1, 0), aspect="equal")
        ax.text(0.5, 0.5, "no image", ha="center", va="center", fontsize=6.5, color=style.GREY)
    else:
        step = max(1, math.ceil(max(thumbnail.shape[:2]) / SIDE_PX))
        height, width = thumbnail.shape[:2]
        ax.imshow(thumbnail[::step, ::step], extent=(0, width, height, 0), interpolation="antialiased")
        ax.set(xlim=(0, width), ylim=(height, 0))
        for kind, ring in rings:
            points = np.asarray(ring, float) * (width / float(one["width_px0"]))
            ax.plot(*np.vstack([points, points[:1]]).T, color=TONES.get(kind, style.OKABE_ITO[0]), linewidth=0.7)
    edge = style.LIGHT if good else "#C00000"
    ax.add_patch(
        Rectangle((0, 0), 1, 1, transform=ax.transAxes, fill=False, edgecolor=edge, linewidth=0.8 if good else 1.4)
    )
    tiles = one.get("n_tiles")
    what = (f"{int(tiles)} tiles" if tiles is not None and np.isfinite(tiles) else "ok") if good else str(one["reason"])
    title = f"{style.shorten(str(one['slide_id']), 20)}\n{style.shorten(what, 19)}"
    ax.set_title(title, fontsize=5.4, pad=2, color=style.DARK if good else "#C00000")
