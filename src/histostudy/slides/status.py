"""Why a slide is left out: one code a reason, and what each says to a reader."""

from __future__ import annotations

OK = "ok"
FAILED = "failed"
EXCLUDED = "excluded"

#: One line a reason; `detail` in the index says what was found in the one slide.
REASONS: dict[str, str] = {
    "missing": "the slide table names no file for this slide",
    "unreadable": "the file is damaged, cut short or of a format that cannot be read",
    "fluorescence": "the image is dark with bright signal: fluorescence, not a brightfield stain",
    "no_mpp": "the file does not say its scale; give `mpp` in the slide table",
    "implausible_mpp": "the scale in the file cannot be a microscope's; give `mpp` in the slide table",
    "coarser_than_tiles": "the slide was scanned at a coarser scale than the tiles asked for",
    "no_tissue": "no tissue was found",
    "no_tiles": "no tile lies wholly in the slide with enough tissue",
}


def explain(reason: str) -> str:
    """One line about a reason code; the code itself where it is not known."""
    return REASONS.get(reason, reason)
