"""The command line: one verb a stage, each usable by hand and by the workflow."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from histostudy import __version__, log
from histostudy.cli_cohort import StudyFile, cohort_app
from histostudy.cli_encoders import pretrain
from histostudy.cli_features import encoder_app, features_app
from histostudy.cli_release import release_app
from histostudy.cli_stain import add_stain_verbs
from histostudy.cli_tissue import add_tissue_verbs
from histostudy.errors import BadSlideError, ConfigError, StudyError

app = typer.Typer(
    name="histostudy",
    help="Computational-pathology studies, from whole slides and a clinical table to a report.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(cohort_app, name="cohort")
app.add_typer(release_app)
app.add_typer(features_app, name="features")
app.add_typer(encoder_app, name="encoder")
app.command()(pretrain)

MaybeStudy = Annotated[Path | None, typer.Option("--study", help="Study file: work on a shard of its slides.")]
Shard = Annotated[str | None, typer.Option("--shard", help="Shard I of N, as I/N.", metavar="I/N")]
SlideArg = Annotated[Path | None, typer.Argument(help="A slide, to work on it alone.", show_default=False)]
Out = Annotated[Path | None, typer.Option("--output", "-o", help="File to write.", show_default=False)]
SlideMpp = Annotated[float | None, typer.Option("--slide-mpp", help="The slide's um/px, if it has none or is wrong.")]
TileMpp = Annotated[float, typer.Option("--mpp", help="um/px of the tiles.")]
TileSize = Annotated[int, typer.Option("--size", help="Side of a tile, px.")]
Method = Annotated[str, typer.Option(help="Tissue method.")]


@app.callback()
def _root(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    log.setup(verbose)
    if version:
        typer.echo(f"histostudy {__version__}")
        raise typer.Exit


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run(
    context: typer.Context,
    study: Annotated[Path, typer.Argument(help="Study file.")],
    cores: Annotated[int, typer.Option(help="CPU cores to use.")] = 2,
) -> None:
    """Run a study: snakemake with this study file; further options go to snakemake."""
    from histostudy.verbs.workflow import run_workflow

    raise typer.Exit(run_workflow(study, cores, context.args))


@app.command()
def doctor(
    study: Annotated[Path | None, typer.Argument(help="Study file to check.", show_default=False)] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail where the machine differs from the lock.")] = False,
) -> None:
    """Check this machine against the lock and, if given, a study file and its tables; say what to fix."""
    from histostudy.verbs.doctor import examine

    raise typer.Exit(examine(study, strict=strict))


@app.command(hidden=True)
def check(study: StudyFile) -> None:
    """Check what a study file names: models, options, tissue method, encoder and its scale, features."""
    from histostudy.layout import Layout
    from histostudy.studyfile import load_study
    from histostudy.verbs.check import check_study

    loaded = load_study(study)
    check_study(loaded, Layout(loaded))


@app.command()
def simulate(
    study: MaybeStudy = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder, without a study.")] = None,
    patients: Annotated[int, typer.Option(help="Patients, without a study.")] = 48,
    seed: Annotated[int, typer.Option(help="Seed, without a study.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes.")] = 1,
) -> None:
    """Draw a cohort of slides with planted, known effects."""
    from histostudy.simulate.cohort import simulate_cohort
    from histostudy.simulate.features import simulate_features
    from histostudy.simulate_keys import Simulate
    from histostudy.studyfile import checked

    if study is not None:
        from histostudy.layout import Layout
        from histostudy.studyfile import load_study

        loaded = load_study(study)
        if loaded.cohort.simulate is None:
            raise ConfigError("the study has no cohort.simulate", where=study, todo="add it, or leave --study out")
        if loaded.cohort.simulate.features is not None:
            simulate_features(loaded.cohort.simulate, loaded.seed, Layout(loaded).source)
        else:
            simulate_cohort(loaded.cohort.simulate, loaded.seed, Layout(loaded).source, workers)
    elif output is not None:
        simulate_cohort(checked(Simulate, patients=patients), seed, output, workers)
    else:
        raise ConfigError("nowhere to draw", todo="give --study FILE or --output FOLDER")


@app.command()
def slides(study: StudyFile, shard: Shard = None) -> None:
    """Open the slides of a shard: scale, size, brightfield, thumbnail."""
    from histostudy.verbs.slides import inspect_shard

    inspect_shard(study, _shard(shard))


@app.command()
def tissue(
    slide: SlideArg = None,
    output: Out = None,
    method: Method = "otsu",
    slide_mpp: SlideMpp = None,
    study: MaybeStudy = None,
    shard: Shard = None,
) -> None:
    """Outline the tissue: of one slide as GeoJSON, or of a study's shard."""
    if study is not None:
        from histostudy.verbs.slides import tissue_shard

        tissue_shard(study, _shard(shard))
        return
    from histostudy.verbs.single import tissue_of_slide

    tissue_of_slide(_one(slide), _out(output), method, slide_mpp)


