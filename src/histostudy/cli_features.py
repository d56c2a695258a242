"""The verbs that exchange features and encoders with other tools: ``histostudy features``, ``histostudy encoder``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

features_app = typer.Typer(help="Exchange features and coordinates with other tools.", no_args_is_help=True)


@features_app.command("convert")
def features_convert(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="A file, or a folder of another tool.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="Folder that gets the new tree.")],
    to: Annotated[str, typer.Option(help="trident, clam, stamp, atlaspatch or plain.", show_default=False)],
    layout: Annotated[str, typer.Option("--from", help="What SRC is: auto, or one of the same.")] = "auto",
    encoder: Annotated[str | None, typer.Option(help="Which features, where SRC holds several.")] = None,
    mpp: Annotated[float | None, typer.Option(help="um/px at level 0 of all slides.", min=1e-3)] = None,
    slides: Annotated[Path | None, typer.Option(help="CSV with slide_id and mpp, for slides that differ.")] = None,
    allow_mpp_mismatch: Annotated[
        bool, typer.Option("--allow-mpp-mismatch", help="Believe --mpp where a file's magnification says otherwise.")
    ] = False,
) -> None:
    """Write the features or coordinates of SRC as another tool lays them out; say what is lost.

    A slide that cannot be converted is a line at the end and exit code 2; the others are written.
    """
    from histostudy.errors import ConfigError
    from histostudy.features.convert import convert_folder, summary

    if mpp is not None and slides is not None:
        raise ConfigError("--mpp and --slides", todo="give one of them")
    scale = mpp if slides is None else _scales(slides)
    done = convert_folder(
        source, target, to, layout=layout, encoder=encoder, mpp=scale, allow=allow_mpp_mismatch
    )  # fmt: skip
    for line in summary(done):
        typer.echo(line)
    if any(converted.error for converted in done):
        raise typer.Exit(2)


def _scales(path: Path) -> dict[str, float]:
    """um/px by slide of a table; slides without one are left out."""
    import pandas as pd

    from histostudy.errors import TableError, at

    try:
        table = pd.read_csv(path, dtype={"slide_id": str})
    except (OSError, ValueError) as bad:
        raise TableError(f"cannot be read ({str(bad).splitlines()[0]})", where=path, todo="give a CSV") from bad
    for column in ("slide_id", "mpp"):
        if column not in table:
            raise TableError(f"no column {column}", where=path, todo="give slide_id and mpp")
    numbers = pd.to_numeric(table["mpp"], errors="coerce")
    wrong = (numbers.isna() & table["mpp"].notna()) | (numbers <= 0)
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        raise TableError(
            f"mpp is {table['mpp'].iloc[row]!r}", where=at(path, row=row + 2), todo="give um/px, such as 0.25"
        )
    return dict(zip(table["slide_id"][numbers.notna()], numbers[numbers.notna()].astype(float), strict=True))


encoder_app = typer.Typer(help="Encoders outside of a study.", no_args_is_help=True)


@encoder_app.command("export")
def encoder_export(
    name: Annotated[str, typer.Argument(help="Encoder, as in a study file: uni, timm:<id>?cls+mean@<revision>.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write: <encoder>.onnx.")],
    checkpoint: Annotated[Path | None, typer.Option(help="Local weights.", show_default=False)] = None,
) -> None:
    """Write an encoder as ONNX, for batches of any size, and check its vectors against torch's."""
    from histostudy.encoders.onnx import OPSET, TOLERANCE, export_onnx
    from histostudy.encoders.registry import load_encoder
    from histostudy.encoders.vision import VisionEncoder
    from histostudy.errors import EncoderError
    from histostudy.study import Features
    from histostudy.studyfile import checked

    features = checked(Features, encoder=name, checkpoint=checkpoint, allow_mpp_mismatch=True)
    encoder = load_encoder(features, 0.5)
    if not isinstance(encoder, VisionEncoder):
        raise EncoderError(f"{name} has no network", todo="name an encoder with weights")
    apart = export_onnx(encoder, output)
    size = encoder.transform.input_px
    typer.echo(
        f"{output}: image (batch, 3, {size}, {size}), RGB in 0 to 1 -> vectors (batch, {encoder.dim}); opset {OPSET}; "
        f"differs from torch by {apart:.1e} of the largest number (at most {TOLERANCE:g} is let through)"
    )
