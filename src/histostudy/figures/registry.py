"""What is known of a figure without drawing it: enough for the workflow to name its files and captions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from histostudy.registry import Registry

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Draw = Callable[..., "Figure"]


@dataclass(frozen=True)
class FigureSpec:
    """Facts of a figure.

    Attributes
    ----------
    name : str
        Its name, and the stem of its files.
    kinds : tuple of str
        Kinds of task it is drawn for; empty for figures of the cohort.
    table : str
        Table it takes: a name of `evaluation.stage.Evaluation.curves`, ``metrics``, ``comparison``, or what the
        function's docstring says.
    category : {'cohort', 'results', 'interpretation'}
        Section of the report.
    caption : str
        Under the figure; says what the marks, bands and numbers are.
    """

    name: str
    kinds: tuple[str, ...]
    table: str
    category: str
    caption: str


@dataclass(frozen=True)
class FigureEntry:
    """A figure: its facts and the function that draws it."""

    spec: FigureSpec
    draw: Draw


FIGURES: Registry[FigureEntry] = Registry("figure")


def figure(
    name: str, *, kinds: tuple[str, ...] = (), table: str, category: str, caption: str
) -> Callable[[Draw], Draw]:
    """Register the decorated function as the figure `name`; see `FigureSpec` for the rest."""

    def add(draw: Draw) -> Draw:
        FIGURES.register(name)(FigureEntry(FigureSpec(name, kinds, table, category, caption), draw))
        return draw

    return add
