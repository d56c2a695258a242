"""House style: colours that colour-blind readers tell apart, one type size, units on every axis."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histostudy.files import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Okabe and Ito (2008), without black and with yellow last: it is faint on white.
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
GREY, DARK, LIGHT = "#8C8C8C", "#333333", "#E6E6E6"
#: Trivial controls are grey, so that a reader sees at once what is to be beaten.
CONTROLS = {"prior": (GREY, ":"), "clinical": ("#4D4D4D", "--"), "colour": ("#A9A9A9", "-.")}
LINES = ("-", (0, (5, 1.5)), "-.")
COLUMN_IN, PAGE_IN = 3.5, 7.2
DPI = 200
#: Panels in a row of small multiples.
PER_ROW = 3
#: Models that one panel holds with their bands; more of them get a panel each.
TOGETHER = 4

RC: dict[str, Any] = {
    "font.family": "DejaVu Sans", "font.size": 8, "axes.titlesize": 8.5, "axes.labelsize": 8, "legend.fontsize": 7,
    "xtick.labelsize": 7, "ytick.labelsize": 7, "axes.linewidth": 0.7, "lines.linewidth": 1.4,
    "axes.titlelocation": "left",
    "xtick.major.width": 0.7, "ytick.major.width": 0.7, "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": DARK, "xtick.color": DARK, "ytick.color": DARK, "legend.frameon": False, "axes.axisbelow": True,
    "grid.color": LIGHT, "grid.linewidth": 0.6, "svg.hashsalt": "histostudy", "svg.fonttype": "path",
    "pdf.fonttype": 42, "figure.dpi": 100, "text.parse_math": False,
}  # fmt: skip


@contextmanager
def style() -> Iterator[None]:
    """Draw in the house style, whatever the user's matplotlibrc says."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(RC)  # type: ignore[arg-type]
        yield


def canvas(width: float, height: float) -> Figure:
    """An empty figure, inches; axes keep clear of each other."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def panels(n: int, width: float, height: float, *, per_row: int = PER_ROW, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure of `n` panels, each `width` by `height` inches, and its axes; `options` go to ``subplots``."""
    columns = min(n, per_row)
    rows = math.ceil(n / columns)
    fig = canvas(max(width * columns, COLUMN_IN), height * rows)
    axes = fig.subplots(rows, columns, squeeze=False, **options).ravel()
    for k, ax in enumerate(axes[n:], start=n):
        axes[k - columns].tick_params(labelbottom=True)  # nothing is below it now
        ax.remove()
    return fig, list(axes[:n])


