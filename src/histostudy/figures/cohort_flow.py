"""The flow of slides and patients into the study, with a reason for each left out."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from histostudy.figures import style
from histostudy.figures.registry import figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Inches: the figure, a box of the main line, a line of text.
WIDTH, MAIN, LINE = 6.6, 2.3, 0.165


@figure(
    "cohort_flow",
    table="cohort_flow.json",
    category="cohort",
    caption="Slides and patients left after each step of the study, why the others were left out, and the "
    "patients of each task.",
)
def cohort_flow(flow: Mapping[str, Any]) -> Figure:
    """Draw ``{"steps": [{step, slides, patients, excluded: [{reason, slides, patients}]}], "tasks": {name: {patients,
    events, excluded}}}``, as `cohort.flow` writes it: counts of a step are those left after its exclusions.
    """
    steps = flow["steps"]
    asides = [_aside(step.get("excluded", [])) for step in steps]
    tasks = [_task(name, about) for name, about in sorted(flow.get("tasks", {}).items())]
    gaps = [0.0, *(max(0.3, LINE * len(words) + 0.3) if words else 0.3 for words in asides[1:])]
    box = 2 * LINE + 0.14
    below = (0.3 + LINE * (len(tasks) + 1) + 0.14) if tasks else 0.0
    total = sum(gaps) + box * len(steps) + below + 0.2
    with style.style():
        fig = style.canvas(WIDTH, total)
        fig.set_layout_engine("none")
        ax = fig.add_axes((0, 0, 1, 1))
        ax.set(xlim=(0, WIDTH), ylim=(total, 0))
        ax.set_axis_off()
        top, middle = 0.1, 0.1 + MAIN / 2
        for step, gap, words in zip(steps, gaps, asides, strict=True):
            if gap:
                ax.annotate("", (middle, top + gap), (middle, top), arrowprops=_ARROW)
                if words:
                    height = LINE * len(words) + 0.12
                    ax.annotate("", (MAIN + 0.4, top + gap / 2), (middle, top + gap / 2), arrowprops=_ARROW)
                    _box(ax, MAIN + 0.4, top + (gap - height) / 2, WIDTH - MAIN - 0.5, height, words, style.GREY, False)
            top += gap
            _box(ax, 0.1, top, MAIN, box, [str(step["step"]), _counts(step)], style.OKABE_ITO[0])
            top += box
        if tasks:
            ax.annotate("", (middle, top + 0.3), (middle, top), arrowprops=_ARROW)
            words = ["patients with the outcome", *tasks]
            _box(ax, 0.1, top + 0.3, WIDTH - 0.2, below - 0.3, words, style.OKABE_ITO[2], False)
    return fig


def _aside(excluded: list[Mapping[str, Any]]) -> list[str]:
    """Lines of the box of those left out, wrapped."""
    out = []
    for entry in excluded:
        out += textwrap.wrap(f"{entry['reason']}: {_counts(entry)}", 60, subsequent_indent="    ")
    return out


def _task(name: str, about: Mapping[str, Any]) -> str:
    line = f"{name}: {_counts(about)}"
    if about.get("events") is not None:
        line += f", {about['events']:,} events"
    left_out = [f"{e['patients']:,} {e['reason']}" for e in about.get("excluded", [])]
    return style.shorten(line + (f" (left out: {'; '.join(left_out)})" if left_out else ""), 100)


_ARROW = {"arrowstyle": "-|>", "color": style.DARK, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0}


def _counts(entry: Mapping[str, Any]) -> str:
    parts = []
    for key in ("slides", "patients"):
        number = entry.get(key)
        if number is not None:
            parts.append(f"{number:,} {key[:-1] if number == 1 else key}")
    return ", ".join(parts)


def _box(
    ax: Any, x: float, y: float, width: float, height: float, lines: list[str], edge: str, centred: bool = True
) -> None:
    from matplotlib.patches import FancyBboxPatch

    shape = FancyBboxPatch(
        (x, y), width, height, boxstyle="round,pad=0,rounding_size=0.05", facecolor="white", edgecolor=edge, linewidth=1
    )
    ax.add_patch(shape)
    start = y + height / 2 - LINE * (len(lines) - 1) / 2
    for k, line in enumerate(lines):
        weight = "bold" if k == 0 and edge != style.GREY else "normal"
        at = x + width / 2 if centred else x + 0.1
        ax.text(
            at, start + LINE * k, line, ha="center" if centred else "left", va="center", fontsize=7.2, weight=weight
        )
