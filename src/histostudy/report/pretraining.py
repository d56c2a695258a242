"""What the methods say of an encoder that the study made itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from histostudy.report.numbers import listed

_HOW = {
    "dino": "by self-distillation over crops (DINO)",
    "ibot": "by self-distillation over crops and masked patches (iBOT)",
    "distil": "by distillation of the encoder {teacher}",
}


def pretraining_text(study: Mapping[str, Any]) -> str:
    """Sentences on how the encoder was made and whose tiles it saw; empty where the study made none.

    Tiles of tested patients among those it learned from make the encoder transductive: their images were seen, their
    outcomes were not. The report must say so.
    """
    pretrain = study.get("pretrain")
    if not pretrain:
        return ""
    network, steps = pretrain["network"], pretrain.get("steps")
    if not pretrain["epochs"]:
        return f"The encoder, a {network}, was not trained at all: a control of what training adds."
    how = _HOW[pretrain["method"]].format(teacher=pretrain.get("teacher") or "made before")
    length = f"{steps:,} steps" if steps else f"{pretrain['epochs']:,} epochs"
    text = f"The encoder, a {network}, was trained for this study {how}, without labels, for {length}"
    if pretrain.get("stain"):
        text += f", on tiles whose stains were normalised ({pretrain['stain']['method']})"
    if pretrain.get("images"):
        return (
            text + ", on a folder of images beside the cohort; whether tested patients are among them the study cannot "
            "tell."
        )
    if where := pretrain.get("where"):
        chosen = [f"{k} {' or '.join(map(str, v)) if isinstance(v, list) else v}" for k, v in where.items()]
        return (
            text + f". It saw tiles of the patients with {listed(chosen)} alone; of tested patients among them it saw "
            "the images, not the outcomes."
        )
    return (
        text + ". It saw tiles of all patients of the cohort, those that were tested among them, without their "
        "outcomes (transductive): what it is worth on patients whose images it never saw was not measured."
    )
