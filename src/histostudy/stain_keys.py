"""Keys of the study file about stain: normalisation (`features.stain`) and the audit (`audit: stain`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from histostudy.tasks import Keys


class Stain(Keys):
    """Stain normalisation of every tile before it is encoded; stain vectors are fitted a slide."""

    method: Literal["macenko", "reinhard", "vahadane"] = Field(description="How the stain of a slide is described.")
    target: Path | None = Field(
        None,
        description="Image or slide whose stain all are given (default: published constants; nothing is fitted to "
        "the cohort).",
    )


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


#: Audits of a study; one may stand alone: ``audit: stain``.
Audits = Annotated[
    list[Literal["stain"]],
    BeforeValidator(_as_list, json_schema_input_type=Literal["stain"] | list[Literal["stain"]]),
]


def check_stain(audits: Sequence[str], stain: Stain | None, has_pixels: bool, drawn: bool) -> None:
    """Refuse what needs the pixels of tiles where there are none.

    Parameters
    ----------
    audits : sequence of str
        The study's.
    stain : Stain or None
        Of its features.
    has_pixels : bool
        Whether it has slides that an encoder of ours reads.
    drawn : bool
        Whether its features are drawn.

    Raises
    ------
    ValueError
        Saying which key is wrong.
    """
    if has_pixels and not drawn:
        return
    what = "drawn" if drawn else "precomputed"
    why = f"{what} features have no pixels: give slides and features.encoder"
    if stain is not None:
        raise ValueError(f"features.stain: {why}")
    if "stain" in audits:
        raise ValueError(f"audit: stain: {why}")
