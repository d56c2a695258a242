"""Where a model looked: attention over the thumbnail."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histostudy.figures import style
from histostudy.figures.registry import figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Lengths a scale bar may have, um.
BAR_UM = (50, 100, 200, 500, 1000, 2000, 5000, 10000)


@figure(
    "attention_map",
    table="tiles",
    category="interpretation",
    caption="Attention of the model over the slide, by rank among the slide's tiles: 1 is the tile it looked "
    "at most. Attention says where a model looked, not why, nor that the place decides the outcome.",
)
def attention_map(
    table: pd.DataFrame, *, thumbnail: np.ndarray, width_px0: int, slide_mpp: float, size_px0: float, title: str = ""
) -> Figure:
    """Draw the attention of one slide beside its thumbnail.

    Parameters
    ----------
    table : DataFrame
        x_px0, y_px0 (top left of each tile, level-0 px), attention.
    thumbnail : uint8 (H, W, 3)
    width_px0 : int
        Width of the slide, level-0 px.
    slide_mpp : float
        Micrometres per level-0 px.
    size_px0 : float
        Side of a tile, level-0 px.
    """
    height, width = thumbnail.shape[:2]
    scale = width / width_px0
    heat = rank_raster(table, (height, width), scale, size_px0)
    with style.style():
        wide = width >= height * 1.8  # a wide slide is better seen under its thumbnail
        across = 6.0 if wide else 3.2
        down = across * height / width
        fig = style.canvas(across + 0.7, 2 * down + 0.5) if wide else style.canvas(2 * across + 0.7, down + 0.5)
        axes = fig.subplots(2, 1) if wide else fig.subplots(1, 2)
        for ax in axes:
            ax.imshow(thumbnail, interpolation="antialiased")
            ax.set_axis_off()
        image = axes[1].imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=np.where(np.isfinite(heat), 0.7, 0.0))
        axes[0].set_title(title or "slide")
        axes[1].set_title(f"attention (n = {len(table)} tiles)")
        _scale_bar(axes[0], width, height, slide_mpp / scale)
        bar = fig.colorbar(image, ax=list(axes), shrink=0.8, aspect=25, label="rank of attention (1: most)")
        bar.outline.set_visible(False)  # type: ignore[operator]
    return fig


def rank_raster(table: pd.DataFrame, shape: tuple[int, int], scale: float, size_px0: float) -> np.ndarray:
    """Rank of attention (0 to 1) painted on the thumbnail's grid, NaN between tiles, shape `shape`.

    Overlapping tiles are averaged. `scale` is thumbnail px a level-0 px.
    """
    ranks = ((table["attention"].rank() - 0.5) / len(table)).to_numpy()
    total, count = np.zeros(shape), np.zeros(shape)
    x0, y0 = (np.floor(table[c].to_numpy(float) * scale).astype(int) for c in ("x_px0", "y_px0"))
    x1, y1 = (np.ceil((table[c].to_numpy(float) + size_px0) * scale).astype(int) for c in ("x_px0", "y_px0"))
    for rank, left, right, top, bottom in zip(ranks, x0, x1, y0, y1, strict=True):
        total[top:bottom, left:right] += rank
        count[top:bottom, left:right] += 1
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _scale_bar(ax: object, width: int, height: int, mpp: float) -> None:
    from matplotlib.axes import Axes

    assert isinstance(ax, Axes)
    fitting = [um for um in BAR_UM if um / mpp <= 0.3 * width] or [BAR_UM[0]]
    um = fitting[-1]
    left, low = 0.04 * width, 0.96 * height
    ax.plot([left, left + um / mpp], [low, low], color="black", linewidth=2.5, solid_capstyle="butt")
    text = f"{um / 1000:g} mm" if um >= 1000 else f"{um} \N{MICRO SIGN}m"
    ax.annotate(text, (left + um / mpp / 2, low), xytext=(0, 3), textcoords="offset points", ha="center", fontsize=7,
                bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.8})  # fmt: skip
