"""From the name in a study file to a loaded encoder."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histostudy.encoders.base import MPP_TOLERANCE, Encoder, EncoderFacts
from histostudy.encoders.known import ENCODERS
from histostudy.encoders.runtime import Runtime
from histostudy.errors import EncoderError

if TYPE_CHECKING:
    from histostudy.encoders.checkpoint import Weights
    from histostudy.study import Features

__all__ = ["ENCODERS", "check_scale", "encoder_identity", "facts_of", "load_encoder", "slug"]

#: What becomes one vector of a transformer's tokens.
VARIANTS = ("cls", "mean", "cls+mean", "pool")
_GENERIC = re.compile(r"(timm|transformers):([\w.\-]+(?:/[\w.\-]+)?)(?:\?(cls|mean|cls\+mean|pool))?")


def facts_of(name: str) -> EncoderFacts:
    """Facts of an encoder by its name in a study file.

    Parameters
    ----------
    name : str
        A registered name, ``timm:<hub id or architecture>`` or ``transformers:<hub id>``; each optionally followed by
        ``?cls``, ``?mean``, ``?cls+mean`` or ``?pool``, and then by ``@<revision>``.

    Raises
    ------
    ConfigError
        If the name is not known.
    EncoderError
        If a generic name is malformed.
    """
    base, _, revision = name.partition("@")
    if ":" in base:
        match = _GENERIC.fullmatch(base)
        if match is None:
            raise EncoderError(
                f"cannot read encoder {name!r}",
                todo="write timm:<hub id>[?cls+mean][@revision] or transformers:<hub id>",
            )
        source, model, variant = match.groups()
        hub = model if "/" in model else None
        facts = EncoderFacts(
            name=name,
            source=source,
            hub_id=hub if hub is not None or source == "timm" else model,
            dim=None,
            input_px=None,
            mpp=None,
            mean=None,
            std=None,
            variant=variant or "pool",
            architecture=None if hub else model,
        )
    else:
        known, _, variant = base.partition("?")
        facts = _another_variant(ENCODERS[known], variant) if variant else ENCODERS[known]
    if revision and facts.source == "builtin":
        raise EncoderError("builtin has no revisions", todo="write encoder: builtin")
    return replace(facts, name=name, revision=revision or facts.revision)


def _another_variant(facts: EncoderFacts, variant: str) -> EncoderFacts:
    """Facts of a registered encoder that gives other vectors of its tokens."""
    if facts.variant not in VARIANTS or facts.source not in ("timm", "transformers"):
        raise EncoderError(f"{facts.name} gives one kind of vector", todo=f"write encoder: {facts.name}")
    if variant not in VARIANTS:
        raise EncoderError(f"{facts.name} has no variant {variant!r}", todo=f"one of {', '.join(VARIANTS)}")
    width = None if facts.dim is None else facts.dim // (2 if facts.variant == "cls+mean" else 1)
    dim = width if width is None or variant != "cls+mean" else 2 * width
    return replace(facts, variant=variant, dim=dim)


def slug(name: str) -> str:
    """Name of an encoder as a folder: ``timm:a/b@main`` -> ``timm-a-b-main``."""
    return re.sub(r"[^\w.+\-]+", "-", name).strip("-")


def check_scale(
    facts: EncoderFacts, tiles_mpp: float, tile_px: int | None, input_px: int | None, allow: bool = False
) -> float:
    """Scale (um/px) of the pixels the network sees; tiles of another size than its input are resized to it.

    Raises
    ------
    EncoderError
        If that is further than a factor `MPP_TOLERANCE` from every scale the encoder was trained at.
    """
    seen = tiles_mpp * tile_px / input_px if tile_px and input_px else tiles_mpp
    if facts.mpp is None or allow:
        return seen
    if all(max(seen / m, m / seen) > MPP_TOLERANCE for m in facts.mpp):
        trained = " or ".join(f"{m:g}" for m in facts.mpp)
        resized = f" ({tile_px} px at {tiles_mpp:g} resized to {input_px})" if seen != tiles_mpp else ""
        raise EncoderError(
            f"encoder {facts.name} was trained at {trained} um/px and would see {seen:.3g}{resized}",
            todo="change tiles.mpp or tiles.size, or set features.allow_mpp_mismatch: true",
        )
    return seen


def _resolve(features: Features, tiles_mpp: float, tile_px: int | None) -> tuple[EncoderFacts, Weights | None]:
    facts = facts_of(features.encoder or "builtin")
    if facts.source == "student":
        return _made_here(facts, features, tiles_mpp, tile_px)
    if facts.source == "builtin":
        if features.checkpoint is not None:
            raise EncoderError("builtin has no weights", todo="remove features.checkpoint, or name another encoder")
        if features.precision not in ("auto", "float32") or features.runtime != "torch" or features.compile:
            raise EncoderError("builtin has no network", todo="remove features.precision, runtime and compile")
        return facts, None
    if facts.source == "shipped":
        return facts, _in_the_package(facts, features)
    check_scale(facts, tiles_mpp, tile_px, facts.input_px, features.allow_mpp_mismatch)
    from histostudy.encoders.checkpoint import find_weights

    return facts, find_weights(facts, features.checkpoint)


def _in_the_package(facts: EncoderFacts, features: Features) -> Weights:
    from histostudy.encoders.checkpoint import find_weights

    if features.checkpoint is not None or facts.revision is not None:
        raise EncoderError(
            f"the weights of {facts.name} are in the package", todo="remove features.checkpoint and @revision"
        )
    return find_weights(facts, Path(__file__).parent / "weights" / f"{facts.name}.safetensors")


def _made_here(
    facts: EncoderFacts, features: Features, tiles_mpp: float, tile_px: int | None
) -> tuple[EncoderFacts, Weights]:
    """An encoder that `histostudy pretrain` made: what else it is stands beside its weights."""
    from histostudy.encoders.checkpoint import find_weights
    from histostudy.encoders.pretraining.release import CONFIG, WEIGHTS, check_stains

    folder = features.checkpoint
    if folder is None or not (folder / CONFIG).is_file():
        raise EncoderError(
            f"no encoder made here in {folder or 'features.checkpoint'}",
            todo="run `histostudy pretrain` of the study, or give features.checkpoint: the folder of one made before",
        )
    weights = find_weights(facts, folder / WEIGHTS)
    config = weights.config
    px, mpp = int(config["pretrained_cfg"]["input_size"][-1]), config["mpp"]
    known = replace(facts, variant=config["variant"], input_px=px, mpp=None if mpp is None else (float(mpp),))
    check_scale(known, tiles_mpp, tile_px, px, features.allow_mpp_mismatch)
    check_stains(config, features.stain, "features.stain")
    return known, weights


def encoder_identity(
    features: Features, tiles_mpp: float, device: str = "cpu", tile_px: int | None = None
) -> dict[str, Any]:
    """Identity of the vectors, without loading the network (the weights are found and hashed).

    Raises
    ------
    EncoderError
        As `load_encoder`.
    """
    facts, weights = _resolve(features, tiles_mpp, tile_px)
    if weights is None:
        from histostudy.encoders.builtin import identity_at

        return identity_at(tiles_mpp) | {"dtype": features.dtype}
    from histostudy.encoders.vision import identity_of

    return identity_of(facts, weights, runtime=Runtime.on(device, features)) | {"dtype": features.dtype}


def load_encoder(features: Features, tiles_mpp: float, device: str = "cpu", tile_px: int | None = None) -> Encoder:
    """Load the encoder that a study names.

    Parameters
    ----------
    features : histostudy.study.Features
        Uses `encoder`, `checkpoint`, `allow_mpp_mismatch`, `stain`, `dtype`, `precision`, `runtime` and `compile`.
    tiles_mpp : float
        Scale of the tiles, um/px.
    device : str
        ``cpu`` or ``cuda[:i]``.
    tile_px : int, optional
        Side of the tiles; with it the scale that is checked is the one after resizing.

    Raises
    ------
    ConfigError
        If the name is not known.
    EncoderError
        If the weights cannot be had or do not fit, or the scale is not one the encoder was trained at.
    """
    facts, weights = _resolve(features, tiles_mpp, tile_px)
    encoder: Encoder
    if weights is None:
        from histostudy.encoders.builtin import Builtin

        encoder = Builtin(tiles_mpp)
    elif features.runtime == "onnx":
        from histostudy.encoders.onnx import OnnxEncoder

        encoder = OnnxEncoder(facts, weights)
    elif facts.source == "shipped":
        from histostudy.encoders.small import ShippedEncoder

        encoder = ShippedEncoder(facts, weights, device, Runtime.on(device, features), features.batch_size)
    else:
        from histostudy.encoders.vision import VisionEncoder

        encoder = VisionEncoder(facts, weights, device, Runtime.on(device, features), features.batch_size)
    encoder.identity = encoder.identity | {"dtype": features.dtype}
    return encoder
