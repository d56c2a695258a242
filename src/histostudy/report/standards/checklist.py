"""A reporting checklist as data, and what it looks like filled: by the run, by the authors, or by both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
#: Who has to write an item, as a reader sees it.
STATES = {"run": "from the run", "both": "from the run, authors to add", "authors": "for the authors"}
FOR_AUTHORS = "For the authors"


@dataclass(frozen=True)
class Item:
    """An item of a checklist.

    Parameters
    ----------
    number, section, topic : str
    asks : str
        What it wants told, in our own words.
    known : str
        What the run knows of it; empty for nothing.
    todo : str
        What the authors must add; empty for nothing.
    """

    number: str
    section: str
    topic: str
    asks: str
    known: str = ""
    todo: str = ""

    @property
    def state(self) -> str:
        """``run``, ``both`` or ``authors``."""
        return "authors" if not self.known else "both" if self.todo else "run"

    @property
    def text(self) -> str:
        """What stands in the checklist."""
        todo = f"{FOR_AUTHORS}: {self.todo or 'the run knows nothing of it'}."
        return f"{self.known} {todo}" if self.state == "both" else self.known or todo


@dataclass(frozen=True)
class Checklist:
    """A filled checklist.

    Parameters
    ----------
    name, title, citation : str
        The standard, what it is for, and its key among the references.
    items : tuple of Item
    """

    name: str
    title: str
    citation: str
    items: tuple[Item, ...]

    def count(self, state: str) -> int:
        """Number of items in a state."""
        return sum(item.state == state for item in self.items)

    @property
    def summary(self) -> str:
        """`52 items: 20 from the run, ...`."""
        parts = ", ".join(f"{self.count(state)} {words}" for state, words in STATES.items())
        return f"{len(self.items)} items: {parts}"


@cache
def _read(name: str) -> Mapping[str, Any]:
    import yaml

    return yaml.safe_load((HERE / f"{name}.yaml").read_text(encoding="utf-8"))


def fill(name: str, fillers: Mapping[str, Callable[[Any], str]], facts: Any) -> Checklist:
    """Fill the checklist of ``<name>.yaml``.

    Parameters
    ----------
    name : str
        ``tripod_ai`` or ``remark``.
    fillers : mapping of str to callable
        What the run knows, by the name that an item gives under `fill`.
    facts : object
        Handed to the fillers.

    Raises
    ------
    KeyError
        If an item names a filler that is not there.
    """
    spec = _read(name)
    items = tuple(
        Item(
            str(row["item"]), row["section"], row["topic"], row["asks"],
            " ".join(fillers[row["fill"]](facts).split()) if "fill" in row else "", row.get("todo", ""),
        )
        for row in spec["items"]
    )  # fmt: skip
    return Checklist(spec["name"], spec["title"], spec["citation"], items)


def as_markdown(checklist: Checklist, study: str) -> str:
    """The checklist as a Markdown page, one table a section."""
    lines = [
        f"# {checklist.name}: {study}", "",
        f"{checklist.title}. A draft, filled from the run where the run knows; {checklist.summary}. What an item asks "
        "is in our own words: check a manuscript against the published statement.", "",
    ]  # fmt: skip
    section = ""
    for item in checklist.items:
        if item.section != section:
            section = item.section
            lines += ["", f"## {section}", "", "| Item | Topic | Asks | Reported | Who |", "|---|---|---|---|---|"]
        cells = [item.number, item.topic, item.asks, item.text, STATES[item.state]]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines).replace("\n\n\n", "\n\n") + "\n"
