"""From the name in a study file to a loaded encoder."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from histostudy.encoders.base import MPP_TOLERANCE, Encoder, EncoderFacts
from histostudy.encoders.known import ENCODERS
from histostudy.errors import EncoderError

if TYPE_CHECKING:
    from histostudy.encoders.checkpoint import Weights
    from histostudy.study import Features

__all__ = ["ENCODERS", "check_scale", "encoder_identity", "facts_of", "load_encoder", "slug"]

_GENERIC = re.compile(r"(timm|transformers):([\w.\-]+(?:/[\w.\-]+)?)(?:\?(cls|mean|cls\+mean|pool))?")


def facts_of(name: str) -> EncoderFacts:
    """Facts of an encoder by its name in a study file.

    Parameters
    ----------
    name : str
        A registered name; ``timm:<hub id or architecture>`` or ``transformers:<hub id>``, optionally followed by
        ``?cls``, ``?mean``, ``?cls+mean`` or ``?pool``; each optionally followed by ``@<revision>``.

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
        facts = ENCODERS[base]
    if revision and facts.source == "builtin":
        raise EncoderError("builtin has no revisions", todo="write encoder: builtin")
    return replace(facts, name=name, revision=revision or facts.revision)


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
    if facts.source == "builtin":
        if features.checkpoint is not None:
            raise EncoderError("builtin has no weights", todo="remove features.checkpoint, or name another encoder")
        return facts, None
    check_scale(facts, tiles_mpp, tile_px, facts.input_px, features.allow_mpp_mismatch)
    from histostudy.encoders.checkpoint import find_weights

    return facts, find_weights(facts, features.checkpoint)


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

    return identity_of(facts, weights, device) | {"dtype": features.dtype}


def load_encoder(features: Features, tiles_mpp: float, device: str = "cpu", tile_px: int | None = None) -> Encoder:
    """Load the encoder that a study names.

    Parameters
    ----------
    features : histostudy.study.Features
        Uses `encoder`, `checkpoint`, `allow_mpp_mismatch` and `dtype`.
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
    else:
        from histostudy.encoders.vision import VisionEncoder

        encoder = VisionEncoder(facts, weights, device)
    encoder.identity = encoder.identity | {"dtype": features.dtype}
    return encoder
