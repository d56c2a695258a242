"""Read and write the package's own BibTeX: braced values, one field a line, no macros.

What the package ships is written in this plain form, so that no run of a study depends on a parser of all of BibTeX;
a test reads the same file with `bibtexparser` where that is installed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

REFERENCES = Path(__file__).parent / "standards" / "references.bib"
#: Fields that name where something was published, by kind of entry.
VENUES = ("journal", "booktitle", "publisher", "howpublished")
_HEAD = re.compile(r"@(\w+)\{([^,\s]+),\s*\n")
_FIELD = re.compile(r"\s*(\w+) = \{")


@dataclass(frozen=True)
class Entry:
    """One reference.

    Parameters
    ----------
    kind : str
        ``article``, ``inproceedings``, ``book`` or ``misc``.
    key : str
    fields : mapping of str to str
        In the order of the file, with their inner braces.
    """

    kind: str
    key: str
    fields: Mapping[str, str]

    def get(self, name: str) -> str:
        """A field's text without its inner braces; empty where there is none."""
        return self.fields.get(name, "").replace("{", "").replace("}", "")


def parse(text: str) -> dict[str, Entry]:
    """Entries by key, in their order.

    Raises
    ------
    ValueError
        For a key that is there twice, or an entry that is not in the plain form.
    """
    entries: dict[str, Entry] = {}
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    at = 0
    while match := _HEAD.search(lines, at):
        if lines[at : match.start()].strip():
            raise ValueError(f"not in the plain form before {match[2]}: {lines[at : match.start()].strip()[:60]!r}")
        fields, at = _fields(lines, match.end(), match[2])
        if match[2] in entries:
            raise ValueError(f"{match[2]} is there twice")
        entries[match[2]] = Entry(match[1].lower(), match[2], fields)
    if lines[at:].strip():
        raise ValueError(f"not in the plain form: {lines[at:].strip()[:60]!r}")
    return entries


def _fields(text: str, at: int, key: str) -> tuple[dict[str, str], int]:
    """The fields of an entry from `at` on, and where it ends."""
    fields: dict[str, str] = {}
    while match := _FIELD.match(text, at):
        depth, at = 1, match.end()
        start = at
        while depth and at < len(text):
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            at += 1
        if depth or match[1] in fields or text[at : at + 1] != ",":
            raise ValueError(f"{key}: field {match[1]} is not closed, not followed by a comma, or there twice")
        fields[match[1].lower()] = text[start : at - 1]
        at += 1
    end = re.compile(r"\s*\}").match(text, at)
    if end is None:
        raise ValueError(f"{key}: not in the plain form")
    return fields, end.end()


def render(entries: Iterable[Entry]) -> str:
    """BibTeX of entries; the same text for the same entries."""
    blocks = []
    for entry in entries:
        lines = [f"  {name} = {{{value}}}," for name, value in entry.fields.items()]
        blocks.append("\n".join([f"@{entry.kind}{{{entry.key},", *lines, "}"]))
    return "\n\n".join(blocks) + "\n" if blocks else ""


@cache
def references() -> dict[str, Entry]:
    """All references of the package, by key."""
    return parse(REFERENCES.read_text(encoding="utf-8"))


def cite(entry: Entry) -> str:
    """An entry as a line of a list: `Ilse et al. Attention-based .... ICML, 2018. arXiv:1802.04712.`"""
    where = next((entry.get(name) for name in VENUES if entry.get(name)), "")
    volume = entry.get("volume") + _pages(entry)
    parts = [_authors(entry), entry.get("title"), ", ".join(p for p in (where, volume, entry.get("year")) if p)]
    if entry.get("doi"):
        parts.append(f"doi:{entry.get('doi')}")
    elif entry.get("eprint"):
        parts.append(f"arXiv:{entry.get('eprint')}")
    if entry.get("note"):
        parts.append(entry.get("note"))
    return " ".join(part if part.endswith((".", "?")) else f"{part}." for part in parts)


def _pages(entry: Entry) -> str:
    pages = entry.get("pages").replace("--", "\N{EN DASH}")
    return f":{pages}" if pages and entry.get("volume") else pages


def _authors(entry: Entry) -> str:
    """`Ilse`, `Xu and Chen`, `Lu et al.`; organisations as they are."""
    names = entry.fields.get("author", "").split(" and ")
    short = [n.strip("{}") if n.startswith("{") else n.split(",")[0] for n in names if n != "others"]
    if len(names) > 2 or "others" in names:
        return f"{short[0]} et al."
    return " and ".join(short)