@app.command()
def tiles(
    slide: SlideArg = None,
    output: Out = None,
    mpp: TileMpp = 0.5,
    size: TileSize = 224,
    overlap: Annotated[int, typer.Option(help="Overlap, px.")] = 0,
    min_tissue: Annotated[float, typer.Option(help="Smallest share of tissue.")] = 0.5,
    method: Method = "otsu",
    slide_mpp: SlideMpp = None,
    study: MaybeStudy = None,
    shard: Shard = None,
) -> None:
    """Lay tiles over the tissue: of one slide as HDF5, or of a study's shard."""
    if study is not None:
        from histostudy.verbs.slides import tiles_shard

        tiles_shard(study, _shard(shard))
        return
    from histostudy.study import Tiles
    from histostudy.studyfile import checked
    from histostudy.verbs.single import tiles_of_slide

    wanted = checked(Tiles, mpp=mpp, size=size, overlap=overlap, min_tissue=min_tissue)
    tiles_of_slide(_one(slide), _out(output), wanted, method, slide_mpp)


@app.command()
def embed(
    slide: SlideArg = None,
    output: Out = None,
    encoder: Annotated[str, typer.Option(help="Encoder.")] = "builtin",
    checkpoint: Annotated[Path | None, typer.Option(help="Local weights.", show_default=False)] = None,
    mpp: TileMpp = 0.5,
    size: TileSize = 224,
    method: Method = "otsu",
    slide_mpp: SlideMpp = None,
    allow_mpp_mismatch: Annotated[bool, typer.Option(help="Run the encoder off its scale.")] = False,
    study: MaybeStudy = None,
    shard: Shard = None,
    threads: Annotated[int, typer.Option(help="Threads of a shard: all but one read tiles ahead.")] = 1,
) -> None:
    """Encode the tiles: of one slide as HDF5, or of a study's shard."""
    if study is not None:
        from histostudy.verbs.slides import embed_shard

        embed_shard(study, _shard(shard), threads)
        return
    from histostudy.study import Features, Tiles
    from histostudy.studyfile import checked
    from histostudy.verbs.single import embed_slide

    features = checked(Features, encoder=encoder, checkpoint=checkpoint, allow_mpp_mismatch=allow_mpp_mismatch)
    embed_slide(_one(slide), _out(output), checked(Tiles, mpp=mpp, size=size), features, method, slide_mpp)


@app.command(hidden=True)
def pairs(study: StudyFile, name: Annotated[str, typer.Option("--set", help="Which.")], shard: Shard = None) -> None:
    """Encode drawn tiles of a shard and changed versions of them: what the recipe histaug learns from."""
    from histostudy.verbs.pairs import pairs_shard

    pairs_shard(study, name, _shard(shard))


@app.command("embed-tiles", hidden=True)
def embed_tiles(study: StudyFile, task: Annotated[str, typer.Option(help="Task of labelled tiles.")]) -> None:
    """Encode the labelled tiles of a task."""
    from histostudy.verbs.labelled import embed_labelled_of_study

    embed_labelled_of_study(study, task)


