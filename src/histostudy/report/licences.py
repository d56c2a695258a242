"""Under which licence a study's encoders stand, and what its first page must say of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from histostudy.encoders.known import ENCODERS
from histostudy.report.numbers import listed
from histostudy.report.pretraining import made_config

Spec = Mapping[str, Any]
#: Names that other tools write, without signs and in small letters, where they are not ours or the hub's.
ALIASES = {
    "univ1": "uni", "univ2": "uni2_h", "uni2": "uni2_h", "conchv1": "conch", "midnight12k": "midnight",
    "hoptimus": "h_optimus_0", "gigapathtile": "gigapath", "resnet50trunc": "resnet50",
}  # fmt: skip
UNKNOWN = "not known here"
#: Precomputed features none of whose files, of those that were read, names an encoder.
UNNAMED = "not named by the files"
TAUGHT, TISSUE = "taught the encoder", "outlined the tissue"
#: Tissue methods whose weights the user brings; the registry records no licence of them.
FOREIGN_TISSUE = ("atlaspatch", "grandqc", "hest")


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
        What it did: ``encoded the tiles``, ``taught the encoder``, ``made the precomputed features``, ``outlined the
        tissue``.
    """

    name: str
    licence: str
    gated: bool
    how: str

    @property
    def limits(self) -> str:
        """`non-commercial`, `no derivatives`, `share alike` and the like; empty where the licence is a free one."""
        words = set(re.split(r"[^a-z]+", self.licence.lower()))
        non_commercial = "nc" in words or {"non", "commercial"} <= words or "noncommercial" in words
        found = ["non-commercial"] * non_commercial + ["no derivatives"] * ("nd" in words)
        found += ["share alike"] * ("sa" in words) + ["conditions of its own"] * bool(words & {"conditions", "dinov"})
        found += ["on request alone"] * ("request" in words)
        return ", ".join(found)


def registered_name(name: str) -> str:
    """The name of an encoder in our registry, or as it is where that does not know it.

    ``MahmoodLab/UNI``, ``uni_v1`` (TRIDENT), ``hf-hub:MahmoodLab/uni``, ``uni@<revision>`` and
    ``uni?<variant>`` are all ``uni``.
    """
    bare = re.split("[?@]", name)[0]
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
    encoder, pretrain = features.get("encoder"), study.get("pretrain") or {}
    if not encoder:
        return []
    if pretrain or registered_name(str(encoder)) != "pretrained":
        return [_use(str(encoder), "encoded the tiles"), *_teachers(pretrain)]
    made = made_config(features.get("checkpoint"))
    licence = "that of the study that made it" if made else UNKNOWN
    return [EncoderUse(str(encoder), licence, False, "encoded the tiles"), *_taught(made)]


def licensed(study: Spec, stated: Sequence[str] = ()) -> list[EncoderUse]:
    """All weights that a study rests on: `encoders_used`, those that nobody names, and a tissue network of others."""
    cohort, features = study.get("cohort") or {}, study.get("features") or {}
    uses = encoders_used(study, stated)
    if features.get("precomputed") and cohort.get("slides") and not uses:
        uses = [EncoderUse(UNNAMED, UNKNOWN, False, "made the precomputed features")]
    method = str((study.get("tissue") or {}).get("method"))
    pixels = bool(cohort.get("slides") or cohort.get("simulate")) and not features.get("precomputed")
    if method in FOREIGN_TISSUE and pixels and not (cohort.get("simulate") or {}).get("features"):
        uses = [*uses, EncoderUse(f"tissue method {method}", UNKNOWN, False, TISSUE)]
    return uses


def _teachers(pretrain: Spec) -> list[EncoderUse]:
    """The teacher of this study's distillation, and who taught it where that was made here before."""
    teacher, made = pretrain.get("teacher"), made_config(pretrain.get("teacher_checkpoint"))
    if pretrain.get("method") not in (None, "distil") or not (teacher or pretrain.get("teacher_checkpoint")):
        return []
    if teacher and registered_name(str(teacher)) != "pretrained":
        return [_use(str(teacher), TAUGHT)]
    licence = "that of the study that made it" if made else UNKNOWN
    return [EncoderUse(str(teacher or made.get("name") or "a teacher made before"), licence, False, TAUGHT)] + [
        use for use in _taught(made) if use.name != teacher
    ]


def _taught(made: Spec) -> list[EncoderUse]:
    """Who taught an encoder that was made before, as the record beside its weights says."""
    told = made.get("teacher")
    if not told:
        return []
    name = str(told.get("encoder") or "a teacher made before")
    if registered_name(name) == "pretrained":  # made here too; who taught that one, this record does not say
        return [EncoderUse(name, UNKNOWN, False, TAUGHT)]
    return [_use(name, TAUGHT)]


def _use(name: str, how: str) -> EncoderUse:
    ours = registered_name(name)
    if ours not in ENCODERS:
        return EncoderUse(name, UNKNOWN, False, how)
    return EncoderUse(name, ENCODERS[ours].licence, ENCODERS[ours].gated, how)


def licence_notice(uses: Sequence[EncoderUse]) -> str:
    """The line of the first page; empty where every licence is known and limits nothing."""
    bound = [
        f"{use.name} ({f'{use.licence}: {use.limits}' if use.limits else 'licence not known here, ask its makers'})"
        for use in uses
        if use.limits or use.licence == UNKNOWN
    ]
    if not bound:
        return ""
    return (
        f"Limited use: this study rests on the weights of {listed(bound)}. "
        f"{'Their licence binds' if len(bound) == 1 else 'Their licences bind'} what may be done with the "
        "features, the models and what is built on them."
    )
