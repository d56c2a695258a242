"""The verb that trains the tissue network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

StudyFile = Annotated[Path, typer.Option("--study", help="Study file.", show_default=False)]


def add_tissue_verbs(app: typer.Typer) -> None:
    """Add ``train-tissue`` to the command line."""

    @app.command("train-tissue")
    def train_tissue(study: StudyFile) -> None:
        """Train the network of the tissue method unet: weights, card and measured table."""
        from histostudy.verbs.train_tissue import train_tissue_of_study

        train_tissue_of_study(study)
