"""The verbs that keep versions of a study: ``histostudy release``, ``restore`` and ``dvc``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

release_app = typer.Typer()
StudyName = Annotated[str, typer.Argument(help="Name of a study of this checkout.")]
Version = Annotated[str, typer.Argument(help="Such as v1 or 1.2.0.")]


@release_app.command()
def release(study: StudyName, version: Version) -> None:
    """Pin a version of a study: data, results and models with DVC, the rest with git."""
    from histostudy.verbs.release import release as pin

    typer.echo(pin(study, version))


@release_app.command()
def restore(
    study: StudyName,
    version: Version,
    into: Annotated[Path | None, typer.Option(help="A new folder for it.", show_default="this checkout")] = None,
) -> None:
    """Bring a version of a study back and prove that nothing of it is left to do."""
    from histostudy.verbs.release import restore as bring_back

    typer.echo(bring_back(study, version, into=into))


@release_app.command(hidden=True)
def dvc() -> None:
    """Print dvc.yaml: a stage for each cohort's features and one for each study of this checkout."""
    from histostudy.provenance.pipeline import pipeline_text

    typer.echo(pipeline_text(Path()), nl=False)


@release_app.command(hidden=True)
def summary(study: Annotated[Path, typer.Option("--study", help="Study file.")]) -> None:
    """Put the metrics of a study into one small file, for git and `dvc metrics`."""
    from histostudy.verbs.summary import summarise_metrics

    summarise_metrics(study)
