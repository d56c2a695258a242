"""Under which licence a study's encoders stand, and what its first page must say of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from histostudy.encoders.known import ENCODERS
from histostudy.report.numbers import listed

Spec = Mapping[str, Any]
#: Names that other tools write, without signs and in small letters, where they are not ours or the hub's.
ALIASES = {
    "univ1": "uni", "univ2": "uni2_h", "uni2": "uni2_h", "conchv1": "conch", "midnight12k": "midnight",
    "hoptimus": "h_optimus_0", "gigapathtile": "gigapath", "resnet50trunc": "resnet50",
}  # fmt: skip
UNKNOWN = "not known here"


@dataclass(frozen=True)
class EncoderUse:
    """An encoder of a study and the terms it stands under.

    Parameters
    ----------
    name : str
        As the study or the feature files name it.
    licence : str
        `UNKNOWN` for one that is not in the registry.
    gated : bool
        Whether its weights are given on request or after terms are accepted.
    how : str
        What it did: ``encoded the tiles``, ``taught the encoder``, ``made the precomputed features``.
    """

    name: str
    licence: str
    gated: bool
    how: str

    @property
    def limits(self) -> str:
        """`non-commercial`, `no derivatives`, both or empty."""
        words = set(re.split(r"[^a-z]+", self.licence.lower()))
        non_commercial = "nc" in words or {"non", "commercial"} <= words or "noncommercial" in words
        found = ["non-commercial"] * non_commercial + ["no derivatives"] * ("nd" in words)
        return ", ".join(found)


def registered_name(name: str) -> str:
    """The name of an encoder in our registry, or as it is where that does not know it.

    ``MahmoodLab/UNI``, ``uni_v1`` (TRIDENT), ``hf-hub:MahmoodLab/uni`` and ``uni@<revision>`` are all ``uni``.
    """
    bare = name.split("@")[0]
    if bare in ENCODERS:
        return bare
    short = _plain(bare.split(":")[-1].split("/")[-1].removesuffix(".h5"))
    ours = {_plain(n): n for n in ENCODERS}
    hub = {_plain(str(ENCODERS[n].hub_id).split("/")[-1]): n for n in reversed(list(ENCODERS)) if ENCODERS[n].hub_id}
    return ours.get(short) or hub.get(short) or ALIASES.get(short) or name


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def encoder_names(study: Spec, stated: Sequence[str] = ()) -> list[str]:
    """Encoders of a study by our names, where they have one."""
    return list(dict.fromkeys(registered_name(use.name) for use in encoders_used(study, stated)))


def encoders_used(study: Spec, stated: Sequence[str] = ()) -> list[EncoderUse]:
    """Encoders whose vectors a study learned from, and those that taught them.

    Parameters
    ----------
    study : mapping
        The resolved study.
    stated : sequence of str
        Encoders that precomputed features name in their files.
    """
    cohort, features = study.get("cohort") or {}, study.get("features") or {}
    simulate = cohort.get("simulate") or {}
    if simulate.get("features") or not (simulate or cohort.get("slides")):
        return []
    if features.get("precomputed"):
        return [_use(name, "made the precomputed features") for name in dict.fromkeys(stated)]
    uses = [_use(str(features["encoder"]), "encoded the tiles")] if features.get("encoder") else []
    teacher = (study.get("pretrain") or {}).get("teacher")
    return uses + ([_use(str(teacher), "taught the encoder")] if teacher else [])


def _use(name: str, how: str) -> EncoderUse:
    ours = registered_name(name)
    if ours not in ENCODERS:
        return EncoderUse(name, UNKNOWN, False, how)
    return EncoderUse(name, ENCODERS[ours].licence, ENCODERS[ours].gated, how)


def licence_notice(uses: Sequence[EncoderUse]) -> str:
    """The line of the first page; empty where no encoder limits what may be done."""
    bound = [f"{use.name} ({use.licence}: {use.limits})" for use in uses if use.limits]
    if not bound:
        return ""
    return (
        f"Limited use: this study rests on {'the encoder' if len(bound) == 1 else 'the encoders'} {listed(bound)}. "
        f"{'Its licence binds' if len(bound) == 1 else 'Their licences bind'} what may be done with the features, the "
        "models and what is built on them."
    )
