"""The verbs that keep versions of a study: ``histostudy release``, ``restore``, ``diff`` and ``dvc``."""

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


@release_app.command()
def diff(
    study: StudyName,
    v1: Annotated[str, typer.Argument(help="Such as v1, or workspace for the results in this checkout.")],
    v2: Annotated[str, typer.Argument(help="The other; changes are this one minus the first.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The page.", show_default="<study>_<v1>_<v2>.html")
    ] = None,
) -> None:
    """Compare two versions of a study on one page: parameters, data, metrics, figures, code."""
    from histostudy.verbs.diff import compare_versions

    typer.echo(compare_versions(study, v1, v2, out=out))


@release_app.command(hidden=True)
def dvc() -> None:
    """Print dvc.yaml: a stage for each cohort's features and one for each study of this checkout."""
    from histostudy.provenance.pipeline import pipeline_text

    typer.echo(pipeline_text(Path()), nl=False)


@release_app.command(hidden=True)
def envs() -> None:
    """Write envs/: the conda environment and the containers, from pyproject.toml and the lock of this checkout."""
    from histostudy.provenance.environment import write_environment_files

    for path in write_environment_files(Path()):
        typer.echo(path)


@release_app.command(hidden=True)
def summary(study: Annotated[Path, typer.Option("--study", help="Study file.")]) -> None:
    """Put the metrics of a study into one small file, for git and `dvc metrics`."""
    from histostudy.verbs.summary import summarise_metrics

    summarise_metrics(study)