def appearance(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour and line of each model, the same in every figure of a study that has the same models."""
    models = list(dict.fromkeys(names))
    out: dict[str, dict[str, Any]] = {}
    place = 0
    for name in models:
        if name in CONTROLS:
            colour, line = CONTROLS[name]
        else:
            colour = OKABE_ITO[place % len(OKABE_ITO)]
            line = LINES[place // len(OKABE_ITO) % len(LINES)]  # type: ignore[assignment]
            place += 1
        out[name] = {"color": colour, "linestyle": line}
    return out


def alone(looks: dict[str, dict[str, Any]], model: str) -> dict[str, Any]:
    """Look of the model that a panel is about: blue, which no other line of the panel is, or its own as a control."""
    return looks[model] if model in CONTROLS else {"color": OKABE_ITO[0], "linestyle": "-"}


def pale(model: str) -> dict[str, Any]:
    """Look of a model behind the one that a panel is about."""
    if model == "clinical":
        return {"color": CONTROLS["clinical"][0], "linewidth": 0.9, "linestyle": "--", "zorder": 1}
    return {"color": "#D0D0D0", "linewidth": 0.6, "zorder": 0.5}


def colours(names: Sequence[str]) -> dict[str, Any]:
    """Colour of each group; beyond seven from a perceptually even map."""
    import matplotlib

    if len(names) <= len(OKABE_ITO):
        return dict(zip(names, OKABE_ITO, strict=False))
    even = matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, len(names)))
    return dict(zip(names, even, strict=True))


def legend_below(fig: Figure, ax: Axes, *, columns: int = 1, title: str | None = None) -> None:
    """Legend of `ax` under the whole figure, where it hides nothing."""
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        fig.legend(handles, labels, loc="outside lower center", ncols=columns, title=title, title_fontsize=7)


def with_interval(estimate: float, low: float, high: float, digits: int = 2) -> str:
    """``0.94 [0.90, 0.97]``, with true minus signs; a dash where it is undefined."""
    if not np.isfinite(estimate):
        return "undefined"
    return f"{estimate:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]".replace("-", "\N{MINUS SIGN}")


def spread(values: pd.Series) -> str:
    """``240``, or ``236-240`` where the values differ."""
    values = values.dropna()
    if not len(values):
        return "unknown"
    low, high = int(values.min()), int(values.max())
    return str(high) if low == high else f"{low}\N{EN DASH}{high}"


def p_text(p: float) -> str:
    """``p = 0.03``, ``p < 0.001``; empty where undefined."""
    if not np.isfinite(p):
        return ""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}" if p < 0.1 else f"p = {p:.2f}"


def shorten(text: str, most: int = 22) -> str:
    """A label cut to `most` characters; its head, where barcodes differ, is kept longer than its tail."""
    text = str(text)
    if len(text) <= most:
        return text
    tail = (most - 1) // 4
    return text[: most - 1 - tail] + "\N{HORIZONTAL ELLIPSIS}" + text[len(text) - tail :]


def beside(ax: Axes, row: float, words: Iterable[str], at: Sequence[float], weight: str = "normal") -> None:
    """Words right of the axes at a row, each column `at` points from the edge."""
    for text, x in zip(words, at, strict=True):
        if text:
            ax.annotate(text, (1, row), xycoords=("axes fraction", "data"), xytext=(x, 0), fontsize=6.5,
                        textcoords="offset points", va="center", color=DARK, weight=weight)  # type: ignore[arg-type]  # fmt: skip


def empty(why: str) -> Figure:
    """A figure that says why there is nothing to see; a report then has no hole."""
    with style():
        fig = canvas(COLUMN_IN, 1.2)
        fig.text(0.5, 0.5, why, ha="center", va="center", color=DARK, wrap=True)
    return fig


def ordered(table: pd.DataFrame, column: str) -> list[str]:
    """Distinct values of a column in the order they come."""
    return [str(v) for v in dict.fromkeys(table[column])]


def save_figure(fig: Figure, stem: str | Path) -> list[Path]:
    """Write ``<stem>.svg``, ``.pdf`` and ``.png``, each whole or not at all, the same bytes for the same figure.

    Parameters
    ----------
    fig : Figure
    stem : str or Path
        Path without suffix.

    Returns
    -------
    list of Path
        The files written.
    """
    stem = Path(stem)
    metadata: dict[str, dict[str, Any]] = {
        "svg": {"Date": None, "Creator": "histostudy"},
        "pdf": {"CreationDate": None, "Creator": "histostudy", "Producer": None},
        "png": {"Software": None},
    }
    files = []
    with style():
        fig.draw_without_rendering()
    fig.set_layout_engine("none")  # placed once: every later drawing is the same
    for kind, about in metadata.items():
        file = stem.with_name(f"{stem.name}.{kind}")
        with style(), atomic(file) as temporary:
            fig.savefig(temporary, format=kind, dpi=DPI, metadata=about)
        files.append(file)
    return files


def estimate_row(ax: Axes, row: int, one: Any, color: str) -> None:
    """An estimate with its interval on a row of a forest, and the numbers over it at the left."""
    if np.isfinite(one.estimate):
        ax.plot([one.low, one.high], [row, row], color=color, linewidth=1.2)
        ax.plot(one.estimate, row, "o", color=color, markersize=4)
    words = with_interval(one.estimate, one.low, one.high)
    ax.annotate(words, (0, row), xycoords=("axes fraction", "data"), xytext=(2, 4), fontsize=6,
                textcoords="offset points", color=DARK, va="bottom")  # fmt: skip
