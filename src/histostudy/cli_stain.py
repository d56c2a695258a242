"""The verbs about stain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

StudyFile = Annotated[Path, typer.Option("--study", help="Study file.", show_default=False)]


def add_stain_verbs(app: typer.Typer, shard_of: Callable[[str | None], tuple[int, int]]) -> None:
    """Add ``stain`` and ``audit`` to the command line; `shard_of` reads ``I/N``."""

    @app.command(hidden=True)
    def stain(
        study: StudyFile,
        shard: Annotated[str | None, typer.Option("--shard", help="Shard I of N, as I/N.", metavar="I/N")] = None,
    ) -> None:
        """Write what the stain of each slide of a shard is: vectors, strengths, densities."""
        from histostudy.verbs.stain import stain_shard

        stain_shard(study, shard_of(shard))

    @app.command()
    def audit(study: StudyFile) -> None:
        """Audit the feature space: can it tell slides and sites apart, does it hold under another stain or scanner."""
        from histostudy.verbs.stain import audit_study

        audit_study(study)