@app.command(hidden=True)
def index(
    study: StudyFile,
    what: Annotated[str, typer.Argument(help="slides or features.")],
    shards: Annotated[int, typer.Option(help="Number of shards.")] = 1,
) -> None:
    """Join the shards' indexes: the slide table of the cohort, or the index of a study's features."""
    from histostudy.verbs import slides as verbs

    if what not in ("slides", "features"):
        raise ConfigError(f"no index of {what!r}", todo="slides or features")
    (verbs.join_slides if what == "slides" else verbs.join_features)(study, shards)


@app.command()
def split(study: StudyFile) -> None:
    """Draw or read the folds and audit them."""
    from histostudy.verbs.tables import split_study

    split_study(study)


@app.command()
def bags(study: StudyFile) -> None:
    """Write the features of a study's patients side by side, once for all trainings."""
    from histostudy.verbs.bags import make_bags

    make_bags(study)


@app.command()
def train(
    study: StudyFile,
    task: Annotated[str, typer.Option(help="Task of the study.")],
    model: Annotated[str, typer.Option(help="Model of the study, or a control.")],
) -> None:
    """Train the runs of a model on a task, all folds in one process."""
    from histostudy.verbs.models import train_model_of_study

    train_model_of_study(study, task, model)


@app.command()
def evaluate(study: StudyFile, task: Annotated[str, typer.Option(help="Task of the study.")]) -> None:
    """Score the predictions of a task: metrics with intervals, paired comparisons, curves."""
    from histostudy.verbs.models import evaluate_task_of_study

    evaluate_task_of_study(study, task)


@app.command()
def learn(study: StudyFile, model: Annotated[str, typer.Option(help="Model with `continual`.")]) -> None:
    """Train a model on the study's sequence of tasks, one after the other, all folds in one process."""
    from histostudy.verbs.sequence import learn_sequence

    learn_sequence(study, model)


@app.command("evaluate-sequence")
def evaluate_sequence(study: StudyFile) -> None:
    """Score the models that learned the sequence: accuracy, forgetting, backward transfer, with intervals."""
    from histostudy.verbs.sequence import evaluate_sequence_of_study

    evaluate_sequence_of_study(study)


@app.command()
def transfer(study: StudyFile, model: Annotated[str, typer.Option(help="Model.")]) -> None:
    """Try a model's runs on each survival task of the study on all the others."""
    from histostudy.verbs.transfer import transfer_model

    transfer_model(study, model)


@app.command()
def overview(study: StudyFile) -> None:
    """Set all models beside each other over all tasks: estimates, differences, ranks, what training took."""
    from histostudy.verbs.overview import overview_of_study

    overview_of_study(study)


@app.command()
def figures(study: StudyFile) -> None:
    """Draw the figures of a study."""
    from histostudy.verbs.figures import draw_figures

    draw_figures(study)


@app.command()
def report(study: StudyFile) -> None:
    """Write the study's page."""
    from histostudy.verbs.report import write_report

    write_report(study)


@app.command(hidden=True)
def schema() -> None:
    """Print the JSON schema of the study file."""
    import json

    from histostudy.studyfile import json_schema

    typer.echo(json.dumps(json_schema(), indent=1))


def _shard(text: str | None) -> tuple[int, int]:
    """`I/N` as two numbers; nothing is the only shard."""
    if text is None:
        return 0, 1
    number, _, total = text.partition("/")
    if not (number.isdigit() and total.isdigit() and int(number) < int(total)):
        raise ConfigError(f"--shard {text!r} is not I/N", todo="for example --shard 0/4")
    return int(number), int(total)


def _one(slide: Path | None) -> Path:
    if slide is None:
        raise ConfigError("no slide and no --study", todo="give one of them")
    if not slide.exists():
        raise ConfigError("no such slide", where=slide, todo="check the path")
    return slide


def _out(output: Path | None) -> Path:
    if output is None:
        raise ConfigError("nowhere to write", todo="give --output FILE")
    return output


add_stain_verbs(app, _shard)
add_tissue_verbs(app)


def main() -> None:
    """Run the command line: what a user can put right is one line and exit code 2."""
    try:
        app()
    except StudyError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except BadSlideError as error:
        typer.echo(f"error: this slide cannot be used: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        logging.getLogger(__name__).warning("stopped")
        sys.exit(130)


if __name__ == "__main__":
    main()
